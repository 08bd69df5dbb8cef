"""Relaxed by bins: Spec-VLA's rule (arXiv 2507.22424, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

from specvla_ros.action_space import ActionSpace
from specvla_ros.errors import SpecVLAError
from specvla_ros.situation import Situation

from . import RULES


@RULES.register('bins')
@dataclass(frozen=True, slots=True)
class Bins:
    """
    Tokens within ``r`` bins of the target's own may stay; r = 0 is strict.

    r: bins, at least 0. Spec-VLA takes 9 for LIBERO Goal, Object and Spatial, 5 for Long.
    gripper_exact: the gripper's token must be the target's own: open and closed are two states,
        not a scale.
    """

    r: int = 9
    gripper_exact: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 0:
            raise SpecVLAError(f'r of the rule bins is {self.r!r}, must be a whole number >= 0')
        if not isinstance(self.gripper_exact, bool):
            raise SpecVLAError(
                f'gripper_exact of the rule bins is {self.gripper_exact!r}, must be true or false')

    def reach(self, space: ActionSpace, situation: Situation) -> tuple[int, ...]:
        """Return r, and 0 for the gripper."""
        return tuple(0 if self.gripper_exact and space.is_gripper(position) else self.r
                     for position in range(space.length))
