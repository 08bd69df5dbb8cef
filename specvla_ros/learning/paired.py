"""Two measurements of the same things, and how sure their difference is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

# Student's t, the 97.5th percentile, of 1 to 30 degrees of freedom; of more it is a little less.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
      2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
      2.052, 2.048, 2.045, 2.042)


@dataclass(frozen=True, slots=True)
class Paired:
    """
    Means before and after, over stretches that both measured, and the change between them.

    low, high: 95 % interval of the change (Student's t over the differences of the stretches);
    None where there are fewer than two.
    """

    before: float
    after: float
    change: float
    low: float | None
    high: float | None

    @classmethod
    def of(
        cls, before: Sequence[float] | NDArray[np.float64],
        after: Sequence[float] | NDArray[np.float64],
    ) -> Paired:
        """Compare means of stretches, [n] each."""
        old, new = np.asarray(before, np.float64), np.asarray(after, np.float64)
        differences, half = new - old, None
        if len(differences) > 1:
            freedom = len(differences) - 1
            spread = float(differences.std(ddof=1)) / math.sqrt(len(differences))
            half = spread * _T[min(freedom, len(_T)) - 1]
        change = float(differences.mean())
        low, high = (None, None) if half is None else (change - half, change + half)
        return cls(float(old.mean()), float(new.mean()), change, low, high)

    @property
    def is_less(self) -> bool:
        """Whether the whole interval lies below zero."""
        return self.high is not None and self.high < 0

    @property
    def is_more(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.low is not None and self.low > 0

    def percent(self) -> tuple[float, float | None, float | None]:
        """Return change, low and high in per cent of the mean before."""
        low, high = (None if bound is None else 100 * bound / self.before
                     for bound in (self.low, self.high))
        return 100 * self.change / self.before, low, high
