"""
`specvla calibrate`: thresholds with a promise, from LIBERO episodes or from bags of one's robot.

Every frame is decoded by the target itself (`ar`) and under each scale of the thresholds; how far
apart the two actions are is kept per episode, so that an interrupted run goes on, and another
promise is answered from what was measured. The loosest scale that keeps the promise becomes a
preset. How is in `control.py`, and in docs/calibration.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
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
from specvla_ros.benchmark.calibration.sources import PoliciesByScale
from specvla_ros.benchmark.calibration.units import losses, Unit, UnitLog
from specvla_ros.benchmark.interrupt import INTERRUPTED, sigterm_as_interrupt
from specvla_ros.calibrated import identity
from specvla_ros.drafter_folders import beside
from specvla_ros.embedded import checkpoint_folder
from specvla_ros.errors import SpecVLAError
from specvla_ros.progress import episode_columns, terminal_bar

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
    console.print(f'It takes {needed} episodes or more; given: {len(plan.source.names)}.',
                  highlight=False)
    with run_folder.open_run(plan.folder, plan.identity(), UnitLog) as log:
        try:
            with sigterm_as_interrupt():
                _measure(plan, log, console)
        except KeyboardInterrupt:
            console.print(f'interrupted: {len(log.episodes)} episodes are kept in {plan.folder}; '
                          'the same command goes on from there')
            return INTERRUPTED
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
    for path in filter(None, (plan.folder / 'report.json', args.json)):
        files.write_json(path, document)
        console.print(str(path), style='cyan', highlight=False, soft_wrap=True)
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
    policies = load_policies(plan)
    with _bar(console) as bar:
        task = bar.add_task('', total=len(missing), frames=0)
        seen = itertools.count(1)
        for unit in plan.source.units(
                done, policies, lambda: bar.update(task, frames=next(seen))):
            with files.writing(log.path):
                log.append(unit)
            bar.advance(task)


def load_policies(plan: CalibrationPlan) -> PoliciesByScale:
    """Load the weights once, and put them under `ar` and under each scale."""
    import torch

    from specvla_ros.policy import Policy

    if plan.args.threads:
        torch.set_num_threads(plan.args.threads)
    source = dataclasses.replace(plan.args.source('ar'), unnorm_key=plan.unnorm_key)
    reference = Policy.of(source)
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
    console.print(str(plan.preset), style='cyan', highlight=False, soft_wrap=True)
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
