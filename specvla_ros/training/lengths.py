"""How long the episodes of a suite are when demonstrations are collected."""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WAITS, _MOVES = 60, 0.01  # steps in which a hand that is at work moves further than this, m


@dataclass(frozen=True, slots=True)
class Lengths:
    """
    Steps of an episode.

    disturbed: pushes come, and a policy drives, before this step; then the expert brings the
    episode to its end. most: longer episodes are stuck and teach nothing.
    """

    disturbed: int
    most: int


class Stuck:
    """
    Says when an expert that drives alone moves no more: a mug that fell over, it can't take.

    :param since: the step from which on it drives alone, undisturbed
    """

    def __init__(self, since: int) -> None:
        self._since, self._places = since, deque[NDArray[np.float64]](maxlen=_WAITS)

    def __call__(self, step: int, hand: NDArray[np.float64]) -> bool:
        """Take in where the hand is after a step, [3] m; return whether it is stuck."""
        if step >= self._since:
            self._places.append(hand)
        return len(self._places) == _WAITS and bool(np.ptp(self._places, axis=0).max() < _MOVES)


# Those of libero_90 are estimates: its expert was not counted yet.
LENGTHS = {
    'libero_spatial': Lengths(110, 240),
    'libero_object': Lengths(110, 220),
    'libero_goal': Lengths(150, 360),
    'libero_10': Lengths(240, 560),
    'libero_90': Lengths(200, 480),
}
