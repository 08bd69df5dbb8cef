"""Ctrl-C and SIGTERM mean the same to long commands: keep what is finished and stop in order."""

from collections.abc import Iterator
import contextlib
import signal
from types import FrameType

INTERRUPTED = 130  # the exit code a shell reports for Ctrl-C


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM as well, so that child processes are ended."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
