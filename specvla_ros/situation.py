"""What the robot knows when an action is decoded: read by rules, guards and drafters."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import nan


@dataclass(frozen=True, slots=True)
class Situation:
    """
    What the robot knows when an action is decoded; None = not known.

    stamp: when the camera frame was taken, s. position: of the end effector, m [3].
    previous: the delta carried out last, m, rad and gripper [action_dim]; None at the start.
    steps: control steps carried out since the start of the episode.
    carried: of the steps of the last action, how many of them; None = all.
    firm_steps: of the steps of this action, how many are firm: the next action says the others
        again before they are carried out. None = all.
    recent: the last deltas [up to 10, action_dim], oldest first, ``previous`` at the end.
    risk: of the action before, see ``DecodeTrace.risk``.
    limits: what the safety envelope leaves of the next steps, see ``safety_guard``; () = all.
    """

    stamp: float | None = None
    position: tuple[float, float, float] | None = None
    previous: tuple[float, ...] | None = None
    steps: int = 0
    carried: int | None = None
    firm_steps: int | None = None
    # What led here tells no two moments apart: it is no part of what makes them equal.
    recent: tuple[tuple[float, ...], ...] = field(default=(), compare=False)
    risk: float | None = field(default=None, compare=False)
    limits: tuple[float, ...] = ()

    def numbers(self, action_dim: int) -> tuple[float, ...]:
        """Stamp, position (3), steps, previous delta: [5 + action_dim], NaN = unknown; limits."""
        return (
            nan if self.stamp is None else self.stamp,
            *(self.position or (nan,) * 3),
            float(self.steps),
            *(self.previous or (nan,) * action_dim),
            *self.limits,
        )


UNKNOWN = Situation()
