"""
Workers that are actors of a Ray cluster, on any of its machines.

Ray places and starts them, carries jobs and results, and says when one is lost. It replays
nothing (`max_restarts` and `max_task_retries` are 0): what is done again is decided in `crew.py`,
for threads and processes alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
import contextlib
from dataclasses import dataclass, field
import os
import pickle
import queue
import time
from typing import Any

from specvla_ros import __version__
from specvla_ros.errors import one_line, SpecVLAError
from specvla_ros.workforce.same_folders import SameFolders
from specvla_ros.workforce.worker import (
    Failure,
    Job,
    MakeWorker,
    Seat,
    Worker,
    WorkerFailed,
    WorkerLost,
)

HERE = 'local'  # in the place of an address: a Ray of its own, on this machine alone
_NEWS_EVERY = 0.5  # seconds between two news of a job: each is a message through the cluster
_OBJECT_STORE = 256 << 20  # bytes: what a job and its result take, a few times over
_END = object()


@dataclass(slots=True)
class RayActors(contextlib.AbstractContextManager):
    """
    Employs actors.

    make: makes the worker in each of them, picklable. address: of the cluster: HOST:PORT, 'auto'
    for the one that this machine is part of, 'local'. cpus, gpus: what each actor is given.
    folders: must hold the same on each of its machines.

    :raises SpecVLAError: on entering: Ray is not installed, there is no such cluster, or none of
        its machines has so many processors
    """

    make: MakeWorker
    address: str
    cpus: int
    gpus: int = 0
    folders: SameFolders = SameFolders()
    _is_ours: bool = field(default=False, init=False)

    def __enter__(self) -> RayActors:
        """Join the cluster."""
        check_address(self.address)
        ray = _ray()
        if not ray.is_initialized():
            _join(self.address)
            self._is_ours = True
        try:
            self._check_room(ray.nodes())
        except SpecVLAError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster, if it was joined here."""
        if self._is_ours:
            _ray().shutdown()
            self._is_ours = False

    def hire(self, number: int) -> Seat:
        """Ask for an actor; see `Employer`."""
        environment = {name: os.environ[name] for name in ('MUJOCO_GL',) if name in os.environ}
        environment['OMP_NUM_THREADS'] = str(self.cpus)
        actor = _ray().remote(_Desk).options(
            num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=0, max_task_retries=0,
            scheduling_strategy='SPREAD').remote(environment)
        return _Actor(actor, pickle.dumps((self.make, self.folders, __version__)))

    def _check_room(self, nodes: list[dict[str, Any]]) -> None:
        found = [node['Resources'] for node in nodes if node['Alive']]
        if not any(node.get('CPU', 0) >= self.cpus and node.get('GPU', 0) >= self.gpus
                   for node in found):
            most = max((node.get('CPU', 0) for node in found), default=0)
            raise SpecVLAError(
                f'--ray {self.address}: a worker takes {self.cpus} processors (--threads) and '
                f'{self.gpus} GPUs; the largest of {len(found)} machines has {most:g} processors: '
                'give fewer --threads, or start `ray start` there with more --num-cpus, --num-gpus'
            )


class _Actor:
    """One actor, seen from the driver."""

    def __init__(self, handle: Any, orders: bytes) -> None:
        self._actor = handle
        self._made = handle.begin.remote(orders)

    def begin(self) -> None:
        """See `Seat`; an actor waits for a machine with room for it."""
        failure = self._get(self._made)
        if failure is not None:
            raise WorkerFailed(failure)

    def do(self, job: Job, tell: Callable[[Any], None]) -> Any:
        """See `Seat`."""
        said: list[Any] = []
        for said in self._answers(job):
            if len(said) == 1:
                tell(*said)
        result, = said[1:]
        if isinstance(result, Failure):
            raise WorkerFailed(result)
        return result

    def end(self) -> None:
        """See `Seat`."""
        ray = _ray()
        if ray.is_initialized():
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(self._actor)

    def _answers(self, job: Job) -> Iterator[Any]:
        """Yield (news,) of a job as they come, and (None, result) at last."""
        streaming = self._actor.do.options(num_returns='streaming')
        references = iter(streaming.remote(pickle.dumps(job)))
        while True:
            try:
                reference = next(references)
            except StopIteration:
                return
            except _ray().exceptions.RayError as error:
                raise _lost(error) from None
            yield self._get(reference)

    def _get(self, pending: Any) -> Any:
        try:
            return _ray().get(pending)
        except _ray().exceptions.RayError as error:
            raise _lost(error) from None


def _lost(error: Exception) -> WorkerLost:
    """Ray says in many lines what became of an actor; the first one says what."""
    ray = _ray()
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, ray.exceptions.RayTaskError):  # of Ray's own: ours are told as `Failure`
        lines = lines[-1:]
    return WorkerLost(f'a worker on Ray was lost: {lines[0].strip()}')


class _Desk:
    """
    The actor: it has one thread of its own in which everything is done.

    So news can leave while a job is under way, and a simulator stays in the thread that made it.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        os.environ.update(environment)  # before anything heavy is loaded
        self._thread = ThreadPoolExecutor(1)
        self._worker: Worker | None = None

    def begin(self, orders: bytes) -> Failure | None:
        """Make the worker; return why it can't be made."""
        return self._thread.submit(self._begin, orders).result()

    def _begin(self, orders: bytes) -> Failure | None:
        try:
            make, folders, version = pickle.loads(orders)
            check_version(version)
            folders.check()
            self._worker = make()
        except Exception as error:  # noqa: BLE001 - told to the driver, which stops the run
            return Failure.of(error)
        return None

    def do(self, job: bytes) -> Iterator[tuple]:
        """Yield (news,) while a job is under way, and (None, result) at last."""
        news: queue.SimpleQueue = queue.SimpleQueue()
        future = self._thread.submit(self._do, job, news)
        future.add_done_callback(lambda _: news.put(_END))
        while (said := news.get()) is not _END:
            yield said,
        yield None, future.result()

    def _do(self, job: bytes, news: queue.SimpleQueue) -> Any:
        told = 0.0

        def tell(said: Any) -> None:
            nonlocal told
            if time.monotonic() - told > _NEWS_EVERY:
                told = time.monotonic()
                news.put(said)

        assert self._worker is not None  # begun
        try:
            return self._worker.do(pickle.loads(job), tell)
        except Exception as error:  # noqa: BLE001 - told to the driver, which stops the run
            return Failure.of(error)


def check_address(address: str) -> None:
    """Raise SpecVLAError for an address that can't be, or where Ray is not installed."""
    _ray()
    if address.startswith('ray://'):
        raise SpecVLAError(f'--ray {address}: run the command on a machine of the cluster, and '
                           "give HOST:PORT of its head, or 'auto'")


def check_version(wanted: str) -> None:
    """
    Check that this machine has the driver's version of the package.

    :raises SpecVLAError: it has another one
    """
    if wanted != __version__:
        raise SpecVLAError(f'{os.uname().nodename} has specvla_ros {__version__}, not {wanted} as '
                           'the machine that leads: install the same on each machine of the '
                           'cluster')


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError:
        raise SpecVLAError("--ray needs the Python package ray: pip install '.[ray]'") from None
    return ray


def _join(address: str) -> None:
    ray = _ray()
    own = dict(num_cpus=len(os.sched_getaffinity(0)), object_store_memory=_OBJECT_STORE,
               include_dashboard=False) if address == HERE else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level='error', **own)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        reason = one_line(error, 200)
        raise SpecVLAError(f'--ray {address}: no Ray cluster can be joined there ({reason}); '
                           "`ray start --head` starts one, and 'local' takes this machine alone"
                           ) from error
