"""How long a node has listened; no ROS in it."""

import time

PERIOD = 0.5  # s between two notes, at the most, of a node that listens
_MOST = 2 * PERIOD  # s that count between two notes


class Listening:
    """
    A clock that goes only while callbacks run.

    A callback that loads a checkpoint takes seconds, and nothing is heard meanwhile. Those seconds
    don't count as silence of a publisher.

    """

    def __init__(self) -> None:
        self._last, self._time = time.monotonic(), 0.0

    def note(self) -> float:
        """Note that a callback runs, and return the time, s; to be called every `PERIOD`."""
        now = time.monotonic()
        self._time += min(now - self._last, _MOST)
        self._last = now
        return self._time
