"""The last actions, of what a glance network saw and what the target said: bounded memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor


class KeptActions:
    """
    The last actions, up to a number; the oldest makes room for the newest.

    What was seen is kept condensed, as `GlanceHead.condense` gives it: of the embedded checkpoint
    2.4 kB an action, of a 7B 12 kB, where the patches would be 16 kB and 2 MB.
    """

    def __init__(self, most: int, features: int, length: int) -> None:
        self._features = np.zeros((most, features), np.float16)
        self._columns = np.zeros((most, length), np.int16)
        self._next = self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes that it holds, full or not."""
        return self._features.nbytes + self._columns.nbytes

    def put(self, features: NDArray[np.float16], columns: NDArray[np.int16]) -> None:
        """Take in an action: what was seen [F], what was said [L], bins."""
        self._features[self._next], self._columns[self._next] = features, columns
        self._next = (self._next + 1) % len(self._features)
        self._count = min(self._count + 1, len(self._features))

    def draw(self, random: np.random.Generator, batch: int) -> tuple[Tensor, Tensor]:
        """Draw actions: float32 [B, F] and int64 [B, L]."""
        rows = random.integers(0, self._count, batch)
        return (torch.from_numpy(self._features[rows].astype(np.float32)),
                torch.from_numpy(self._columns[rows].astype(np.int64)))
