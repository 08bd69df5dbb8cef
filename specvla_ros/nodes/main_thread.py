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

T = TypeVar('T')


class MainThread:
    """Tasks in the order they were given, run one at a time."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[tuple[Callable[[], Any], Future | None]] = (
            queue.SimpleQueue())
        self._lock = threading.Lock()
        self._is_over = False

    def post(self, task: Callable[[], None]) -> None:
        """Have a task run later; what it raises ends the process."""
        self._tasks.put((task, None))

    def call(self, task: Callable[[], T]) -> T:
        """
        Have a task run, wait for it, and return what it returns or raise what it raises.

        :raises SpecVLAError: the process is ending, the function was not called
        """
        if threading.current_thread() is threading.main_thread():
            return task()
        future: Future = Future()
        with self._lock:
            if self._is_over:
                future.cancel()
            else:
                self._tasks.put((task, future))
        try:
            return future.result()
        except CancelledError as error:
            raise SpecVLAError('the process is ending') from error

    def run(self) -> None:
        """Run what comes, until something raises or a signal comes."""
        future = None
        try:
            while True:
                task, future = self._tasks.get()
                if future is None:
                    task()
                else:
                    _settle(task, future)
        finally:
            self._end(future)

    def _end(self, future: Future | None) -> None:
        """Tell the waiting threads that nothing will come."""
        with self._lock:
            self._is_over = True
            while True:
                if future is not None:
                    future.cancel()
                try:
                    _, future = self._tasks.get_nowait()
                except queue.Empty:
                    return


def _settle(task: Callable[[], Any], future: Future) -> None:
    try:
        future.set_result(task())
    except Exception as error:
        future.set_exception(error)
