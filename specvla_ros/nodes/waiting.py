"""
Waits of a main thread that a signal ends for sure; no ROS in it.

Python looks for signals between two steps of its own. One that comes after the last look and
before a wait has begun is noted, but wakes nothing: a wait without an end would never see it. So
waits are short, and are begun again.
"""

from collections.abc import Callable
import threading
from typing import TypeVar

PERIOD = 0.1  # s that such a signal waits at most

T = TypeVar('T')


def until(attempt: Callable[[float], T | None]) -> T:
    """Call `attempt`, with the seconds it may wait, until it returns something true; return it."""
    while not (result := attempt(PERIOD)):
        pass
    return result


def for_ever() -> None:
    """Wait until a signal's handler raises."""
    until(threading.Event().wait)
