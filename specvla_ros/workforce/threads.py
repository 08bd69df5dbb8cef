"""Workers that are threads of this process: they may share a model."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
from typing import Any

from specvla_ros.workforce.worker import Job, MakeWorker, Seat


class Threads(contextlib.AbstractContextManager):
    """Employs threads; make: makes the worker of each, in that thread. What it raises goes on."""

    def __init__(self, make: MakeWorker) -> None:
        self._make = make

    def hire(self, number: int) -> Seat:
        """See `Employer`."""
        return _Thread(self._make)

    def __exit__(self, *_: object) -> None:
        """Nothing was opened."""


class _Thread:
    """The thread that calls: a crew has one for each worker anyway."""

    def __init__(self, make: MakeWorker) -> None:
        self._make = make

    def begin(self) -> None:
        """See `Seat`."""
        self._worker = self._make()

    def do(self, job: Job, tell: Callable[[Any], None]) -> Any:
        """See `Seat`."""
        return self._worker.do(job, tell)

    def end(self) -> None:
        """See `Seat`; a thread can't be ended: the job at hand is finished."""
