"""The table and the plot of a comparison: `comparison.json` to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from specvla_ros.benchmark.labels import place_labels, Point
from specvla_ros.benchmark.plots import figure_file, footnote
from specvla_ros.benchmark.report import grouped, Report, Row
from specvla_ros.benchmark.report_tables import broken

# By promise: told apart by colour-blind readers, and by shape in black and white.
_MARKS = {'lossless': ('o', '#0072b2'), 'relaxed': ('s', '#e69f00'),
          'unverified': ('X', '#d55e00'), None: ('D', '#999999')}
_NOTES = (
    'Under each figure its 95 % interval: of success Wilson; of Δ to ar (percentage\n'
    'points, the same initial states) Newcombe; of times and passes a bootstrap over\n'
    'initial states. "*": of the decoders that promise as much or more none is better\n'
    'in success or time and no worse in the other. Lossless: each token is the\n'
    "target's own choice; relaxed: it accepted near ones; unverified: it never saw some.")


def print_comparison(document: Report, console: Console) -> None:
    """
    Print the tables of each suite, grouped by what decoders promise; they fit 80 columns.

    Of all episodes, of the solved ones, and where actions have several control steps, of these.
    """
    rows = document['comparison']['rows']
    for suite in dict.fromkeys(row['suite'] for row in rows):
        overall, solved = ([row for row in rows
                            if row['suite'] == suite and row['subset'] == subset]
                           for subset in ('all', 'successful'))
        console.print(_table(f'{suite}: success against time per action', overall, _cells))
        console.print(_table(f'{suite}: successful episodes only', solved, _cells))
        if any('ms_per_step' in row for row in overall):
            console.print(_table(f'{suite}: per executed control step', overall, _step_cells))
    console.print(_NOTES, style='dim', highlight=False, markup=False)


def _table(title: str, rows: Sequence[Row], cells: Callable[[Row], dict[str, str]]) -> Table:
    table = Table(title=title, title_justify='left', title_style='bold', header_style='bold',
                  min_width=len(title))
    headings = list(cells(rows[0]))
    table.add_column('')
    for heading in headings:
        table.add_column(heading, justify='right')
    for heading, of_group in grouped(rows):
        table.add_section()
        table.add_row(heading, style='italic')
        for row in of_group:
            table.add_row(broken(row['decoder'], 18), *cells(row).values())
    return table


def _cells(row: Row) -> dict[str, str]:
    """Return a row's figures, each with its interval under it, by the headings of the table."""
    time, passes = row.get('ms_per_action'), row.get('passes_per_action')
    return _success_cells(row) | {
        'ms/action': _cell(time['mean'], time['interval'], '.1f') if time else '',
        '× ar': _cell(row['speedup_vs_ar'], row['speedup_interval'], '.2f')
        if 'speedup_vs_ar' in row else '',
        'passes': _cell(passes['mean'], passes['interval'], '.2f') if passes else ''}


def _step_cells(row: Row) -> dict[str, str]:
    """Return what an executed control step costs: an action's cost, shared out among its steps."""
    found = {heading: row.get(f'{figure}_per_step')
             for heading, figure in (('ms/step', 'ms'), ('passes', 'passes'))}
    return {heading: _cell(value['mean'], value['interval'], '.2f') if value else ''
            for heading, value in found.items()}


def _success_cells(row: Row) -> dict[str, str]:
    if row['subset'] == 'successful':
        return {'episodes': str(row['episodes'])}
    success = f'{row["successes"]}/{row["episodes"]}' + (' *' if row['on_front'] else '')
    low, high = (100 * end for end in row['success_interval'])
    against, delta = row.get('success_vs_ar'), ''
    if against:
        ends = against['interval']
        delta = f'{against["points"]:+.1f}\n{ends[0]:+.0f}…{ends[1]:+.0f}'
    return {'solved': f'{success}\n{low:.0f}–{high:.0f} %', 'Δ to ar': delta}


def _cell(value: float, interval: Sequence[float] | None, form: str) -> str:
    """Return a figure and under it its interval, if there is one."""
    ends = '' if interval is None else '\n' + '–'.join(f'{end:{form}}' for end in interval)
    return f'{value:{form}}{ends}'


def write_comparison(path: Path, document: Report) -> None:
    """
    Draw success against time per action, and beside it the times of successful episodes only.

    Two axes per suite. Nothing is drawn where no episode ended.

    :raises SpecVLAError: the file cannot be written
    """
    drawn = [row for row in document['comparison']['rows'] if row['actions']]
    suites = list(dict.fromkeys(row['suite'] for row in drawn))
    if not suites:
        return
    most = max(sum(row['suite'] == suite and row['subset'] == 'all' for row in drawn)
               for suite in suites)
    size = (15 * len(suites), max(6.5, 2 + 0.42 * most))
    with figure_file(path, size, (5, 3) * len(suites)) as (figure, axes):
        for number, suite in enumerate(suites):
            of_suite = [row for row in drawn if row['suite'] == suite]
            _forest(axes[2 * number + 1], of_suite)
            _pareto(axes[2 * number], of_suite, suite, document['comparison']['points_below'])
        figure.supxlabel(footnote(document), fontsize=9, color='#555555', x=0.01, ha='left')
        figure.canvas.draw()  # settles the axes: labels are placed by where the points are
        figure.set_layout_engine('none')
        for number, suite in enumerate(suites):
            overall = [row for row in drawn if row['suite'] == suite and row['subset'] == 'all']
            place_labels(axes[2 * number], [_point(row) for row in overall])


def _mark(row: Row) -> tuple[str, str]:
    return _MARKS[row['verification']]


def _point(row: Row) -> Point:
    low, high = row['success_interval']
    return Point(row['ms_per_action']['mean'], 100 * row['success_rate'], row['decoder'],
                 _mark(row)[1], _ends(row['ms_per_action']), (100 * low, 100 * high))


def _ends(figure: Row) -> tuple[float, float]:
    """Return the ends of a mean's interval; the mean itself where there is none."""
    low, high = figure['interval'] or (figure['mean'], figure['mean'])
    return low, high


def _errors(figure: Row) -> list[list[float]]:
    """Return how far the interval of a mean reaches to both sides, as errorbar takes it."""
    low, high = _ends(figure)
    return [[max(0.0, figure['mean'] - low)], [max(0.0, high - figure['mean'])]]


def _pareto(axis: Any, rows: Sequence[Row], suite: str, below: float) -> None:
    """Draw all episodes: time per action to the right, success upwards, both with intervals."""
    overall = [row for row in rows if row['subset'] == 'all']
    for heading, of_group in grouped(overall):
        marker, colour = _mark(of_group[0])
        for number, row in enumerate(of_group):
            x, y = row['ms_per_action'], 100 * row['success_rate']
            low, high = (100 * end for end in row['success_interval'])
            axis.errorbar(
                x['mean'], y, xerr=_errors(x),
                yerr=[[max(0, y - low)], [max(0, high - y)]], fmt=marker, color=colour,
                markersize=9, markeredgecolor='white', elinewidth=0.9, capsize=2, zorder=3,
                label=heading if not number else None)
        front = sorted((row['ms_per_action']['mean'], 100 * row['success_rate'])
                       for row in of_group if row['on_front'])
        if len(front) > 1:
            axis.step(*zip(*front), where='post', color=colour, linewidth=1.2, alpha=0.6)
    reference = next((row for row in overall if row['decoder'] == 'ar'), None)
    if reference is not None:
        axis.axhline(100 * reference['success_rate'] - below, color='black', linestyle=':',
                     linewidth=1, label=f'{below} points below ar')
    axis.set_title(f'{suite}: success against time per action')
    axis.set_xlabel('ms per action, mean and 95 % interval')
    axis.set_ylabel('episodes solved, %, and 95 % interval')
    axis.margins(x=0.18, y=0.16)
    axis.legend(frameon=False, loc='upper center', bbox_to_anchor=(0.5, -0.1), ncols=4)


def _forest(axis: Any, rows: Sequence[Row]) -> None:
    """Draw the time per action of successful episodes, a line per decoder; hollow: of all."""
    solved = [row for _, of_group in grouped([r for r in rows if r['subset'] == 'successful'])
              for row in of_group]
    overall = {row['decoder']: row['ms_per_action']['mean'] for row in rows
               if row['subset'] == 'all'}
    for place, row in enumerate(solved):
        marker, colour = _mark(row)
        x = row['ms_per_action']
        axis.errorbar(
            x['mean'], place, xerr=_errors(x),
            fmt=marker, color=colour, markersize=8, markeredgecolor='white', capsize=2)
        axis.plot(overall[row['decoder']], place, marker, color='none', markersize=11,
                  markeredgecolor=colour)
        axis.text(1.02, place, f'{row["passes_per_action"]["mean"]:.2f}', va='center',
                  fontsize=9, transform=axis.get_yaxis_transform())
    axis.text(1.02, -0.9, 'passes', va='center', fontsize=9, transform=axis.get_yaxis_transform())
    axis.set_yticks(range(len(solved)), [row['decoder'] for row in solved], fontsize=9)
    axis.set_ylim(len(solved) - 0.4, -1.3)
    axis.set_title('successful episodes only (hollow: all)')
    axis.set_xlabel('ms per action, mean and 95 % interval')
