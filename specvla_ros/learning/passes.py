"""How many passes an action would take if one whole guess were all that is drafted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def passes_alone(guessed: NDArray[np.integer], said: NDArray[np.integer]) -> NDArray[np.int64]:
    """
    Count the target's passes under a strict rule, [N], the prefill counted.

    A guess at all L tokens of an action is verified from the first token on, then again from the
    one behind each rejected token, as `GlanceDrafter` proposes it. The other drafters of a preset
    save passes as well, so the count is no forecast; of two guesses it says which one is better.

    :param guessed: [N, L]; said: the target's own, [N, L]
    """
    right = guessed == said
    length = right.shape[1]
    counts = np.zeros(len(right), np.int64)
    for row, hits in enumerate(right.tolist()):
        known = 0
        while known < length:
            # The token behind an accepted path is the target's bonus, the last one too.
            while known < length - 1 and hits[known]:
                known += 1
            known += 1
            counts[row] += 1
    return counts
