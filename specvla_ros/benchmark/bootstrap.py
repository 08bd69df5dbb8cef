"""Intervals of figures that are ratios of sums over episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000  # 50 beyond each end of an interval
_SHARE = 0.95


def ratio_intervals(parts: NDArray[np.float64], wholes: NDArray[np.float64], seed: int = 0
                    ) -> list[list[float] | None]:
    """
    Return the 95 % interval of each ratio of sums, by drawing episodes with replacement.

    Actions and passes of one episode are alike, so drawing single ones would promise too much.

    :param parts, wholes: [episodes, figures]; a figure is a sum of parts through its sum of wholes
    :returns: [low, high] each; None where fewer than two episodes have a whole: nothing is known
    """
    if len(parts) < 2:
        return [None] * parts.shape[1]
    weights = _weights(len(parts), seed)
    tops, bottoms = weights @ parts, weights @ wholes
    known = (wholes > 0).sum(axis=0) > 1
    return [_middle(_ratio(tops[:, n], bottoms[:, n])) if known[n] else None
            for n in range(parts.shape[1])]


def difference_interval(
    one: NDArray[np.float64], other: NDArray[np.float64], seed: int = 0
) -> list[float] | None:
    """
    Return the 95 % interval of a ratio less another one, over the same episodes.

    :param one, other: [episodes, 2], parts and wholes
    """
    if len(one) < 2:
        return None
    weights = _weights(len(one), seed)
    return _middle(_ratio(*(weights @ one).T) - _ratio(*(weights @ other).T))


def _weights(episodes: int, seed: int) -> NDArray[np.float64]:
    """Draw episodes with replacement: how often each comes, [draws, episodes]."""
    shares = np.full(episodes, 1 / episodes)
    return np.random.default_rng(seed).multinomial(episodes, shares, DRAWS).astype(float)


def _ratio(tops: NDArray[np.float64], bottoms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ratios; NaN where a draw of episodes has nothing."""
    return np.divide(tops, bottoms, out=np.full(len(tops), np.nan), where=bottoms > 0)


def _middle(values: NDArray[np.float64]) -> list[float]:
    edge = 50 * (1 - _SHARE)
    ends: Any = np.nanpercentile(values, (edge, 100 - edge))
    return [float(end) for end in ends]
