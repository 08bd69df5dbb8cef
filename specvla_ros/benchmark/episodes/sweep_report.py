"""Success over the speed of what drifts: a table per latency on a terminal, and a plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from specvla_ros.benchmark.episodes.latency import MEASURED
from specvla_ros.benchmark.plots import decoder_colour, figure_file, footnote
from specvla_ros.benchmark.report import Report, Row
from specvla_ros.benchmark.report_tables import broken, provenance
from specvla_ros.errors import counted

_MARK_INCHES, _PER_INCH = 0.6, 12  # of a legend's entry: its mark, and letters of its text
_NOTES = (
    'Solved of ended episodes; under it the 95 % interval (Wilson). Late: mean time\n'
    'from an image to its action in the simulation, where parts of a control period\n'
    'do not count. Steps: how many of an action are executed.')
_MARKS = 'osD^vXP*'
_LABEL_WIDTH = 24  # characters


def print_sweep(document: Report, console: Console) -> None:
    """Print a table per suite, drifting object and latency: a line each decoder and steps."""
    runs = _runs(document['rows'])
    for title, rows in _groups(document['rows']):
        console.print(title, style='bold', highlight=False)
        console.print(_table(rows, runs))
    console.print(f'{provenance(document)}\n{_NOTES}', style='dim', highlight=False, markup=False)


def _groups(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Sort rows by what has a table and an axis of its own, each with a title."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        late, span = row['latency_s'], row['drift_span_cm']
        title = f'{row["suite"]}: {row["drift_object"]} drifts' + (
            '' if span is None else f' within {span:g} cm') + ', latency ' + (
            late if late == MEASURED else f'{late} s')
        groups.setdefault(title, []).append(row)
    return list(groups.items())


def _lines(rows: Sequence[Row], runs: int) -> dict[str, list[Row]]:
    """Group rows by what is a line: decoder, steps and, where there are several, run."""
    lines: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row['drift_cm_per_s']):
        steps = row['execute_steps']
        name = row['decoder'] + (f', {counted(steps, "step")}' if steps else '') + (
            f' ({row["run"]})' if runs > 1 else '')
        lines.setdefault(name, []).append(row)
    return lines


def _table(rows: Sequence[Row], runs: int) -> Table:
    speeds = sorted({row['drift_cm_per_s'] for row in rows})
    table = Table(header_style='bold')
    table.add_column('')
    for heading in ('late, s', *(f'{speed:g} cm/s' for speed in speeds)):
        table.add_column(heading, justify='right')
    for name, of_line in _lines(rows, runs).items():
        by_speed = {row['drift_cm_per_s']: row for row in of_line}
        table.add_row(broken(name, _LABEL_WIDTH), _late(of_line),
                      *(_cell(by_speed.get(speed)) for speed in speeds))
    return table


def _runs(rows: Iterable[Row]) -> int:
    return len({row['run'] for row in rows})


def _late(rows: Sequence[Row]) -> str:
    known = [row['mean_latency_s'] for row in rows if row['mean_latency_s'] is not None]
    return f'{sum(known) / len(known):.3f}' if known else ''


def _cell(row: Row | None) -> str:
    if row is None or not row['episodes']:
        return ''
    low, high = (100 * end for end in row['success_interval'])
    return f'{row["successes"]}/{row["episodes"]}\n{low:.0f}–{high:.0f} %'


def write_sweep(path: Path, document: Report) -> None:
    """
    Draw success over speed, an axis per suite, drifting object and latency.

    Nothing is drawn where no episode ended.

    :raises SpecVLAError: the file cannot be written
    """
    rows = [row for row in document['rows'] if row['episodes']]
    groups = _groups(rows)
    if not groups:
        return
    runs = _runs(rows)
    names = list(dict.fromkeys(name for _, of_group in groups for name in _lines(of_group, runs)))
    width = max(7.0, 5.5 * len(groups))
    columns = max(1, min(4, int(width / (_MARK_INCHES + max(map(len, names)) / _PER_INCH))))
    size = (width, 5.5 + 0.22 * -(-len(names) // columns))
    with figure_file(path, size, (1,) * len(groups)) as (figure, axes):
        for axis, (title, of_group) in zip(axes, groups):
            _draw(axis, title, _lines(of_group, runs), names)
        handles: dict[str, Any] = {}
        for axis in axes:
            handles |= dict(zip(*reversed(axis.get_legend_handles_labels())))
        figure.legend([handles[name] for name in names], names, frameon=False,
                      loc='outside lower center', ncols=columns)
        figure.suptitle(footnote(document), fontsize=9, color='#555555', x=0.01, ha='left')


def _draw(axis: Any, title: str, lines: dict[str, list[Row]], names: Sequence[str]) -> None:
    """Draw one axis; lines stand a little beside each other, so that intervals can be told."""
    speeds = {row['drift_cm_per_s'] for rows in lines.values() for row in rows}
    span = max(speeds) - min(speeds) or 1.0
    beside = 0.012 * span
    for name, rows in lines.items():
        number = names.index(name)
        x = [row['drift_cm_per_s'] + beside * (number - (len(names) - 1) / 2) for row in rows]
        y = [100 * row['success_rate'] for row in rows]
        ends = [[100 * end for end in row['success_interval']] for row in rows]
        axis.errorbar(
            x, y, yerr=[[max(0.0, at - low) for at, (low, _) in zip(y, ends)],
                        [max(0.0, high - at) for at, (_, high) in zip(y, ends)]],
            label=name, color=decoder_colour(number), marker=_MARKS[number % len(_MARKS)],
            linewidth=1.5, elinewidth=0.8, capsize=2)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel('speed of the object, cm/s')
    axis.set_ylabel('episodes solved, %, and 95 % interval')
    axis.set_xticks(sorted(speeds))
    axis.set_xlim(min(speeds) - 0.15 * span, max(speeds) + 0.15 * span)
    axis.set_ylim(-4, 104)
