"""What the arm is doing, as far as it was told; no ROS in it."""

import time

import numpy as np


class Motion:
    """
    What the arm was told last, and when.

    :param deadline: seconds after which the next action is late, and the arm stands still
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._last: tuple[np.ndarray, float] | None = None
        self.gripper = 1.0
        self.fault = ''

    def go_on(self, delta: np.ndarray) -> None:
        """Note a control step, float64 [7], that has just been published."""
        self.gripper, self.fault = float(delta[6]), ''
        self._last = delta, time.monotonic()

    def end(self) -> None:
        """Note that the arm stands still and that nothing is missing."""
        self._last, self.fault = None, ''

    @property
    def is_under_way(self) -> bool:
        """Whether an action was published since the last end."""
        return self._last is not None

    @property
    def is_late(self) -> bool:
        """Whether the next action should have come."""
        last = self._last
        return last is not None and time.monotonic() - last[1] > self.deadline

    @property
    def delta(self) -> np.ndarray | None:
        """The last control step if the arm may still carry it out, else None."""
        last = self._last
        return None if last is None or self.is_late else last[0]
