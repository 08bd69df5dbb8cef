"""
`specvla calibrate`: thresholds with a promise, from LIBERO episodes or from bags of one's robot.

Every frame is decoded by the target itself (`ar`) and under each scale of the thresholds; how far
apart the two actions are is kept per episode, so that an interrupted run goes on, and another
promise is answered from what was measured. The loosest scale that keeps the promise becomes a
preset. How is in `control.py`, and in docs/calibration.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Generator, Sequence
import contextlib
import dataclasses
from dataclasses import dataclass
import itertools
import sys
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress, TextColumn

from specvla_ros import files
from specvla_ros.benchmark import report, run_folder
from specvla_ros.benchmark.calibration import control, family, preset, tables
from specvla_ros.benchmark.calibration.plan import CalibrateArgs, CalibrationPlan, make_plan
from specvla_ros.benchmark.calibration.sources import (
    EpisodeMeasurer,
    LiberoEpisodes,
    PoliciesByScale,
    RecordedBags,
)
from specvla_ros.benchmark.calibration.units import losses, Unit, UnitLog
from specvla_ros.benchmark.interrupt import INTERRUPTED, sigterm_as_interrupt
from specvla_ros.benchmark.report_files import leave, tell
from specvla_ros.calibrated import identity
from specvla_ros.drafter_folders import beside
from specvla_ros.embedded import checkpoint_folder
from specvla_ros.errors import counted, SpecVLAError
from specvla_ros.progress import episode_columns, terminal_bar
from specvla_ros.workforce.crew import Crew, Done, News
from specvla_ros.workforce.threads import Threads
from specvla_ros.workforce.where import workers_at
from specvla_ros.workforce.worker import WorkersDied

__all__ = ['CalibrateArgs', 'run']


def run(
    args: CalibrateArgs, make_environment: Callable[[str, int], Any] | None = None
) -> int:
    """
    Measure what is missing; write the preset, or with --check say how well the promise is kept.

    :param make_environment: of a suite's task; the default is LIBERO
    :returns: the exit code
    :raises ValueError: bad input, or a promise that can't be kept, in one line
    """
    plan = make_plan(args, make_environment)
    console = Console()
    console.print(f'{preset.promise_in_words(plan)}.', highlight=False, markup=False)
    needed = control.needed(args.delta, args.confidence)
    console.print(f'It takes {counted(needed, "episode")} or more; given: '
                  f'{len(plan.source.names)}.', highlight=False)
    with run_folder.open_run(plan.folder, plan.identity(), UnitLog) as log:
        try:
            with sigterm_as_interrupt():
                _measure(plan, log, console)
        except KeyboardInterrupt:
            console.print(f'interrupted: {counted(len(log.episodes), "episode")} kept in '
                          f'{plan.folder}; the same command goes on from there')
            return INTERRUPTED
        except WorkersDied as error:
            Console(stderr=True).print(f'error: {error}', markup=False, highlight=False)
            return 1
        of_name = {unit.name: unit for unit in log.episodes}
        units = [of_name[name] for name in plan.source.names]
    found = losses(units, args.limits, args.promise)
    document = report.report(sys.argv, plan.config, plan.checkpoint,
                             tables.rows(plan, units, found))
    document['promise'] = {
        **dataclasses.asdict(args.limits), 'delta': args.delta, 'confidence': args.confidence,
        'of': args.promise, 'episodes': len(units), 'episodes_needed': needed}
    tables.print_scales(document, console)
    if args.check:
        document['check'] = _check(plan, found, console)
    else:
        document['chosen'] = _choose(plan, units, found, console)
    leave(document, plan.folder, args.json, console)
    return 0


def _measure(plan: CalibrationPlan, log: UnitLog, console: Console) -> None:
    """Look at the units that are missing, with a bar, and keep each when it is whole."""
    done = {unit.name for unit in log.episodes}
    missing = [name for name in plan.source.names if name not in done]
    if not missing:
        return
    if len(missing) < len(plan.source.names):
        console.print(f'{len(plan.source.names) - len(missing)} of {len(plan.source.names)} '
                      f'episodes are in {plan.folder} already', highlight=False)
    with _bar(console) as bar:
        task = bar.add_task('', total=len(missing), frames=0)
        seen: Counter[str] = Counter()  # frames, by unit

        def on_frame(unit: str, frames: int) -> None:
            seen[unit] = frames
            bar.update(task, frames=seen.total())

        measure = _measure_bags if isinstance(plan.source, RecordedBags) else _measure_episodes
        with contextlib.closing(measure(plan, done, on_frame)) as units:
            for unit in units:
                with files.writing(log.path):
                    log.append(unit)
                bar.advance(task)


def _measure_bags(
    plan: CalibrationPlan, done: Collection[str], on_frame: Callable[[str, int], None]
) -> Generator[Unit, None, None]:
    """Look at recordings in this process: they are read in order."""
    assert isinstance(plan.source, RecordedBags)
    seen = itertools.count(1)
    yield from plan.source.units(done, load_policies(plan), lambda: on_frame('', next(seen)))


def _measure_episodes(
    plan: CalibrationPlan, done: Collection[str], on_frame: Callable[[str, int], None]
) -> Generator[Unit, None, None]:
    """Let workers play episodes."""
    assert isinstance(plan.source, LiberoEpisodes)
    make = MakeMeasurer(plan)
    employer = Threads(make) if plan.is_made_up else workers_at(
        plan.args.ray, make, threads=plan.threads, device=plan.args.device,
        folders=plan.weights, logs=plan.folder)
    crew = Crew(employer, plan.args.workers, logs=plan.folder)
    with contextlib.closing(crew.run(plan.source.jobs(done))) as events:
        for event in events:
            if isinstance(event, News):
                on_frame(event.job.name, event.said)
            elif isinstance(event, Done):
                yield event.result
            else:
                raise WorkersDied(f'{event.job.name}: {event.reason}; the same command goes on '
                                  f'with what is kept in {plan.folder}')


@dataclass(frozen=True, slots=True)
class MakeMeasurer:
    """Makes what measures episodes, in a worker; picklable."""

    plan: CalibrationPlan

    def __call__(self) -> EpisodeMeasurer:
        """Load the weights."""
        assert isinstance(self.plan.source, LiberoEpisodes)
        return EpisodeMeasurer(self.plan.source, load_policies(self.plan))


def load_policies(plan: CalibrationPlan) -> PoliciesByScale:
    """Load the weights once, and put them under `ar` and under each scale."""
    import torch

    from specvla_ros.policy import Policy

    if plan.args.threads or plan.args.workers > 1 or plan.args.ray:
        torch.set_num_threads(plan.threads)
    source = dataclasses.replace(plan.args.source('ar'), unnorm_key=plan.unnorm_key)
    reference = Policy.of(source.absolute())
    return PoliciesByScale(reference, {
        scale: reference.with_decoder(family.scaled(plan.base, scale))
        for scale in plan.args.scales})


def _choose(plan: CalibrationPlan, units: Sequence[Unit], found: np.ndarray, console: Console
            ) -> dict[str, Any]:
    """
    Write the preset of the loosest scale that keeps the promise.

    :raises SpecVLAError: none does
    """
    args = plan.args
    column = control.loosest(control.monotone(found), args.delta, args.confidence)
    if column is None:
        share, scale = found[:, 0].mean(), args.scales[0]
        raise SpecVLAError(
            f'no scale keeps the promise: at scale {scale:g}, the tightest, {100 * share:.1f} % '
            f'of {args.promise} are farther off than {args.mm:g} mm, {args.deg:g}° or '
            f"{args.gripper:g} of the gripper's way; take a larger --delta, larger limits, more "
            f'episodes{"" if scale == 0 else ", or put 0 into --scales"}; what was measured is '
            f'kept in {plan.folder}')
    scale = args.scales[column]
    chosen = dataclasses.replace(
        family.scaled(plan.base, scale), name=plan.preset.stem, calibrated=_weights(plan))
    preset.write_preset(plan, chosen, preset.notes(plan, chosen, scale, units))
    thresholds = family.thresholds(chosen)
    console.print(f'scale {scale:g} ({family.in_words(thresholds)}) is the loosest that keeps it',
                  highlight=False, style='bold')
    if not any(thresholds.values()):
        console.print('that is exact acceptance: this promise leaves no room for relaxing')
    if not args.bag and scale != args.drive:
        console.print(f'the episodes were driven under scale {args.drive:g}; to calibrate on the '
                      f'states that {scale:g} leads to, run again with --drive {scale:g}',
                      highlight=False)
    tell(plan.preset, console)
    return {'scale': scale, 'thresholds': thresholds, 'preset': str(plan.preset),
            'calibrated': dict(chosen.calibrated)}


def _weights(plan: CalibrationPlan) -> dict[str, str]:
    folder = checkpoint_folder(plan.args.checkpoint)
    return identity(plan.base, folder, plan.args.drafter or beside(folder), plan.unnorm_key)


def _check(plan: CalibrationPlan, found: np.ndarray, console: Console) -> dict[str, Any]:
    """Measure the violations of the half that is kept aside, split by split."""
    args = plan.args
    checked = tables.checked(
        list(control.splits(found, args.delta, args.confidence, args.splits, args.seed)), args)
    tables.print_check(checked, console)
    return checked


def _bar(console: Console) -> Progress:
    return terminal_bar(
        console, *episode_columns(TextColumn('{task.fields[frames]} frames,')),
        speed_estimate_period=600.0)
