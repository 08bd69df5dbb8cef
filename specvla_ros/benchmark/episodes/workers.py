"""
Processes that play episodes: one environment and one policy each.

Two rendered LIBERO environments in one process give wrong pictures without a word, so parallel
means processes. A worker that dies (a segmentation fault of the renderer, the kernel's memory
killer) costs the episode it was playing, which is recorded as a crash, and is replaced.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
from dataclasses import dataclass, field
import multiprocessing
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
import os
from pathlib import Path
import signal
import sys
from typing import Protocol

from specvla_ros.benchmark.records import EpisodeRecord
from specvla_ros.errors import SpecVLAError

# A worker that dies this often without having finished an episode will not get better.
MAX_DEATHS_IN_A_ROW = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """An initial state and the decoders that are to play it, in this order."""

    suite: str
    task: int
    state: int
    decoders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Playing:
    """
    An episode under way.

    :param steps: control steps done
    :param note: what else is worth seeing, e.g. the passes of the last action
    """

    suite: str
    task: int
    state: int
    decoder: str
    steps: int = 0
    note: str = ''


@dataclass(frozen=True, slots=True)
class Failed:
    """
    Says why a worker cannot go on.

    :param bad_input: it is the user's to put right
    """

    message: str
    bad_input: bool


class WorkersDied(RuntimeError):
    """Workers keep dying, or one met an error that isn't the user's; names the log."""


class Player(Protocol):
    """Plays episodes inside a worker."""

    def play(self, trial: Trial, on_progress: Callable[[Playing], None]
             ) -> Iterator[EpisodeRecord]:
        """Play a trial's episodes one after the other."""


def _work(number: int, pipe: Connection, make_player: Callable[[], Player],
          log: Path | None) -> None:
    # Ctrl-C reaches the whole process group; the parent alone acts on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if log is not None:
        _redirect_output(log)
    with contextlib.suppress(BrokenPipeError, EOFError):  # the parent is gone: nothing to tell
        try:
            player = make_player()
            pipe.send(None)  # ready for a trial
            while (trial := pipe.recv()) is not None:
                for episode in player.play(trial, pipe.send):
                    pipe.send(episode)
                pipe.send(None)
        except (BrokenPipeError, EOFError):
            raise
        except Exception as error:  # noqa: BLE001 - told to the parent, which stops the run
            import traceback
            traceback.print_exc()  # into the log
            pipe.send(_failed(error))


def _failed(error: Exception) -> Failed:
    """Errors of bad input carry their own message; others get their type and a look at the log."""
    text = ' '.join(str(error).split())
    ours = isinstance(error, (ValueError, FileNotFoundError)) or \
        type(error).__module__.startswith('specvla_ros')
    return Failed(text if ours and text else f'{type(error).__name__}: {text}', bad_input=ours)


def _redirect_output(log: Path) -> None:
    """Send all output, C libraries' included, to a file: it would tear the progress bar."""
    sys.stdout.flush()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


@dataclass(slots=True)
class _Worker:
    number: int
    process: BaseProcess
    pipe: Connection
    trial: Trial | None = None
    playing: Playing | None = None
    done: list[str] = field(default_factory=list)
    place: tuple[str, int] | None = None  # the suite and task its environment is made for


class WorkerPool:
    """Plays trials on several processes and hands back episodes as they proceed and end."""

    def __init__(self, make_player: Callable[[], Player], workers: int,
                 logs: Path | None = None) -> None:
        """
        Prepare; nothing is started before `run`.

        :param make_player: called once in each process; must be picklable
        :param logs: folder for what the workers print, None = the terminal
        """
        self._make_player, self._size, self._logs = make_player, workers, logs
        self._context = multiprocessing.get_context('spawn')  # a forked renderer hangs
        self._workers: list[_Worker] = []
        self._queue: list[Trial] = []
        self._deaths = 0

    def run(self, trials: Sequence[Trial]) -> Iterator[EpisodeRecord | Playing]:
        """
        Play all trials.

        :returns: episodes as they finish and, in between, how far those under way are
        :raises SpecVLAError: a worker couldn't start and the user can put it right
        :raises WorkersDied: workers keep dying, or one met an unforeseen error
        """
        self._queue = list(trials)
        try:
            for number in range(min(self._size, len(trials))):
                self._start(number)
            while self._workers:
                by_pipe: dict[object, _Worker] = {it.pipe: it for it in self._workers}
                for pipe in wait([worker.pipe for worker in self._workers]):
                    yield from self._receive(by_pipe[pipe])
        finally:
            self._stop()

    def _start(self, number: int) -> None:
        mine, theirs = self._context.Pipe()
        log = self._logs / f'worker-{number}.log' if self._logs else None
        process = self._context.Process(
            target=_work, args=(number, theirs, self._make_player, log), daemon=True)
        process.start()
        theirs.close()  # so that the death of the process is read as the end of the pipe
        self._workers.append(_Worker(number, process, mine))

    def _receive(self, worker: _Worker) -> Iterator[EpisodeRecord | Playing]:
        try:
            message = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            yield from self._bury(worker)
            return
        if isinstance(message, Failed):
            if message.bad_input:
                raise SpecVLAError(message.message)
            raise WorkersDied(f'{message.message}{self._see_log(worker)}')
        if message is None:
            worker.trial, worker.playing, worker.done = self._next_trial(worker), None, []
            worker.pipe.send(worker.trial)
            if worker.trial is None:
                worker.process.join()
                self._workers.remove(worker)
        elif isinstance(message, Playing):
            worker.playing = message
            yield message
        else:
            self._deaths = 0
            worker.playing = None
            worker.done.append(message.decoder)
            yield message

    def _next_trial(self, worker: _Worker) -> Trial | None:
        """Take a trial of the worker's task, else of an idle one: an environment costs 8 s."""
        if not self._queue:
            return None
        busy = {other.place for other in self._workers if other is not worker}
        trial = min(self._queue, key=lambda trial: (
            (trial.suite, trial.task) != worker.place, (trial.suite, trial.task) in busy))
        self._queue.remove(trial)
        worker.place = trial.suite, trial.task
        return trial

    def _bury(self, worker: _Worker) -> Iterator[EpisodeRecord]:
        worker.process.join()
        self._workers.remove(worker)
        self._deaths += 1
        code = worker.process.exitcode
        reason = signal.Signals(-code).name if code and code < 0 else f'exit code {code}'
        if worker.trial is None or self._deaths >= MAX_DEATHS_IN_A_ROW:
            raise WorkersDied(f'a worker process died with {reason}{self._see_log(worker)}')
        trial, playing = worker.trial, worker.playing
        done = list(worker.done)
        if playing is not None:
            done.append(playing.decoder)
            yield EpisodeRecord(playing.suite, playing.task, playing.state, playing.decoder,
                                success=False, steps=playing.steps,
                                crash=f'the worker process died with {reason}')
        rest = tuple(name for name in trial.decoders if name not in done)
        if rest:
            self._queue.insert(0, Trial(trial.suite, trial.task, trial.state, rest))
        if self._queue:
            self._start(worker.number)

    def _see_log(self, worker: _Worker) -> str:
        return f'; see {self._logs / f"worker-{worker.number}.log"}' if self._logs else ''

    def _stop(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self._workers.clear()
