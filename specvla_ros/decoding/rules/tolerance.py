"""Relaxed by what a bin is worth: millimetres, degrees, share of the gripper's way."""

from __future__ import annotations

from dataclasses import dataclass
import math

from specvla_ros.action_space import ActionSpace
from specvla_ros.errors import SpecVLAError
from specvla_ros.situation import Situation

from . import check_number, RULES

_TRANSLATIONS = 3  # the first dimensions; the last is the gripper; between them are the rotations
_ROUNDING = 1e-9  # bins: a tolerance of three bins is three, whatever the division's last bit


@RULES.register('tolerance')
@dataclass(frozen=True, slots=True)
class Tolerance:
    """
    Tokens within a distance of the target's own may stay, each axis by itself.

    mm: along each of x, y and z of each control step, at least 0. deg: of each of its three
        rotation numbers, at least 0. gripper: share of its way from closed to open, 0 to 1;
        0 = the target's own token.

    The distance is from what the target says after the same tokens, and is rounded down to whole
    bins of that dimension. The bound is of axes, not of the vector: a step's translation is off by
    at most sqrt(3) · ``mm``. In a chunk each step keeps the bound by itself, so the position after
    k steps is off by at most k · ``mm`` along each axis.
    """

    mm: float = 2.0
    deg: float = 0.5
    gripper: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (('mm', math.inf), ('deg', math.inf), ('gripper', 1.0)):
            check_number('tolerance', name, getattr(self, name), 0.0, most)

    def reach(self, space: ActionSpace, situation: Situation) -> tuple[int, ...]:
        """Return whole bins within the tolerance; raise SpecVLAError if none has a size."""
        if not space.bin_si:
            raise SpecVLAError('the rule tolerance needs to know what a bin is worth, but this '
                               'action space has no bin_si; take the rule bins')
        rotations = space.action_dim - _TRANSLATIONS - 1
        limits = (*[self.mm / 1e3] * _TRANSLATIONS, *[math.radians(self.deg)] * rotations)
        limits = *limits[: space.action_dim - 1], self.gripper
        return space.chunk * tuple(
            _bins(limit, worth, space.tokenizer.n_bins - 1)
            for limit, worth in zip(limits, space.bin_si, strict=True))


def _bins(limit: float, worth: float, most: int) -> int:
    """Whole bins within a limit; in a dimension that never moves all are, unless it is exact."""
    if not limit:
        return 0
    return most if limit >= most * worth else int(limit / worth + _ROUNDING)
