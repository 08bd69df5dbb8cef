"""What a crew knows of jobs, of workers, and of the ways in which a worker fails."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
import traceback
from types import TracebackType
from typing import Any, Protocol

from specvla_ros.errors import one_line, SpecVLAError


class Job(Protocol):
    """Something to do, picklable."""

    @property
    def place(self) -> tuple[Hashable, ...]:
        """
        Where it belongs, what is costly to change first: e.g. suite, task, initial state.

        A worker is given the jobs that have most in common with its last one.
        """
        ...


class Worker(Protocol):
    """Does jobs one after the other, and keeps what they share: a simulator, a model."""

    def do(self, job: Any, tell: Callable[[Any], None]) -> Any:
        """
        Do a job and return its result, picklable.

        tell: takes news of how far it is, picklable; some of them may get lost.
        """
        ...


MakeWorker = Callable[[], Worker]


@dataclass(frozen=True, slots=True)
class Failure:
    """
    Says why a worker can't go on.

    bad_input: it is the user's to put right. details: the traceback, for a log.
    """

    message: str
    bad_input: bool
    details: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Errors of bad input carry their own message; others get their type before it."""
        text = one_line(error)
        ours = isinstance(error, (ValueError, FileNotFoundError)) or \
            type(error).__module__.startswith('specvla_ros')
        return cls(text if ours else f'{type(error).__name__}: {text}', ours,
                   ''.join(traceback.format_exception(error)))


class WorkerFailed(Exception):
    """A worker met an error and said which."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class WorkerLost(Exception):
    """A worker is gone without a word: its process was killed, or its machine is off."""


class WorkersDied(RuntimeError):
    """Workers keep dying, or one met an error that isn't the user's; names the log."""


class Seat(Protocol):
    """One worker of an employer, from its start to its end; used by one thread at a time."""

    def begin(self) -> None:
        """
        Wait until the worker is made.

        :raises WorkerLost: it is gone
        :raises WorkerFailed: it can't be made
        """

    def do(self, job: Job, tell: Callable[[Any], None]) -> Any:
        """
        Let it do a job; return the result.

        :raises WorkerLost: it is gone
        :raises WorkerFailed: it met an error outside of what a job's result may say
        """

    def end(self) -> None:
        """End it, whatever it is at; any thread may call this, and more than once."""


class Employer(Protocol):
    """Gives workers a place to run; entered while there are any."""

    def hire(self, number: int) -> Seat:
        """Return the place of worker `number`; nothing is waited for."""
        ...

    def __enter__(self) -> Employer: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None: ...


def refusal(failure: Failure, see: str) -> Exception:
    """Return what a command raises for a failure; see: where to read more."""
    if failure.bad_input:
        return SpecVLAError(failure.message)
    return WorkersDied(f'{failure.message}{see}')
