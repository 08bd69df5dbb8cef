"""
Statistics of a feature, as LeRobot has them of each episode and of a whole data set.

Those of the whole set are computed from those of the episodes, as in lerobot's own writer: a
quantile is the mean of the episodes' quantiles, weighted by frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_QUANTILES = {'q01': 0.01, 'q10': 0.1, 'q50': 0.5, 'q90': 0.9, 'q99': 0.99}


@dataclass(frozen=True, slots=True)
class FeatureStatistics:
    """
    Least, most, mean, deviation and quantiles of each dimension.

    count: frames. values: of each name, float64 [D]. shape: in which a value of each dimension is
    written.
    """

    count: int
    values: dict[str, NDArray[np.float64]]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, values: NDArray[Any], count: int, shape: tuple[int, ...] = (-1,)
           ) -> FeatureStatistics:
        """Compute those of values [n, D]; count: of how many frames they are."""
        numbers = values.astype(np.float64)
        named = {'min': numbers.min(0), 'max': numbers.max(0), 'mean': numbers.mean(0),
                 'std': numbers.std(0)}
        quantiles = np.quantile(numbers, list(_QUANTILES.values()), axis=0)
        return cls(count, named | dict(zip(_QUANTILES, quantiles, strict=True)), shape)

    @classmethod
    def together(cls, parts: Sequence[FeatureStatistics]) -> FeatureStatistics:
        """Compute those of all frames from those of one or more parts."""
        counts = np.array([part.count for part in parts])

        def of(name: str) -> NDArray[np.float64]:
            return np.stack([part.values[name] for part in parts])

        def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.average(values, axis=0, weights=counts)

        middle = mean(of('mean'))
        spread = np.sqrt(mean(of('std') ** 2 + (of('mean') - middle) ** 2))
        named = {'min': of('min').min(0), 'max': of('max').max(0), 'mean': middle, 'std': spread}
        named |= {name: mean(of(name)) for name in _QUANTILES}
        return cls(int(counts.sum()), named, parts[0].shape)

    def facts(self) -> dict[str, Any]:
        """Return them as lists."""
        return {name: it.reshape(self.shape).tolist() for name, it in self.values.items()} | {
            'count': [self.count]}
