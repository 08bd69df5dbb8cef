"""Where the bridge's callback leaves actions and the simulation picks them up; no ROS in it."""

from collections import deque
from collections.abc import Set
import threading
from typing import Generic, TypeVar

A = TypeVar('A')

# Far more than a lockstep policy sends; when it is full, the oldest action is dropped.
_CAPACITY = 64


class ActionInbox(Generic[A]):
    """
    Holds actions by the stamp (ns) of the image they answer; gives each at most once.

    Stamps only name images here, and are never compared: the clock may jump while an arm moves.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._actions: deque[tuple[int, A, int]] = deque(maxlen=_CAPACITY)
        self._shown: list[int] = []
        # Stamp and sequence of the action that `take_newest` gave last.
        self._taken: tuple[int | None, int] = None, -1
        self.n_unasked = 0

    def begin_episode(self) -> None:
        """Forget everything: no image of the episode before can be answered any more."""
        with self._condition:
            self._actions.clear()
            self._shown.clear()
            self._taken = None, -1
            self.n_unasked = 0

    def put(self, stamp: int, action: A, sequence: int = -1) -> None:
        """
        Leave an action that answers the image of that stamp.

        :param sequence: its number; further steps of the same answer have greater ones
        """
        with self._condition:
            self._actions.append((stamp, action, sequence))
            self._condition.notify()

    def wait_for(self, stamps: Set[int], timeout: float) -> A | None:
        """Wait for the answer to one of these images, and drop all others; None after a while."""
        with self._condition:
            self._condition.wait_for(lambda: self._find(stamps) is not None, timeout)
            action = self._find(stamps)
            self.n_unasked += sum(stamp not in stamps for stamp, *_ in self._actions)
            self._actions.clear()
            return action

    def show(self, stamp: int) -> None:
        """Note an image that `take_newest` may give the answer to."""
        with self._condition:
            self._shown.append(stamp)

    def take_newest(self) -> A | None:
        """
        Return the action that answers the image shown last of all that are answered.

        A policy that executes an answer over time sends its steps one by one. They count until a
        newer image is answered.
        """
        with self._condition:
            taken, number = self._taken
            known = [taken, *self._shown]
            answers = {stamp: (action, sequence) for stamp, action, sequence in self._actions
                       if stamp in self._shown or (stamp == taken and sequence > number)}
            self._actions.clear()
            if not answers:
                return None
            newest = max(map(known.index, answers))
            stamp = known[newest]
            action, sequence = answers[stamp]
            del self._shown[:newest]  # older ones are out of date from now on
            self._taken = stamp, sequence
            return action

    def _find(self, stamps: Set[int]) -> A | None:
        return next((action for stamp, action, _ in self._actions if stamp in stamps), None)
