"""
Work for the main thread, handed over from callbacks.

Signals are handled in the main thread, so whatever takes long (loading, inference) runs there and
ends at once on Ctrl-C; and torch and CUDA see a single thread. No ROS in it.
"""

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
import queue
import threading
from typing import Any, TypeVar

from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes import waiting

T = TypeVar('T')


class MainThread:
    """Runs functions in the order they were given, one at a time."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future | None]] = (
            queue.SimpleQueue())
        self._lock = threading.Lock()
        self._is_over = False

    def post(self, function: Callable[[], None]) -> None:
        """Have a function run later; what it raises ends the process."""
        self._calls.put((function, None))

    def call(self, function: Callable[[], T]) -> T:
        """
        Have a function run, wait for it, and return what it returns or raise what it raises.

        :raises SpecVLAError: the process is ending, the function was not called
        """
        if threading.current_thread() is threading.main_thread():
            return function()
        future: Future = Future()
        with self._lock:
            if self._is_over:
                future.cancel()
            else:
                self._calls.put((function, future))
        try:
            return future.result()
        except CancelledError as error:
            raise SpecVLAError('the process is ending') from error

    def run(self) -> None:
        """Run what comes, until something raises or a signal comes."""
        future = None
        try:
            while True:
                function, future = waiting.until(self._next)
                if future is None:
                    function()
                else:
                    _settle(function, future)
        finally:
            self._end(future)

    def _next(self, seconds: float) -> tuple[Callable[[], Any], Future | None] | None:
        try:
            return self._calls.get(timeout=seconds)
        except queue.Empty:
            return None

    def _end(self, future: Future | None) -> None:
        """Tell the waiting threads that nothing will come."""
        with self._lock:
            self._is_over = True
            while True:
                if future is not None:
                    future.cancel()
                try:
                    _, future = self._calls.get_nowait()
                except queue.Empty:
                    return


def _settle(function: Callable[[], Any], future: Future) -> None:
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
