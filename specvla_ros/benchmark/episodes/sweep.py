"""
`specvla drift`: success in a moving world, over speed × latency × steps executed × decoder.

Each combination of a speed, a latency and a number of steps is an evaluation of its own, in a
folder of its own, and is resumed as one. The report is made of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
import itertools
from pathlib import Path
import sys
from typing import Annotated, Any, get_args

from rich.console import Console
import tyro

from specvla_ros import files
from specvla_ros.benchmark import report, run_folder
from specvla_ros.benchmark.episodes.evaluation import finish, player_of, Unfinished
from specvla_ros.benchmark.episodes.latency import Latency, MEASURED
from specvla_ros.benchmark.episodes.plan import (
    EpisodeArgs,
    EvalArgs,
    EvaluationPlan,
    make_plan,
    refuse_still,
    under,
)
from specvla_ros.benchmark.episodes.sweep_report import print_sweep, write_sweep
from specvla_ros.benchmark.records import EpisodeRecord
from specvla_ros.benchmark.report_files import leave
from specvla_ros.errors import one_line, SpecVLAError
from specvla_ros.libero.drift import Drifting
from specvla_ros.typed_files import read_json
from specvla_ros.workforce.worker import MakeWorker
from specvla_ros.writable import check_writable

REPORT, PLOT = 'report.json', 'drift.png'
_CONDITION_FOLDERS = tuple(f'{body}-' for body in get_args(Drifting))
_CONDITION = ('drift', 'latency_s', 'execute_steps', 'trials')  # what differs within a sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftArgs(EpisodeArgs):
    """Success while an object drifts: speeds, latencies and steps executed, side by side."""

    drift: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0)
    """Speeds of the object on the table, cm/s; 0 = the world stands still."""
    drift_object: Drifting = 'target'
    """What drifts: the object to be taken (target), or where it is to be put (basket)."""
    drift_span: float | None = None
    """How far it drifts from where it began, along x and along y, before it turns back, cm.
    Default: to the end of the robot's reach."""
    latency_s: tuple[str, ...] = ('0', MEASURED)
    """Seconds that pass in the simulation before an action is there: a number, FIRST+PASS (of
    the image and the first pass, and of each further one), or `measured`, this machine's own."""
    execute_steps: tuple[int, ...] = ()
    """Control steps of an action that are executed before the next one: 1 to --chunk. Default:
    what the checkpoint recommends, else all."""
    beside: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """Folder of another such run, of another checkpoint, say: its figures join table and plot.
    Give it again for more."""
    out: Path | None = None
    """Folder of the run. Default: runs/drift-<hash of the configuration>, so that the same command
    continues an interrupted run, also with further speeds, latencies or steps."""
    json: Path | None = None
    """Also write the report here, for machines."""


def run(args: DriftArgs, make_player: MakeWorker | None = None) -> int:
    """
    Play what is missing, print a table per latency, and write report.json and drift.png.

    :param make_player: makes the player in each worker; the default is LIBERO with the policy
    :returns: the exit code
    :raises ValueError: bad input, in one line
    """
    files.check_json_path(args.json)
    folder, runs = plans(args)
    others = rows_beside(folder, args.beside)
    console, name = Console(), folder.resolve().name
    rows: list[report.Row] = []
    for number, (own, plan) in enumerate(runs, start=1):
        console.print(f'{number} of {len(runs)}: {report.conditions(plan.config)}',
                      style='bold', highlight=False)
        try:
            episodes = finish(plan, make_player or player_of(own, plan), console)
        except Unfinished as end:
            return end.code
        rows += rows_under(plan, episodes, name)
    plan = runs[0][1]
    config = _shared(plan) | {
        'run': name, 'trials': plan.trials, 'speeds_cm_per_s': list(args.drift),
        'drift_object': args.drift_object, 'drift_span_cm': args.drift_span,
        'latency_s': list(args.latency_s), 'execute_steps': list(args.execute_steps)}
    document = report.report(sys.argv, config, plan.checkpoint, rows, plan.decoders)
    document['rows'] += others
    print_sweep(document, console)
    leave(document, folder, args.json, console,
          {PLOT: lambda path: write_sweep(path, document)})
    return 0


def plans(args: DriftArgs) -> tuple[Path, list[tuple[EvalArgs, EvaluationPlan]]]:
    """
    Check everything before anything is made; return the folder, and an evaluation per condition.

    :raises ValueError: what is wrong and what is allowed
    """
    for name in ('drift', 'latency_s'):
        if not getattr(args, name):
            raise SpecVLAError(f'--{name.replace("_", "-")}: give at least one value')
    refuse_still(args, args.drift)
    shared = {field.name: getattr(args, field.name) for field in fields(EpisodeArgs)}
    conditions = [
        EvalArgs(**shared, reference_every=0, drift=speed, drift_object=args.drift_object,
                 drift_span=args.drift_span, latency_s=latency, execute_steps=steps)
        for latency, steps, speed in itertools.product(
            dict.fromkeys(args.latency_s), dict.fromkeys(args.execute_steps) or (None,),
            dict.fromkeys(args.drift))]
    base = make_plan(replace(conditions[0], drift=None, drift_object=None, drift_span=None))
    made = [(own, under(own, base)) for own in conditions]
    folder = args.out or run_folder.default_folder(
        'drift', base.identity() | {'config': _shared(base)})
    _check_folder(folder)
    # Two ways to write one latency are one run.
    by_folder = {folder / _name(plan): (own, plan) for own, plan in made}
    return folder, [(own, replace(plan, folder=place)) for place, (own, plan) in by_folder.items()]


def _check_folder(folder: Path) -> None:
    """Raise SpecVLAError for a folder that holds something else: it would be mixed up."""
    if folder.exists() and not folder.is_dir():
        raise SpecVLAError(f'--out {folder} is a file; give a folder')
    check_writable('--out', folder)
    for found in sorted(folder.iterdir()) if folder.exists() else ():
        if found.name not in (REPORT, PLOT) and not found.name.startswith(_CONDITION_FOLDERS):
            raise SpecVLAError(f'--out {folder} holds {found.name}, which is not of a run of '
                               '`specvla drift`; give a new folder')


def _shared(plan: EvaluationPlan) -> dict[str, Any]:
    """Return the settings that all conditions of a run have in common."""
    return {name: value for name, value in plan.config.items() if name not in _CONDITION}


def _name(plan: EvaluationPlan) -> str:
    """Return the name of a condition's folder."""
    drift, steps = plan.config['drift'], plan.config['execute_steps']
    late, span = plan.config['latency_s'] or 0, drift['span_cm']
    return f'{drift["object"]}-{drift["cm_per_s"]:g}-cm-s' + (
        '' if span is None else f'-within-{span:g}-cm') + f'-late-{late}' + (
        f'-steps-{steps}' if steps else '')


def rows_under(plan: EvaluationPlan, episodes: Sequence[EpisodeRecord], name: str
               ) -> list[report.Row]:
    """
    Return a row per suite and decoder, which says the condition beside its figures.

    :param name: of the whole run
    """
    late = plan.config['latency_s'] or 0
    latency = Latency.read(late)
    condition = {
        'run': name, 'drift_cm_per_s': plan.config['drift']['cm_per_s'],
        'drift_object': plan.config['drift']['object'],
        'drift_span_cm': plan.config['drift']['span_cm'], 'latency_s': late,
        'execute_steps': plan.config['execute_steps'],
        'target_sha256': plan.checkpoint['target_sha256']}
    made = []
    for row in report.rows(episodes, list(plan.decoders)):
        if row['task'] is None and row['subset'] == 'all':
            seconds = [latency.seconds(action) for episode in episodes if episode.crash is None
                       and (episode.suite, episode.decoder) == (row['suite'], row['decoder'])
                       for action in episode.actions]
            mean = sum(seconds) / len(seconds) if seconds else None
            made.append(row | condition | {'mean_latency_s': mean})
    return made


def rows_beside(own: Path, folders: Sequence[Path]) -> list[report.Row]:
    """
    Read the rows of finished runs.

    :param own: folder of this run
    :raises SpecVLAError: there are none, or two runs have one name
    """
    names, rows = {own.resolve().name}, []
    for folder in folders:
        name = folder.resolve().name
        if name in names:
            raise SpecVLAError(f'--beside {folder}: there is a run {name} already, and figures go '
                               'by the names of the folders; rename one')
        names.add(name)
        rows += [row | {'run': name} for row in _own_rows(folder)]
    return rows


def _own_rows(folder: Path) -> list[report.Row]:
    """Return the rows that a run has played itself."""
    try:
        document = read_json(folder / REPORT)
        return [row for row in document['rows'] if row['run'] == document['config']['run']]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecVLAError(f'--beside {folder}: holds no report of `specvla drift` '
                           f'({one_line(error)}); give the folder of a finished run'
                           ) from error
