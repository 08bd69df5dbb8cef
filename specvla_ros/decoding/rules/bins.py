"""Relaxed by bins: Spec-VLA's rule (arXiv 2507.22424, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

from specvla_ros.action_space import ActionSpace
from specvla_ros.errors import SpecVLAError
from specvla_ros.situation import Situation

from . import check_number, RULES


@RULES.register('bins')
@dataclass(frozen=True, slots=True)
class Bins:
    """
    Tokens within ``r`` bins of the target's own may stay; r = 0 is strict.

    r: bins, at least 0. Spec-VLA takes 9 for LIBERO Goal, Object and Spatial, 5 for Long.
    gripper_exact: the gripper's token must be the target's own: open and closed are two states,
        not a scale.
    per_step: bins more for each control step from the first one on that the next action says again
        before it is executed (``Situation.firm_steps``); those before it have r. Without effect
        where all steps are executed.
    """

    r: int = 9
    gripper_exact: bool = True
    per_step: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 0:
            raise SpecVLAError(f'r of the rule bins is {self.r!r}, must be a whole number >= 0')
        check_number('bins', 'per_step', self.per_step, 0, float('inf'), whole=True)
        if not isinstance(self.gripper_exact, bool):
            raise SpecVLAError(
                f'gripper_exact of the rule bins is {self.gripper_exact!r}, must be true or false')

    def reach(self, space: ActionSpace, situation: Situation) -> tuple[int, ...]:
        """Return r, of later steps more, and 0 for the gripper."""
        firm = space.chunk if situation.firm_steps is None else situation.firm_steps
        return tuple(
            0 if self.gripper_exact and space.is_gripper(position)
            else self.r + self.per_step * max(0, position // space.action_dim - firm + 1)
            for position in range(space.length))
