"""Arguments of `specvla report`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from specvla_ros import files
from specvla_ros.benchmark import checks
from specvla_ros.benchmark.episodes.paper.published import SUITES
from specvla_ros.benchmark.episodes.plan import EpisodeArgs
from specvla_ros.errors import SpecVLAError
from specvla_ros.unused_options import refuse_unused


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportArgs(EpisodeArgs):
    """Spec-VLA's Tables 1 to 3 and Figure 4 for our models, beside the paper's own numbers."""

    run: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """Folder of a run of `specvla eval`, or what its --json wrote (with --compare, for intervals
    of times); give it again for more: one per suite, say, or one with other thresholds."""
    training: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """Folder ….training that `specvla train eagle` leaves beside a drafter; give it again, and the
    drafters' acceptance lengths stand side by side, the first one the reference."""
    play: bool = False
    """Also play what the runs lack: `ar`, strict and relaxed at the paper's threshold, and
    --thresholds. Only then the other options of episodes and weights mean anything. Goes on where
    it was stopped."""
    thresholds: tuple[int, ...] = ()
    """With --play: thresholds r of Figure 4 to play as well, bins, e.g. 0 1 3 5 7 9 11 13 15."""
    tree: Literal['preset', 'paper'] = 'preset'
    """With --play: the draft tree. preset: a chain on a CPU, the paper's tree on a GPU; paper: the
    paper's (Table 4) everywhere."""
    suite: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """With --play: suite of the paper; give it again for more. Default: those that the checkpoint
    has statistics of."""
    decoder: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """With --play: further presets or YAML files, to stand below the paper's decoders in Table 1;
    give it again for more."""
    out: Path | None = None
    """Folder of the report. Default: runs/report-<hash of what it is made of>."""
    json: Path | None = None
    """Also write the figures here, for machines."""


def check_arguments(args: ReportArgs) -> None:
    """
    Refuse what can't be, before anything is read or played.

    :raises SpecVLAError: what is wrong and what is allowed
    """
    files.check_json_path(args.json)
    if not (args.run or args.training or args.play):
        raise SpecVLAError('nothing to report on: give --run FOLDER of `specvla eval`, --training '
                           'FOLDER of `specvla train eagle`, or --play')
    if not args.play:
        names = (*(field.name for field in fields(EpisodeArgs)), 'thresholds', 'tree')
        refuse_unused(args, names, 'nothing is played without --play')
    if args.safety is not None:
        raise SpecVLAError(f"--safety {args.safety}: the paper's evaluation has no envelope; "
                           'leave it out')
    for suite in args.suite:
        if suite not in SUITES:
            raise SpecVLAError(f'--suite {suite}: is none of the paper; give one of '
                               f'{", ".join(SUITES)}')
    for reach in args.thresholds:
        checks.check_at_least('--thresholds', reach, 0)
