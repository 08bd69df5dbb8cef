"""What `specvla adapt` is told."""

from __future__ import annotations

from dataclasses import dataclass
import os
from pathlib import Path
from typing import Annotated

import tyro

from specvla_ros.errors import SpecVLAError
from specvla_ros.recordings.source_arguments import SourceArgs
from specvla_ros.training.seed_check import check_seed
from specvla_ros.workforce.ray_actors import check_address
from specvla_ros.workforce.where import RAY_ADDRESS

Help = tyro.conf.arg


@dataclass(frozen=True, slots=True)
class AdaptArgs(SourceArgs):
    """Teach a drafter for a checkpoint from recordings; keep it only if it is better."""

    checkpoint: Annotated[Path | None, Help(
        help='folder of the target, or name of an embedded one; default: libero_object')] = None
    drafter: Annotated[Path | None, Help(
        help="folder of the present drafters' weights; default: `drafters` in the checkpoint")
        ] = None
    out: Annotated[Path, Help(
        help='folder to write: drafters/ is for --drafter and the node; the rest lets an '
             'interrupted run go on')] = Path('runs/adapted')
    unnorm_key: Annotated[str | None, Help(
        help="name of the statistics; default: the checkpoint's only one")] = None
    frames: Annotated[int, Help(help='to learn from at most, spread evenly')] = 12_000
    minutes: Annotated[float, Help(help='to teach each drafter at most')] = 4.0
    epochs: Annotated[float, Help(help='passes over the frames at most')] = 40.0
    eagle: Annotated[bool, Help(help='teach EAGLE as well; it takes twice the disk')] = False
    measured: Annotated[int, Help(help='held-out frames that old and new weights decode')] = 400
    batch: Annotated[int, Help(help='frames the target sees at once')] = 32
    lanes: Annotated[int, Help(
        help='threads, each on a core of its own; with --ray workers with a model each')] = 2
    ray: Annotated[str | None, Help(
        help=f'let the target say its actions on a Ray cluster: {RAY_ADDRESS}; default: threads '
             'of this process')] = None
    device: Annotated[str, Help(help='auto, cpu or cuda')] = 'auto'
    seed: Annotated[int, Help(help='of order, paths and noise')] = 0

    def teaching_lanes(self) -> int:
        """Threads that teach; --ray counts workers elsewhere: then at most the cores here."""
        return self.lanes if self.ray is None else min(self.lanes, len(os.sched_getaffinity(0)))

    def check(self) -> None:
        """Raise SpecVLAError for settings that can't be."""
        if not self.source:
            raise SpecVLAError('give the recordings to learn from: folders or files')
        check_seed(self.seed)
        for name in ('frames', 'measured', 'batch', 'lanes'):
            if getattr(self, name) < 1:
                raise SpecVLAError(f'--{name} {getattr(self, name)}: must be at least 1')
        if self.ray is not None:
            check_address(self.ray)
        for name in ('minutes', 'epochs'):
            if not 0 < getattr(self, name) < float('inf'):
                raise SpecVLAError(f'--{name} {getattr(self, name):g}: must be more than 0')
