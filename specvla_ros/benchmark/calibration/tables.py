"""What a calibration shows: a line per scale; with --check, a line per split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from specvla_ros.benchmark import report, report_tables
from specvla_ros.benchmark.calibration import control, family
from specvla_ros.benchmark.calibration.control import Split
from specvla_ros.benchmark.calibration.plan import CalibrateArgs, CalibrationPlan
from specvla_ros.benchmark.calibration.units import Unit

_NOTES = ('mm and ° off: from what ar says of the same frame, the mean and the most.\n'
          'Off: by more than is promised. Counted: off at this scale or at a tighter one.')


def rows(
    plan: CalibrationPlan, units: Sequence[Unit], found: np.ndarray
) -> list[dict[str, Any]]:
    """Return a row per scale, tightest first; found: the `losses` of the units."""
    args = plan.args
    counted = control.monotone(found)
    return [{
        'decoder': f'{plan.base.name}*{scale:g}', 'scale': scale,
        'verification': family.scaled(plan.base, scale).verification,
        'thresholds': family.thresholds(family.scaled(plan.base, scale)),
        'episodes': len(units), 'actions': sum(unit.frames for unit in units),
        'target_passes_per_action': _mean(units, column, 'passes'),
        'mean_error_mm': _mean(units, column, 'mm'), 'max_error_mm': _max(units, column, 'mm'),
        'mean_error_deg': _mean(units, column, 'deg'),
        'max_error_deg': _max(units, column, 'deg'),
        'loss': float(found[:, column].mean()), 'loss_monotone': float(counted[:, column].mean()),
        'holds': control.holds(counted[:, column], args.delta, args.confidence),
    } for column, scale in enumerate(args.scales)]


def _values(units: Sequence[Unit], column: int, name: str) -> np.ndarray:
    return np.concatenate([getattr(unit.scales[column], name) for unit in units])


def _mean(units: Sequence[Unit], column: int, name: str) -> float:
    return float(_values(units, column, name).mean())


def _max(units: Sequence[Unit], column: int, name: str) -> float:
    return float(_values(units, column, name).max())


def print_scales(document: dict[str, Any], console: Console) -> None:
    """Print the scales: thresholds, passes, errors against the target's own action, losses."""
    promise, first = document['promise'], document['rows'][0]
    title = (f'{first["episodes"]} episodes, {first["actions"]} actions; off: share of '
             f'{promise["of"]}')
    table = Table(title=title, title_justify='left', title_style='bold', header_style='bold')
    for name in ('scale', 'within', 'passes', 'mm off (max)', '° off (max)',
                 'off', 'counted', 'holds'):
        table.add_column(name, justify='right')
    for row in document['rows']:
        table.add_row(
            f'{row["scale"]:g}', family.in_words(row['thresholds']),
            f'{row["target_passes_per_action"]:.2f}',
            f'{row["mean_error_mm"]:.2f} ({row["max_error_mm"]:.1f})',
            f'{row["mean_error_deg"]:.2f} ({row["max_error_deg"]:.1f})',
            f'{100 * row["loss"]:.1f} %', f'{100 * row["loss_monotone"]:.1f} %',
            'yes' if row['holds'] else 'no')
    console.print(table)
    console.print(f'{report_tables.provenance(document)}\n{_NOTES}', style='dim', highlight=False,
                  markup=False)


def checked(splits: Sequence[Split], args: CalibrateArgs) -> dict[str, Any]:
    """Return what the splits say, each with the 95 % interval of its share of violations."""
    of_splits = []
    for split in splits:
        row: dict[str, Any] = {
            'scale': None if split.column is None else args.scales[split.column],
            'aside': len(split.lost), 'risk': split.risk, 'kept': split.risk <= args.delta}
        if args.promise == 'episodes':
            row['violations'] = round(sum(split.lost))
            row['interval'] = list(report.wilson(row['violations'], len(split.lost)))
        of_splits.append(row)
    return {'delta': args.delta, 'splits': of_splits,
            'splits_kept': sum(row['kept'] for row in of_splits),
            'mean_risk': float(np.mean([row['risk'] for row in of_splits]))}


def print_check(check: dict[str, Any], console: Console) -> None:
    """Print the splits, and in how many of them at most delta was lost."""
    table = Table(title='random splits: one half calibrated, the other kept aside',
                  title_justify='left', title_style='bold', header_style='bold')
    for name in ('split', 'scale', 'aside', 'off', 'share', '95 % interval', 'kept'):
        table.add_column(name, justify='right')
    for number, row in enumerate(check['splits'], start=1):
        table.add_row(
            str(number), 'none' if row['scale'] is None else f'{row["scale"]:g}',
            str(row['aside']), str(row.get('violations', '')), f'{100 * row["risk"]:.1f} %',
            '{:.1f}–{:.1f} %'.format(*(100 * end for end in row['interval']))
            if 'interval' in row else '', 'yes' if row['kept'] else 'no')
    console.print(table)
    console.print(
        f'at most {100 * check["delta"]:g} % off in {check["splits_kept"]} of '
        f'{len(check["splits"])} splits; {100 * check["mean_risk"]:.1f} % in the mean',
        highlight=False, style='bold')
    unchosen = sum(row['scale'] is None for row in check['splits'])
    if unchosen:
        console.print(f'in {unchosen} of them no scale kept the promise, so no preset was written '
                      'that could break it', highlight=False)
