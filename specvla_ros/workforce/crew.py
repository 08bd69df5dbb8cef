"""
A crew does jobs: each of them once, also where workers die.

One thread a worker hands it a job, waits for the result, and hands out the next. The caller alone
sees results and writes files, so workers need no disk in common with it. A job whose worker is
lost goes back to the head of the queue; its result can't come twice, for no other worker has the
job before the first is known to be gone, and what a lost worker still says is not read.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass
import itertools
from pathlib import Path
import queue
import threading
from typing import Any

from specvla_ros.workforce.worker import (
    Employer,
    Job,
    refusal,
    Seat,
    WorkerFailed,
    WorkerLost,
    WorkersDied,
)

MAX_TRIES = 3  # a job that takes so many workers with it is given up
MAX_LOST_STARTS = 3  # workers in a row that were lost before they could do anything
MAX_GIVEN_UP = 2  # jobs in a row that were given up: the others would fare alike
_BACKLOG = 2  # results a worker that wait for the caller; then its thread waits


@dataclass(frozen=True, slots=True)
class News:
    """How far a job is, in its worker's words."""

    job: Any
    said: Any


@dataclass(frozen=True, slots=True)
class Done:
    """A job's result."""

    job: Any
    result: Any


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A job that was lost with its worker too often; said: the last news of it."""

    job: Any
    reason: str
    said: Any = None


Event = News | Done | GivenUp


@dataclass(slots=True, eq=False)
class _Item:
    """A job and what became of it."""

    job: Job
    tries: int = 0
    said: Any = None


class Crew:
    """Does jobs with several workers and hands back news and results as they come."""

    def __init__(self, employer: Employer, size: int, logs: Path | None = None,
                 lifetime: int | None = None) -> None:
        """
        Prepare; nothing is started before `run`.

        :param size: workers at most
        :param logs: folder for what failed workers say
        :param lifetime: jobs after which a fresh worker takes over; None = it stays
        """
        self._employer, self._size, self._logs = employer, size, logs
        self._lifetime = lifetime
        self._change = threading.Condition()  # guards all of the following
        self._queue: list[_Item] = []
        self._left = 0
        self._ended = False
        self._seats: dict[int, Seat] = {}
        self._places: dict[int, tuple[Hashable, ...]] = {}
        self._lost_starts = self._given_up = 0

    def run(self, jobs: Sequence[Job]) -> Generator[Event, None, None]:
        """
        Do all jobs; `Done` or `GivenUp` comes once for each of them, in any order.

        Closing the generator ends all workers.

        :raises SpecVLAError: a worker can't do its work and the user can put it right
        :raises WorkersDied: workers keep dying, or one met an unforeseen error
        """
        self._queue, self._left, self._ended = [_Item(job) for job in jobs], len(jobs), False
        size = min(self._size, len(jobs))
        if not size:
            return
        self._events: queue.Queue[Event | BaseException] = queue.Queue(_BACKLOG * size)
        threads = [threading.Thread(target=self._employ, args=(number,), daemon=True)
                   for number in range(size)]
        with self._employer:
            try:
                for thread in threads:
                    thread.start()
                while self._left:
                    event = self._events.get()
                    if isinstance(event, BaseException):
                        raise event
                    with self._change:
                        self._left -= not isinstance(event, News)
                    yield event
            finally:
                self._stop(threads)

    def _employ(self, number: int) -> None:
        """Keep one place taken, by one worker after the other."""
        try:
            while self._employ_one(number):
                pass
        except WorkerFailed as error:
            self._events.put(refusal(error.failure, self._note(number, error.failure.details)))
        except BaseException as error:  # noqa: BLE001 - raised where the crew is run
            self._events.put(error)

    def _employ_one(self, number: int) -> bool:
        """Let one worker do jobs; return whether another is to follow."""
        seat, item = self._hire(number), None
        if seat is None:
            return False
        try:
            seat.begin()
            for _ in itertools.count() if self._lifetime is None else range(self._lifetime):
                item = self._take(number)
                if item is None:
                    return False
                self._do(seat, item)
                item = None
        except WorkerLost as lost:
            if self._ended:
                return False
            self._bury(number, item, str(lost))
        finally:
            seat.end()
        return True

    def _hire(self, number: int) -> Seat | None:
        with self._change:
            if self._ended:
                return None
            self._seats[number] = seat = self._employer.hire(number)
            return seat

    def _take(self, number: int) -> _Item | None:
        """Wait for a job that is left, and take the one nearest to the worker's last."""
        with self._change:
            self._lost_starts = 0
            # A job that is under way may come back, when its worker is lost.
            self._change.wait_for(lambda: self._queue or self._ended)
            if self._ended:
                return None
            own = self._places.get(number, ())
            others = [place for other, place in self._places.items() if other != number]

            def distance(item: _Item) -> tuple[int, int]:
                place = item.job.place
                return -_shared(own, place), max((_shared(it, place) for it in others), default=0)

            item = min(self._queue, key=distance)
            self._queue.remove(item)
            self._places[number] = item.job.place
            return item

    def _do(self, seat: Seat, item: _Item) -> None:
        def tell(said: Any) -> None:
            item.said = said
            self._events.put(News(item.job, said))

        result = seat.do(item.job, tell)
        self._given_up = 0
        self._events.put(Done(item.job, result))

    def _bury(self, number: int, item: _Item | None, reason: str) -> None:
        """Put a lost worker's job back to be done again; count what gets lost."""
        with self._change:
            self._places.pop(number, None)
            if item is None:
                self._lost_starts += 1
                stop = self._lost_starts >= MAX_LOST_STARTS
            else:
                item.tries += 1
                if item.tries < MAX_TRIES:
                    self._queue.insert(0, item)
                    self._change.notify_all()
                    return
                self._given_up += 1
                stop = self._given_up >= MAX_GIVEN_UP
        if stop:
            raise WorkersDied(f'{reason}{self._note(number)}')
        if item is not None:
            self._events.put(GivenUp(item.job, f'{reason}, {item.tries} times', item.said))

    def _note(self, number: int, details: str = '') -> str:
        """Add details to a worker's log; return where to look."""
        if self._logs is None:
            return ''
        path = self._logs / f'worker-{number}.log'
        if details:
            with path.open('a', encoding='utf-8') as file:
                file.write(details)
        return f'; see {path}' if path.exists() else ''

    def _stop(self, threads: list[threading.Thread]) -> None:
        with self._change:
            self._ended = True
            self._change.notify_all()
            seats = list(self._seats.values())
        for seat in seats:
            seat.end()
        for thread in threads:
            while thread.is_alive():
                while not self._events.empty():  # a thread may wait to tell something
                    self._events.get_nowait()
                thread.join(timeout=0.01)
        self._seats.clear()


def _shared(one: tuple[Hashable, ...], other: tuple[Hashable, ...]) -> int:
    """How many of the first entries two places have in common."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other)))
