"""Where the workers of a command are: on this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from specvla_ros.workforce.processes import Processes
from specvla_ros.workforce.ray_actors import RayActors
from specvla_ros.workforce.same_folders import SameFolders
from specvla_ros.workforce.worker import Employer, MakeWorker

RAY_ADDRESS = ("HOST:PORT of its head, 'auto' for the one that this machine is part of, 'local' "
               'for this machine alone')
RAY_HELP = f'work on a Ray cluster: {RAY_ADDRESS}; default: processes of this machine'


def workers_at(
    address: str | None, make: MakeWorker, *, threads: int, device: str,
    folders: Iterable[Path] = (), logs: Path | None = None,
) -> Employer:
    """
    Return who employs the workers that `make` makes.

    address: of a Ray cluster; None = processes of this machine. threads: of torch, and so
    processors of a worker; device: on `cuda`, each worker on Ray has a GPU of its own. folders:
    must hold the same on each machine; logs: see `Crew`.
    """
    if address is None:
        return Processes(make, logs)
    return RayActors(make, address, threads, int(device.startswith('cuda')),
                     SameFolders.of(folders))
