"""
A topic while it is recorded: which publishers are heard, and what is said about the others.

A subscription hears the publishers that offer at least what it asks for. If it asks for less, it
loses images of the publishers that offer more. So there is one subscription for each kind of
offer, also for those that come later. A message that two of them hear is recorded once. No ROS in
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

_REMEMBERED = 1000  # messages: far more than two subscriptions are apart


class Offer(NamedTuple):
    """What a publisher promises about delivery; strongest last when sorted."""

    reliable: bool
    latched: bool

    def __str__(self) -> str:
        return (f'{"reliable" if self.reliable else "best_effort"}, '
                f'{"transient_local" if self.latched else "volatile"}')


class Publisher(NamedTuple):
    """A publisher of a topic; kind: the message type, depth: 0 if it isn't known."""

    kind: str
    offer: Offer
    depth: int = 0


class RecordedTopic:
    """
    A topic under recording: its publishers, and what was said about them.

    kind: the message type it is recorded as, '' before there is one. notes: lines for the user;
    the caller prints and empties them.

    :param problem_of: why a message type can't be recorded, '' where it can
    """

    def __init__(self, name: str, problem_of: Callable[[str], str]) -> None:
        self.name, self.kind = name, ''
        self.notes: list[str] = []
        self._problem_of = problem_of
        self._refused: set[str] = set()
        self._heard: set[Offer] = set()
        self._came: dict[tuple[int, int], None] = {}

    def look(self, publishers: Sequence[Publisher]) -> list[Offer]:
        """Take in who publishes now; return the offers that need a subscription from now on."""
        for kind in dict.fromkeys(publisher.kind for publisher in publishers):
            self._choose(kind)
        offers = {p.offer for p in publishers if p.kind == self.kind} - self._heard
        if offers and self._heard:
            self.notes.append(f'{self.name}: a publisher with another QoS came '
                              f'({"; ".join(map(str, sorted(offers)))}); it is recorded too')
        self._heard |= offers
        return sorted(offers)

    def refuse(self, problem: str) -> None:
        """Give its message type up after all."""
        self.notes.append(f'{self.name} is not recorded: {problem}')
        self._refused.add(self.kind)
        self.kind = ''
        self._heard.clear()

    def is_new(self, sent: int, number: int) -> bool:
        """
        Whether a message has not come by another subscription.

        :param sent: its publisher's time stamp, ns; number: its publisher's count. Both 0 where
            the middleware doesn't tell
        """
        key = sent, number
        if key == (0, 0):
            return True
        if key in self._came:
            return False
        self._came[key] = None
        if len(self._came) > _REMEMBERED:
            del self._came[next(iter(self._came))]
        return True

    def _choose(self, kind: str) -> None:
        if kind == self.kind or kind in self._refused:
            return
        if self.kind:
            self._refused.add(kind)
            self.notes.append(f'{self.name}: messages of type {kind} are not recorded; the topic '
                              f'is recorded as {self.kind}, and a recorded topic has one type')
            return
        self.kind = kind
        if problem := self._problem_of(kind):
            self.refuse(problem)
