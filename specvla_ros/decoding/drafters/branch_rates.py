"""
How often guesses were right, measured: by who guessed, and for which token of the action.

A relay orders the guesses for the prefill by these rates (see ``node_budget``); whoever has to
choose between drafters can read from them what each is worth here and now. Nothing but counts:
the same history gives the same rates. Taking in an action costs some microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_PRIOR_TRIALS = 2.0  # what a first belief counts, in trials


class Branch(NamedTuple):
    """
    Identifies one path of a drafter's tree, from the root to a leaf.

    source: the drafter's name. rank: the leaf's number in the order of the tree, from 0.
    """

    source: str
    rank: int = 0


class BranchRates:
    """
    Measures how often the guess of a branch was right at each position of the action.

    Only positions count where all guesses before were right.

    length: L, tokens of an action. memory: actions after which what was seen counts 1 / e: then
    a branch that was left out for its rate is believed in, and tried, again. first: what is
    believed of a branch before it was tried; of its drafter's second choice half as much, and so
    on.
    """

    def __init__(self, length: int, memory: float = 64.0, first: float = 0.5) -> None:
        self.length = length
        self._kept = float(np.exp(-1 / memory))
        self._first = first
        self.forget()

    def record(
        self, branch: Branch, path: Sequence[int], tokens: Sequence[int], judged: int,
        start: int = 0,
    ) -> int:
        """
        Hold a guess against an action; return how many of its tokens were right, one by one.

        path: guesses at tokens ``start``, ``start + 1`` ...; tokens: what the action became.
        judged: number of tokens that the pass decided, the accepted ones and the bonus; only they
        are compared. Guesses after a wrong one are not counted.
        """
        counts = self._of(branch)
        for number, token in enumerate(path[: max(judged - start, 0)]):
            right = token == tokens[start + number]
            counts[start + number] += (right, 1)
            if not right:
                return number
        return min(len(path), max(judged - start, 0))

    def fade(self) -> None:
        """Let an action go by: what was seen before it counts a little less."""
        self._counts *= self._kept

    def rates(self, branch: Branch) -> list[float]:
        """
        Chance of each of the L tokens.

        Of tokens that were seldom judged what the branch's others say, of a new branch the first
        belief, so no rate is ever 0 or 1.
        """
        counts = self._of(branch)
        belief = self._first / (1 + branch.rank)
        hits, trials = counts.sum(0)
        overall = (hits + belief * _PRIOR_TRIALS) / (trials + _PRIOR_TRIALS)
        rates = (counts[:, 0] + overall * _PRIOR_TRIALS) / (counts[:, 1] + _PRIOR_TRIALS)
        return rates.tolist()

    def forget(self) -> None:
        """Believe as at first."""
        self._rows: dict[Branch, int] = {}
        self._counts = np.zeros((0, self.length, 2))

    def _of(self, branch: Branch) -> NDArray[np.float64]:
        """Hits and trials of a branch by token, [L, 2]; a view."""
        row = self._rows.setdefault(branch, len(self._rows))
        if row >= len(self._counts):
            more = np.zeros((max(4, len(self._counts)), self.length, 2))
            self._counts = np.concatenate((self._counts, more))
        return self._counts[row]
