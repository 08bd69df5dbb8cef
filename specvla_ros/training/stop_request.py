"""Ctrl-C and SIGTERM as a request: the step at hand is finished and the state saved first."""

from collections.abc import Iterator
import contextlib
from dataclasses import dataclass
import signal
import threading
from types import FrameType


@dataclass(slots=True)
class StopRequest:
    """Whether the user has asked to stop."""

    made: bool = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first is noted, the second interrupts at once."""
        if self.made:
            raise KeyboardInterrupt
        self.made = True


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Give the request that Ctrl-C and SIGTERM make from now on; a second one interrupts."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # Python allows no handler here
        yield request
        return
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
