"""Where the bridge's callback leaves actions and the simulation picks them up; no ROS in it."""

from collections import deque
from collections.abc import Set
import threading

import numpy as np

# Far more than a lockstep policy sends; what nobody asked for falls out at the other end.
_CAPACITY = 64


class ActionInbox:
    """Actions by the stamp (ns) of the image they answer; each is handed out at most once."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._actions: deque[tuple[int, np.ndarray]] = deque(maxlen=_CAPACITY)
        self._since = 0
        self.n_unasked = 0

    def begin_episode(self, stamp: int) -> None:
        """Forget everything, and from now on refuse answers to images older than `stamp`."""
        with self._condition:
            self._actions.clear()
            self._since, self.n_unasked = stamp, 0

    def put(self, stamp: int, deltas: np.ndarray) -> None:
        """Leave an action, float64 [chunk, 7], that answers the image of that stamp."""
        with self._condition:
            if stamp < self._since:
                self.n_unasked += 1
                return
            self._actions.append((stamp, deltas))
            self._condition.notify()

    def wait_for(self, stamps: Set[int], timeout: float) -> np.ndarray | None:
        """Wait for the answer to one of these images, and drop all others; None after a while."""
        with self._condition:
            self._condition.wait_for(lambda: self._find(stamps) is not None, timeout)
            deltas = self._find(stamps)
            self.n_unasked += sum(stamp not in stamps for stamp, _ in self._actions)
            self._actions.clear()
            return deltas

    def take_newest(self) -> np.ndarray | None:
        """Return the action that answers the newest image, if it hasn't been handed out."""
        with self._condition:
            if not self._actions:
                return None
            stamp, deltas = max(self._actions, key=lambda entry: entry[0])
            self._actions.clear()
            self._since = stamp + 1
            return deltas

    def _find(self, stamps: Set[int]) -> np.ndarray | None:
        return next((deltas for stamp, deltas in self._actions if stamp in stamps), None)
