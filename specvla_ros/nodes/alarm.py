"""A timer that rings once each time it is set."""

from collections.abc import Callable
import threading

from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

_NEVER = 3600.0  # s; a timer can't be made without a period


class Alarm:
    """
    Calls back in the executor's thread; may be set from any thread.

    :param group: of the callback; None: the node's default group
    """

    def __init__(
            self, node: Node, group: CallbackGroup | None, callback: Callable[[], None]) -> None:
        self._node, self._callback, self._lock = node, callback, threading.Lock()
        self._timer = node.create_timer(
            _NEVER, self._ring, callback_group=group,
            clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._timer.cancel()

    def set(self, delay: float) -> None:
        """Ring after `delay` seconds of real time; this replaces the time that was set before."""
        with self._lock:
            if self._timer is not None:
                self._timer.timer_period_ns = max(0, round(delay * 1e9))
                self._timer.reset()

    def destroy(self) -> None:
        """Ring no more."""
        with self._lock:
            if self._timer is not None:
                self._node.destroy_timer(self._timer)
                self._timer = None

    def _ring(self) -> None:
        with self._lock:
            if self._timer is None:
                return
            self._timer.cancel()
        self._callback()
