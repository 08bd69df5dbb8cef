"""Relaxed by what the robot is about: tight near contact, wide in free motion."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import hypot

from specvla_ros.action_space import ActionSpace
from specvla_ros.situation import Situation

from . import check_number, RULES
from .bins import Bins


@RULES.register('phase')
@dataclass(frozen=True, slots=True)
class Phase:
    """
    Allows ``near`` bins at the start, after a slow step or a gripper change, else ``free`` bins.

    near, free: bins. slow_mm: a control step is slow whose translation is at most so long, mm.
    gripper: share of its way; a larger change is an event. The gripper's token is exact.

    It may touch something after a slow step, and as long as an event is among the steps of
    ``Situation.recent`` (10 at most); so is an episode's start, where nothing is known yet. It has
    no contact sensor. It sees a gripper event only after the model has said it; before that, only
    the slow steps make it use ``near``. ``near`` holds for all control steps of an action.
    """

    near: int = 3
    free: int = 15
    slow_mm: float = 5.0
    gripper: float = 0.25

    def __post_init__(self) -> None:
        check_number('phase', 'free', self.free, 0, float('inf'), whole=True)
        check_number('phase', 'near', self.near, 0, self.free, whole=True)
        check_number('phase', 'slow_mm', self.slow_mm, 0.0, float('inf'))
        check_number('phase', 'gripper', self.gripper, 0.0, 1.0)

    def reach(self, space: ActionSpace, situation: Situation) -> tuple[int, ...]:
        """Return ``near`` or ``free``, and 0 for the gripper."""
        return Bins(self.near if self._is_near(situation) else self.free).reach(space, situation)

    def _is_near(self, situation: Situation) -> bool:
        recent = situation.recent
        if not recent or 1e3 * hypot(*recent[-1][:3]) <= self.slow_mm:
            return True
        return any(abs(new[-1] - old[-1]) > self.gripper for old, new in pairwise(recent))
