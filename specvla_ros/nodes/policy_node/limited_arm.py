"""The arm as the pilot moves it: inside the envelope, or by the fallback; no ROS in it."""

import numpy as np

from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes.policy_node.arm_state import EefPosition, LastStep
from specvla_ros.nodes.policy_node.inference import Arm, ControlSteps
from specvla_ros.safety import fit, SafeAction, step_limits, StepLimits
from specvla_ros.safety_settings import SafetySettings


class LimitedArm:
    """
    Knows what was published last, so what may come next; times are s of a clock that never jumps.

    :param arm: publishes
    :param period_s: the control period of the data set
    """

    def __init__(self, arm: Arm, safety: SafetySettings, period_s: float) -> None:
        self._arm, self._period = arm, period_s
        self.last_step, self._eef = LastStep(0.0), EefPosition()
        self.set_safety(safety)

    def set_safety(self, safety: SafetySettings) -> None:
        """Let only what fits this envelope through from now on."""
        self._safety = safety
        self.last_step.deadline = self.deadline

    @property
    def deadline(self) -> float:
        """Seconds after a control step within which the next one must come."""
        return self._safety.deadline_periods * self._period

    def hear_position(self, position: np.ndarray) -> None:
        """Note where the end effector is, float64 [3], m, finite or not, in the actions' frame."""
        self._eef.hear(position)

    def limits(self, now: float) -> tuple[np.ndarray | None, StepLimits]:
        """Return where the end effector is, m, None = not known, and what the next step may be."""
        heard = self._eef.position
        known = None if heard is None or not np.isfinite(heard).all() else heard
        return known, step_limits(self._safety, self._period, position_m=known,
                                  previous=self.last_step.delta(now))

    def fit(self, deltas: np.ndarray, now: float, stands: bool) -> SafeAction:
        """
        Return control steps, inside the envelope.

        :param deltas: float64 [steps, 7], SI
        :param stands: the arm stands still before them, whatever was published last
        :raises SpecVLAError: they must not be executed
        """
        before = None if stands else self.last_step.delta(now)
        safe = fit(deltas, self._safety, self._period, previous=before,
                   position_m=self._eef.position)
        if safe.deltas is None:
            raise SpecVLAError(safe.refusal)
        return safe

    def move(self, steps: ControlSteps) -> float:
        """Publish control steps that fit; return when they were, s."""
        # Ctrl-C may come in the middle of it: the arm moves by then, and must come to rest.
        self.last_step.begin(steps.deltas[-1])
        published = self._arm.move(steps)
        self.last_step.go_on(steps.deltas[-1], published)
        self._eef.go_on(steps.deltas[:, :3].sum(axis=0))
        return published

    def come_to_rest(self) -> None:
        """Do what the fallback says, once, if the arm is under way; nothing is missing then."""
        if self.last_step.is_under_way:
            self.stand_still()
        self.last_step.end()

    def watch(self, now: float, came: float) -> str:
        """
        Do what the fallback says while actions are missing; to be called every control period.

        :param came: s, when the last image came
        :returns: the fault, if it is new, else ''
        """
        if not self.last_step.is_late(now):
            return ''
        new = ''
        if not self.last_step.fault:
            what = 'image' if now - came > self.deadline else 'action'
            new = self.last_step.fault = self.last_step.reason or (
                f'no {what} for more than {self.deadline:.3g} s '
                f'(deadline_periods {self._safety.deadline_periods:g})')
        self.stand_still()
        return new

    def stand_still(self) -> None:
        """Publish what the fallback says."""
        if self._safety.fallback != 'none':
            self._arm.stand_still(self.last_step.gripper, self._safety.fallback == 'hold')
