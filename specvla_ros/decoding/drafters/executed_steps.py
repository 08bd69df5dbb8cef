"""The steps of earlier actions, each once, for drafters that look at the motion step by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class ExecutedSteps:
    """
    Collects actions until somebody asks for their steps, of a chunk those that were executed.

    The next action says the others again. What became of the last action is known only when the
    next one begins, so its steps come in two parts.
    """

    def __init__(self) -> None:
        self._actions: list[tuple[Sequence[int], int | None]] = []  # tokens; steps, None = all

    def remember(self, tokens: Sequence[int]) -> None:
        """Take in an action, [L] tokens."""
        self._actions.append((tuple(tokens), None))

    def note_executed(self, steps: int) -> None:
        """Take only so many steps of the last action; nothing if it was taken already."""
        if self._actions:
            self._actions[-1] = self._actions[-1][0], steps

    def take(self, action_dim: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """
        Return the steps executed since the last call, and those left of the last action.

        Both are tokens, int64 [n, action_dim].
        """
        parts = [np.array(tokens, np.int64).reshape(-1, action_dim)
                 for tokens, _ in self._actions]
        done = [part[:steps] for part, (_, steps) in zip(parts, self._actions, strict=True)]
        empty = np.zeros((0, action_dim), np.int64)
        left = parts[-1][len(done[-1]):] if parts else empty
        self.clear()
        return np.concatenate((empty, *done)), left

    def clear(self) -> None:
        """Forget all actions."""
        self._actions.clear()
