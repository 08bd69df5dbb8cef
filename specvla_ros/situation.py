"""What the robot knows when an action is decoded: read by rules, guards and drafters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import nan

_RECENT = 10  # control steps to remember: half a second at LIBERO's 20 Hz


@dataclass(frozen=True, slots=True)
class Situation:
    """
    What the robot knows when an action is decoded; None = not known.

    stamp: when the camera frame was taken, s. eef_position: of the end effector, m [3].
    previous: the delta executed last, m, rad and gripper [action_dim]; None at the start.
    steps: control steps executed since the start of the episode.
    executed: how many steps of the last action were executed; None = all.
    firm_steps: how many steps of this action are firm: the next action says the others again
        before they are executed. None = all.
    recent: the last deltas [up to 10, action_dim], oldest first, ``previous`` at the end.
    risk: of the action before, see ``DecodeTrace.risk``.
    limits: what the safety envelope leaves of the next steps, see ``safety_guard``; () = all.
    free_bins: of the L tokens, lowest and highest bin that need no guard, see ``bin_limits``;
        () = not known.
    """

    stamp: float | None = None
    eef_position: tuple[float, float, float] | None = None
    previous: tuple[float, ...] | None = None
    steps: int = 0
    executed: int | None = None
    firm_steps: int | None = None
    # What led here tells no two moments apart: it is no part of what makes them equal.
    recent: tuple[tuple[float, ...], ...] = field(default=(), compare=False)
    risk: float | None = field(default=None, compare=False)
    limits: tuple[float, ...] = ()
    free_bins: tuple[tuple[int, int], ...] = ()

    def after(self, steps: Sequence[Sequence[float]]) -> Situation:
        """Return the situation once these steps [n, action_dim] were executed."""
        done = tuple(map(tuple, steps))
        if not done:
            return self
        return replace(self, previous=done[-1], steps=self.steps + len(done),
                       recent=(*self.recent, *done)[-_RECENT:])

    def numbers(self, action_dim: int) -> tuple[float, ...]:
        """Stamp, eef_position, steps, previous delta [5 + action_dim], NaN = unknown; limits."""
        return (
            nan if self.stamp is None else self.stamp,
            *(self.eef_position or (nan,) * 3),
            float(self.steps),
            *(self.previous or (nan,) * action_dim),
            *self.limits,
        )


UNKNOWN = Situation()
