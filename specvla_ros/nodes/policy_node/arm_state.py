"""The last control step of the arm, and where its end effector is; no ROS in it."""

import numpy as np


class LastStep:
    """
    Remembers the control step published last; times are s of a clock that never jumps.

    :param deadline: seconds after which the next action is late, and the arm stands still
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._last: tuple[np.ndarray, float] | None = None
        self._was_late = self._has_begun = False
        self.gripper = 1.0
        self.fault = self.reason = ''

    def begin(self, delta: np.ndarray) -> None:
        """Note a control step, float64 [7], that is about to be published."""
        self.gripper, self._has_begun = float(delta[6]), True

    def go_on(self, delta: np.ndarray, now: float) -> None:
        """Note that the control step that was begun, float64 [7], has just been published."""
        self.fault = self.reason = ''
        self._last, self._was_late = (delta, now), False

    def miss(self, reason: str) -> None:
        """Note that no control step will come in time, and why, before the deadline is over."""
        self._was_late, self.reason = True, reason

    def end(self) -> None:
        """Note that the arm stands still and that nothing is missing."""
        self._last, self.fault, self.reason = None, '', ''
        self._was_late = self._has_begun = False

    @property
    def is_under_way(self) -> bool:
        """Whether an action was published since the last end, or is being published."""
        return self._has_begun

    def is_late(self, now: float) -> bool:
        """Whether the next action is overdue; stays true until it comes or `end` is called."""
        last = self._last
        # The arm stands still by then: a longer deadline that is set later makes it move no more.
        self._was_late |= last is not None and now - last[1] > self.deadline
        return self._was_late

    def delta(self, now: float) -> np.ndarray | None:
        """
        Return the last control step if the arm may still execute it, else None: it is at rest.

        However long ago it was: a pause earns no more motion.
        """
        last = self._last
        return None if last is None or self.is_late(now) else last[0]


class EefPosition:
    """
    Tracks the end effector: the position heard last, and the steps published since.

    Without these a sensor slower than the control period would let several steps lead through
    the same wall, each of them allowed alone. However old that is: walls only ever take motion
    away, so walls by an old position are safer than none after a sensor fell silent.
    """

    def __init__(self) -> None:
        self._position: np.ndarray | None = None

    def hear(self, position: np.ndarray) -> None:
        """Note a position, float64 [3], m, finite or not, that has just been heard."""
        self._position = position

    def go_on(self, translation: np.ndarray) -> None:
        """Note a translation, float64 [3], m, that has just been published."""
        if self._position is not None:
            self._position = self._position + translation

    @property
    def position(self) -> np.ndarray | None:
        """The position, float64 [3], m, finite or not; None if none was ever heard."""
        return self._position
