"""Statistics of a feature over a data set, as LeRobot's `meta/stats.json` has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class FeatureStatistics:
    """
    Least, most, mean and deviation of each dimension, over all that was taken in.

    :param shape: in which a value of each dimension is written; None = a list
    """

    def __init__(self, shape: tuple[int, ...] | None = None) -> None:
        self._shape, self._count = shape, 0
        self._least = self._most = self._sum = self._squares = np.zeros(0)

    def take(self, values: NDArray[Any]) -> None:
        """Take in values, [n, D]."""
        new = values.astype(np.float64)
        least, most, total, squares = new.min(0), new.max(0), new.sum(0), (new * new).sum(0)
        if self._count:
            least, most = np.minimum(least, self._least), np.maximum(most, self._most)
            total, squares = total + self._sum, squares + self._squares
        self._least, self._most, self._sum, self._squares = least, most, total, squares
        self._count += len(new)

    def facts(self) -> dict[str, Any]:
        """Return them as lists."""
        mean = self._sum / self._count
        spread = np.sqrt(np.maximum(self._squares / self._count - mean * mean, 0))
        named = {'min': self._least, 'max': self._most, 'mean': mean, 'std': spread}
        facts: dict[str, Any] = {
            name: (values if self._shape is None else values.reshape(self._shape)).tolist()
            for name, values in named.items()}
        return facts | {'count': [self._count]}
