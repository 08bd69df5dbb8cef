"""
Workers that are processes of this machine: a `ProcessPoolExecutor` of one process for each.

One executor for all would be broken by the first process that dies, and take the others and their
jobs with it. One for each loses only what died, and the caller chooses which process does what.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
import contextlib
import multiprocessing
from multiprocessing.connection import Connection
import os
from pathlib import Path
import signal
import sys
import threading
from typing import Any

from specvla_ros.workforce.worker import (
    Failure,
    Job,
    MakeWorker,
    Seat,
    Worker,
    WorkerFailed,
    WorkerLost,
)

_LOOK = 0.02  # seconds between looks for news of a job
_CONTEXT = multiprocessing.get_context('spawn')  # a forked renderer hangs
_starting = threading.Lock()


class Processes(contextlib.AbstractContextManager):
    """Employs processes; make: makes the worker in each of them, picklable; logs: see `Crew`."""

    def __init__(self, make: MakeWorker, logs: Path | None = None) -> None:
        self._make, self._logs = make, logs

    def hire(self, number: int) -> Seat:
        """Start a process; see `Employer`."""
        return _Process(self._make, self._logs and self._logs / f'worker-{number}.log')

    def __exit__(self, *_: object) -> None:
        """All processes have been ended, each at its seat."""


class _Process:
    """One worker process."""

    def __init__(self, make: MakeWorker, log: Path | None) -> None:
        self._news, theirs = _CONTEXT.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(
            1, mp_context=_CONTEXT, initializer=_set_up, initargs=(theirs, log))
        with _starting:  # so that the new child is this one
            before = set(multiprocessing.active_children())
            self._made = self._pool.submit(_begin, make)
            self._process, = set(multiprocessing.active_children()) - before
        self._ending, self._is_over = threading.Lock(), False
        theirs.close()  # so that half a message of a dead process ends in EOFError

    def begin(self) -> None:
        """See `Seat`."""
        self._result(self._made)

    def do(self, job: Job, tell: Callable[[Any], None]) -> Any:
        """See `Seat`."""
        try:
            future = self._pool.submit(_do, job)
        except (BrokenProcessPool, RuntimeError):  # it died between two jobs, or was ended
            raise self._lost() from None
        while not future.done():
            for said in self._heard():
                tell(said)
            wait([future], timeout=_LOOK)
        for said in self._heard():
            tell(said)
        return self._result(future)

    def end(self) -> None:
        """See `Seat`."""
        with self._ending:
            if not self._is_over:
                self._process.kill()
                self._pool.shutdown(wait=True, cancel_futures=True)
                self._is_over = True

    def _heard(self) -> list[Any]:
        """Return what it has said since the last time."""
        heard = []
        with contextlib.suppress(EOFError, OSError):  # it is dead: its future says so
            while self._news.poll():
                heard.append(self._news.recv())
        return heard

    def _result(self, future: Future) -> Any:
        try:
            result = future.result()
        except BrokenProcessPool:
            raise self._lost() from None
        if isinstance(result, Failure):
            raise WorkerFailed(result)
        return result

    def _lost(self) -> WorkerLost:
        self.end()  # so that the exit code is known
        code = self._process.exitcode
        reason = signal.Signals(-code).name if code and code < 0 else f'exit code {code}'
        return WorkerLost(f'the worker process died with {reason}')


# What follows runs in the worker process.
_news: Connection
_worker: Worker


def _set_up(news: Connection, log: Path | None) -> None:
    global _news
    _news = news
    # Ctrl-C reaches the whole process group; the parent alone acts on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if log is not None:
        _redirect_output(log)
    # A parent that was killed tells nothing, and the executor's pipe stays open.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in a worker process
    parent.join()
    os._exit(1)


def _begin(make: MakeWorker) -> Failure | None:
    global _worker
    try:
        _worker = make()
    except Exception as error:  # noqa: BLE001 - told to the parent, which stops the run
        return Failure.of(error)
    return None


def _do(job: Job) -> Any:
    try:
        return _worker.do(job, _news.send)
    except Exception as error:  # noqa: BLE001 - told to the parent, which stops the run
        return Failure.of(error)


def _redirect_output(log: Path) -> None:
    """Send all output, C libraries' included, to a file: it would tear the progress bar."""
    sys.stdout.flush()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
