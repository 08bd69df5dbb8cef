"""
How loose thresholds may be, from losses: conformal risk control, and a margin for one calibration.

A unit (an episode) has a loss in [0, 1] at every scale of the thresholds. Nothing here knows what
is lost. Units must be exchangeable with those that are to come.

Sources: Angelopoulos et al., "Conformal risk control" (arXiv 2208.02814) for the mean over all
calibrations; Bates et al., "Distribution-free, risk-controlling prediction sets" (arXiv
2101.02703) for a promise that one calibration keeps with a given confidence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-9


def monotone(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """
    Return the largest loss at this scale or at a tighter one: [n, scales], tightest first.

    Risk control asks for losses that don't fall as thresholds loosen. A token accepted early
    changes what the target says later, so a looser threshold may by chance end nearer; this bounds
    the real loss from above, so what it promises holds for that too.
    """
    return np.maximum.accumulate(losses, axis=1)


def holds(losses: NDArray[np.float64], delta: float, confidence: float) -> bool:
    """
    Say whether the losses [n] of one scale promise a risk of at most delta on a new unit.

    Two conditions. n / (n + 1) · mean + 1 / (n + 1) <= delta: then the risk is at most delta in
    the mean over calibrations, some of which have more. And a risk of delta or more would give
    such small losses with a probability of at most 1 - confidence: then at least `confidence` of
    all calibrations have at most delta. confidence 0 leaves the first alone.
    """
    n = len(losses)
    return bool((losses.sum() + 1) / (n + 1) <= delta + _ROUNDING
                and _p_value(losses, delta) <= 1 - confidence + _ROUNDING)


def loosest(losses: NDArray[np.float64], delta: float, confidence: float) -> int | None:
    """
    Return the column of the loosest scale whose promise holds, as that of all tighter ones does.

    :param losses: [n, scales], tightest first; see `monotone`
    :return: None if not even the tightest holds
    """
    found = None
    for column, of_scale in enumerate(losses.T):
        if not holds(of_scale, delta, confidence):
            break
        found = column
    return found


def needed(delta: float, confidence: float) -> int:
    """Return how many units a promise takes at least: that many hold it if none loses anything."""
    for_mean = math.ceil(1 / delta - 1 - _ROUNDING)
    if confidence == 0:
        return max(1, for_mean)
    for_one = math.ceil(math.log(1 - confidence) / math.log(1 - delta) - _ROUNDING)
    return max(1, for_mean, for_one)


def smallest_delta(n: int, confidence: float) -> float:
    """Return the smallest delta that n units can promise, if none of them loses anything."""
    return max(1 / (n + 1), 1 - (1 - confidence) ** (1 / n)) if n else 1.0


@dataclass(frozen=True, slots=True)
class Split:
    """One random split: the scale that one part chose, and what the part kept aside lost."""

    column: int | None
    lost: tuple[float, ...]

    @property
    def risk(self) -> float:
        """Mean loss of the units kept aside."""
        return float(np.mean(self.lost))


def splits(
    losses: NDArray[np.float64], delta: float, confidence: float, count: int, seed: int,
) -> Iterator[Split]:
    """
    Calibrate on a random half of the units, and see what the other half loses, `count` times.

    Where no scale holds there is no preset, so nothing is lost.

    :param losses: [n, scales] as they are, tightest first: `monotone` chooses, these are counted
    """
    random, half = np.random.default_rng(seed), (len(losses) + 1) // 2
    for _ in range(count):
        order = random.permutation(len(losses))
        calibrated, aside = losses[order[:half]], losses[order[half:]]
        column = loosest(monotone(calibrated), delta, confidence)
        lost = np.zeros(len(aside)) if column is None else aside[:, column]
        yield Split(column, tuple(lost.tolist()))


def _p_value(losses: NDArray[np.float64], delta: float) -> float:
    """
    Bound the probability of losses as small as these, were the risk delta.

    Exact for losses of 0 and 1 (binomial); else the Hoeffding-Bentkus inequality.
    """
    n, total = len(losses), float(losses.sum())
    if np.isin(losses, (0.0, 1.0)).all():
        return _binomial(round(total), n, delta)
    mean = min(total / n, delta)
    distance = (1 - mean) * math.log((1 - mean) / (1 - delta))
    distance += mean * math.log(mean / delta) if mean else 0.0
    return min(math.exp(-n * distance),
               math.e * _binomial(math.ceil(total - _ROUNDING), n, delta))


def _binomial(most: int, n: int, p: float) -> float:
    """Probability of at most `most` successes in n tries of probability p."""
    logs = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
            + k * math.log(p) + (n - k) * math.log(1 - p) for k in range(most + 1))
    return min(1.0, math.fsum(map(math.exp, logs)))
