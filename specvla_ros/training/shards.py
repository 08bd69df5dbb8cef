"""
Shards of what a target says: one file for each episode, made by lanes and whole or not there.

The lanes are threads of this process, or workers on other machines.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
from dataclasses import dataclass
from pathlib import Path
import time
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
import torch

from specvla_ros.errors import SpecVLAError
from specvla_ros.files import whole_file
from specvla_ros.progress import say, terminal_bar
from specvla_ros.workforce.crew import Crew, GivenUp, News
from specvla_ros.workforce.threads import Threads
from specvla_ros.workforce.worker import Employer

_SAY_EVERY = 10.0  # seconds between lines where there is no terminal


class ShardSource(Protocol):
    """What a shard is made of; its name is the shard's."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...


def lanes_here(records_of: Callable[[Any], Iterator[NDArray]]) -> Employer:
    """Employ threads of this process, each on a core; records_of: see `Lane`."""
    return Threads(lambda: Lane(records_of))


def write_shards(
    employer: Employer, folder: Path, episodes: Sequence[ShardSource], lanes: int,
    console: Console,
) -> None:
    """
    Let an employer's lanes decode episodes; each shard appears whole or not at all.

    :raises SpecVLAError: a shard can't be written, or its workers were lost again and again
    """
    total, done = sum(map(len, episodes)), 0
    started = said = time.monotonic()
    columns = (TextColumn('regenerate'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    run = Crew(employer, lanes).run([EpisodeToSay(episode) for episode in episodes])
    with terminal_bar(console, *columns) as progress, contextlib.closing(run) as events:
        bar = progress.add_task('', total=total)
        for event in events:
            if isinstance(event, GivenUp):
                raise SpecVLAError(f'{event.job.source.name}: {event.reason}; the same command '
                                   'goes on where it stopped')
            if isinstance(event, News):
                continue
            path = folder / f'{event.job.source.name}.npy'
            with whole_file(path) as temporary, temporary.open('wb') as file:
                np.save(file, event.result)
            done += len(event.result)
            progress.update(bar, completed=done)
            now = time.monotonic()
            if not console.is_terminal and now - said > _SAY_EVERY:
                said, speed = now, done / (now - started)
                say(console, f'{done} of {total} frames, {speed:.0f} frames/s, '
                              f'{(total - done) / speed:.0f} s left')


@dataclass(frozen=True, slots=True)
class EpisodeToSay:
    """A shard to be made, as a job: any worker will do."""

    source: ShardSource
    place: tuple[()] = ()


class Lane:
    """
    A worker that decodes shards on one core.

    records_of: gives the records of what it is sent, a batch at a time.
    """

    def __init__(self, records_of: Callable[[Any], Iterator[NDArray]]) -> None:
        torch.set_num_threads(1)  # of this thread
        self._records_of = records_of

    def do(self, job: EpisodeToSay, tell: Callable[[Any], None]) -> NDArray:
        """Decode an episode."""
        return np.concatenate(list(self._records_of(job.source)))
