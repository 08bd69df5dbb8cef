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


class MotionModel(ABC):
    """Predicts the next control steps from the last two; also the settings of such a drafter."""

    __slots__ = ()
    name: ClassVar[str]
    weights: ClassVar[str | None] = None

    @abstractmethod
    def ahead(self, steps: NDArray[np.int64], count: int, space: ActionSpace) -> NDArray:
        """Tokens [D] of the ``count``-th step (from 1) after ``steps`` [1 or 2, D]."""

    def drafter(self, weights: None) -> HistoryDrafter:
        """Draft by this motion."""
        return HistoryDrafter(self)


@DRAFTERS.register('history')
@dataclass(frozen=True, slots=True)
class Held(MotionModel):
    """Predicts that the last control step is repeated: the settings of the drafter `history`."""

    name: ClassVar[str] = 'history'

    def ahead(self, steps: NDArray[np.int64], count: int, space: ActionSpace) -> NDArray:
        """Return the last step."""
        return steps[-1]


class PredictingDrafter(Drafter):
    """
    Guess a whole action as one chain, predicted from the actions before it.

    source: the name its guesses carry.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._ahead: list[int] | None = None  # of the next action; None = not predicted yet
        self._said: tuple[int, ...] = ()  # the last action

    def guess(self, context: DraftContext) -> TokenTree:
        """Guess the action from its first token on; nothing before the first action."""
        return self.propose(context)

    def propose(self, context: DraftContext) -> TokenTree:
        """Guess the tokens after those known, whatever these are."""
        if self._ahead is None:
            self._ahead = self._next(context)
        known = len(context.tokens)
        return TokenTree.chain(self._ahead[known : known + context.max_depth], self.source)

    @abstractmethod
    def predict(self, space: ActionSpace) -> list[int]:
        """Return the tokens of the action after those remembered, [L]; none if there are none."""

    def remember(self, tokens: Sequence[int]) -> None:
        """Take in an action, [L] tokens: what was predicted is over."""
        self._ahead, self._said = None, tuple(tokens)

    def reset(self) -> None:
        """Forget all actions."""
        self._ahead, self._said = None, ()

    def _next(self, context: DraftContext) -> list[int]:
        """
        Return the tokens of the action that comes now, [L].

        Of a chunk those not executed were said of the steps that come now: they are said again,
        and the prediction goes on behind them.
        """
        executed = context.situation.executed
        if executed is not None:
            self.note_executed(executed)
        ahead = self.predict(context.space)
        if not ahead or executed is None:
            return ahead
        done = executed * context.space.action_dim
        return [*self._said[done:], *ahead[:done]]


class HistoryDrafter(PredictingDrafter):
    """Guesses the next action with any ``MotionModel``: used by `history` and `velocity`."""

    def __init__(self, motion: MotionModel) -> None:
        super().__init__(motion.name)
        self.motion = motion
        self._tokens: tuple[int, ...] = ()

    def predict(self, space: ActionSpace) -> list[int]:
        """Return the tokens of the action that follows those remembered, [L]."""
        if not self._tokens:
            return []
        steps = np.array(self._tokens).reshape(-1, space.action_dim)[-_STEPS:]
        return np.concatenate(
            [self.motion.ahead(steps, count, space) for count in range(1, space.chunk + 1)]
        ).tolist()

    def remember(self, tokens: Sequence[int]) -> None:
        """Take in an action, [L] tokens; two of them hold two control steps at least."""
        super().remember(tokens)
        self._tokens = (*self._tokens[-len(tokens) :], *tokens)

    def reset(self) -> None:
        """Forget all actions."""
        super().reset()
        self._tokens = ()
