"""
The limits of an envelope, and what bins mean, as the numbers that a guard on a device reads.

`safety` knows the limits and `safety_guard` compares; here they become one row of numbers, on the
host, once an action.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

from specvla_ros.safety import StepLimits

# Less than `fit` allows, so that no rounding stands between the two.
_MARGIN = 1e-6
_FAR = 1e30  # m, to a wall that is not there
_LAST = 254  # the last bin
PARTS = 2  # translation, rotation
NUMBERS = 3 + 5 * 3  # of a part


@dataclass(frozen=True, slots=True)
class BinValues:
    """
    What the bins of the first six dimensions mean: m, and angles as the data set has them, rad.

    lowest: [6] of the first bin. size: [6] of one bin; diagonal: of one of each part. error: how
    far `lowest + bin · size` may be off. rotation: one of `data_sets.ROTATIONS`.
    down, up: [3] the furthest that a translation goes along each axis. longest: no translation is
    longer, m, and no rotation, rad.
    """

    lowest: tuple[float, ...]
    size: tuple[float, ...]
    diagonal: tuple[float, ...]
    error: float
    rotation: str
    down: tuple[float, ...]
    up: tuple[float, ...]
    longest: tuple[float, float]

    @classmethod
    def of(cls, values: NDArray[np.floating], rotation: str) -> BinValues:
        """Read them from what each bin means, [bins, 6], lowest first."""
        values = np.asarray(values, np.float64)
        size = (values[-1] - values[0]) / (len(values) - 1)
        lines = values[0] + np.arange(len(values))[:, None] * size
        ends = np.stack((values[0], values[-1]))
        most = abs(ends).max(axis=0)
        # Turns one after the other turn no further than their sum.
        turn = most[3:].sum() if rotation == 'euler_xyz' else math.hypot(*most[3:])
        return cls(
            tuple(values[0].tolist()), tuple(size.tolist()),
            tuple(np.linalg.norm(size.reshape(PARTS, 3), axis=1).tolist()),
            float(abs(lines - values).max()), rotation,
            tuple(ends[:, :3].min(axis=0).clip(None, 0.0).tolist()),
            tuple(ends[:, :3].max(axis=0).clip(0.0, None).tolist()),
            (math.hypot(*most[:3]), float(turn)))


def part_numbers(limits: StepLimits, bins: BinValues) -> list[list[float]]:
    """
    Return the limits of translation and rotation, [2, 18]: of each

    * squares: how long a completion is made, how long it may be, and how far it may lie from the
      way to the step before;
    * of its three axes: the way to the lower wall, to the upper wall, the step before, the lowest
      bin, the size of a bin.
    """
    parts = []
    for part, a_bin in enumerate(bins.diagonal):
        axes = slice(3 * part, 3 * part + 3)
        longest, change = (
            max(most * (1 - _MARGIN) - 4 * bins.error, 0.0)
            for most in (limits.longest[part], limits.change[part]))
        if min(longest, change) < a_bin:
            # Finer than the bins: an arm at rest could never start. `fit` takes the rest away.
            longest, change = longest + a_bin, change + a_bin
        shorter = max(longest - a_bin, 0.0)
        if part == 1 and bins.rotation == 'euler_xyz':
            # Three turns one after the other turn further than their vector is long, by about
            # half the product of two: a completion keeps away from that.
            shorter *= 1 - min(longest, 1.0) / 2
        low, high = [-_FAR] * 3, [_FAR] * 3
        if part == 0:
            low = [max(wall + 4 * bins.error, -_FAR) for wall in limits.low_m]
            high = [min(wall - 4 * bins.error, _FAR) for wall in limits.high_m]
        parts.append([shorter**2, longest**2, change**2, *low, *high, *limits.before[axes],
                      *bins.lowest[axes], *bins.size[axes]])
    return parts


def free_bins(limits: StepLimits, bins: BinValues) -> tuple[tuple[int, int], ...]:
    """
    Return bins of the next step that need no check, lowest and highest of each dimension.

    If all tokens of a step lie between, neither they nor any beginning of them is forbidden. It is
    a box around the step before, inside everything that `part_numbers` says. (1, 0) where there is
    none; three turns one after the other have none either.
    """
    free: list[tuple[int, int]] = []
    for part, (squares, a_bin) in enumerate(
            zip(part_numbers(limits, bins), bins.diagonal, strict=True)):
        shorter, change = (math.sqrt(squares[it]) * (1 - _MARGIN) for it in (0, 2))
        axes = list(zip(*(squares[3 * it : 3 * it + 3] for it in range(1, 6)), strict=True))
        # A completion lies on the way to the step before, but for its rounding: up to a bin of
        # two axes. The corners of a cube are √3 of its half edge away.
        before = math.hypot(*limits.before[3 * part : 3 * part + 3])
        half = (min(change, shorter - before) - 2 * a_bin) / math.sqrt(3)
        if half < 0 or part == 1 and bins.rotation == 'euler_xyz' or not all(
                _holds(*axis) for axis in axes):
            free += [(1, 0)] * 3
        else:
            free += [_between(half, *axis) for axis in axes]
    return (*free, (0, _LAST))


def _holds(low: float, high: float, before: float, lowest: float, size: float) -> bool:
    """Whether bins and walls of an axis leave no motion and the step before where they are."""
    ends = min(0.0, before), max(0.0, before)
    return (max(low, lowest) <= ends[0] and ends[1] <= min(high, lowest + _LAST * size)
            and size >= 0 and high - low >= 2 * size)


def _between(
    half: float, low: float, high: float, before: float, lowest: float, size: float
) -> tuple[int, int]:
    """Return the bins around the step before along an axis, none beyond a wall."""
    ends = max(before - half, low) - lowest, min(before + half, high) - lowest
    if size == 0:
        return (0, _LAST) if ends[0] <= 0 <= ends[1] else (1, 0)
    first, last = math.ceil(ends[0] / size + _MARGIN), math.floor(ends[1] / size - _MARGIN)
    return max(first, 0), min(last, _LAST)


def can_forbid(limits: StepLimits, bins: BinValues, chunk: int = 1) -> bool:
    """Whether any bin could be forbidden; cheap, for envelopes wider than the bins reach."""
    for length, longest, change in zip(bins.longest, limits.longest, limits.change, strict=True):
        # "No motion" is on the way to the step before: no change is longer than the step.
        if length + 4 * bins.error > (1 - _MARGIN) * min(longest, change):
            return True
    return (any(wall > chunk * way for wall, way in zip(limits.low_m, bins.down, strict=True))
            or any(wall < chunk * way for wall, way in zip(limits.high_m, bins.up, strict=True)))
