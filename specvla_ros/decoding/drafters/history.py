"""
Guesses from the actions before: no training, no features, so the prefill can verify them.

A robot hardly changes its mind within a control step. What it did last, held or moved on at
constant velocity, stands in the mandatory pass beside the prompt; a wrong guess costs its row
there and nothing else. What is left after that pass is guessed from the same prediction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from specvla_ros.action_space import ActionSpace
from specvla_ros.decoding.tree import TokenTree

from .drafter import DraftContext, Drafter, DRAFTERS

_STEPS = 2  # control steps a prediction looks back


class Motion(ABC):
    """How the control steps go on: settings of a drafter that has no weights."""

    __slots__ = ()
    name: ClassVar[str]
    weights: ClassVar[None] = None

    @abstractmethod
    def ahead(self, steps: NDArray[np.int64], count: int, space: ActionSpace) -> NDArray:
        """Tokens [D] of the ``count``-th step (from 1) after ``steps`` [1 or 2, D]."""

    def drafter(self, weights: None) -> HistoryDrafter:
        """Draft by this motion."""
        return HistoryDrafter(self)


@DRAFTERS.register('history')
@dataclass(frozen=True, slots=True)
class Held(Motion):
    """The last step again."""

    name: ClassVar[str] = 'history'

    def ahead(self, steps: NDArray[np.int64], count: int, space: ActionSpace) -> NDArray:
        """Return the last step."""
        return steps[-1]


class HistoryDrafter(Drafter):
    """Guess a whole action as one chain, from what the last ones say by a ``Motion``."""

    def __init__(self, motion: Motion) -> None:
        self.motion = motion
        self._tokens: tuple[int, ...] = ()
        self._ahead: list[int] = []

    def guess(self, context: DraftContext) -> TokenTree:
        """Guess the action from its first token on; nothing before the first action."""
        return self.propose(context)

    def propose(self, context: DraftContext) -> TokenTree:
        """Guess the tokens after those known, whatever these are."""
        if not self._tokens:
            return TokenTree.empty()
        if not self._ahead:
            self._ahead = self._predict(context.space, context.situation.carried)
        known = len(context.tokens)
        return TokenTree.chain(self._ahead[known : known + context.max_depth], self.motion.name)

    def _predict(self, space: ActionSpace, carried: int | None) -> list[int]:
        """
        Return the tokens of the action that follows those remembered, [L].

        carried: steps of the last action that were carried out; None = all. The others are what
        it said of the steps that come now: they are said again, and the motion goes on from them.
        """
        steps = np.array(self._tokens).reshape(-1, space.action_dim)
        carried = space.chunk if carried is None else carried
        return np.concatenate(
            [*steps[len(steps) - space.chunk + carried :],
             *(self.motion.ahead(steps[-_STEPS:], count, space)
               for count in range(1, carried + 1))]
        ).tolist()

    def remember(self, tokens: Sequence[int]) -> None:
        """Take in an action, [L] tokens; two of them hold two control steps at least."""
        self._tokens = (*self._tokens[-len(tokens) :], *tokens)
        self._ahead = []

    def reset(self) -> None:
        """Forget all actions."""
        self._tokens = ()
        self._ahead = []
