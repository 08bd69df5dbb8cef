"""The rows of a report as tables on a terminal."""

from collections.abc import Sequence
import re
import sys

from rich.console import Console
from rich.table import Table

from specvla_ros.benchmark.report import conditions, grouped, Report, Row, STAGES

_NOTES = ('Crashes are not among the ended episodes. Passes count the prefill; acceptance\n'
          'length = tokens per pass after it, bonus included. Equal actions: of those up to\n'
          'the first that differs. Errors: against ar on the same observations. Ceiling:\n'
          'what a free drafter that is always right would reach, ar ÷ its image, vision,\n'
          "prefill. Risk: mean entropy of the target's words, 0 to 1; its AUROC: 0.5 says\n"
          'nothing, 1 tells all failed episodes from the solved ones. Lossless: the tokens\n'
          "are the target's own choice; relaxed: it accepted near ones; unverified: it\n"
          'never saw some.')
_LABEL_WIDTH, _COLUMN_WIDTH = 38, 14  # of a table, characters: three decoders fit 80
# Lines that are left out where all decoders have 0 of it.
_ONLY_IF_ANY = {
    'tokens the target never saw', 'actions without a pass', 'forbidden tokens it wanted'}


def print_tables(document: Report, console: Console | None = None) -> None:
    """
    Print a report's rows: a table per suite with a column per decoder, then one by task.

    The machine and the weights they were got on stand below. A table has as many decoders as fit
    the console, three in 80 columns; the others get further ones.
    """
    console = console or Console(file=sys.stdout)
    everything = document['rows']
    for suite in dict.fromkeys(row['suite'] for row in everything):
        of_suite = [row for row in everything if row['suite'] == suite]
        print_figures(suite, [row for row in of_suite if row['task'] is None], console)
        by_task = [row for row in of_suite if row['task'] is not None]
        if len({row['task'] for row in by_task}) > 1:
            for part in _parts(by_task, console.width):
                console.print(_task_table(suite, part))
    console.print(f'{provenance(document)}\n{_NOTES}', style='dim', highlight=False, markup=False)


def print_figures(title: str, rows: Sequence[Row], console: Console) -> None:
    """Print `figures_table` of these rows, cut into parts that fit the console."""
    for part in _parts(rows, console.width):
        console.print(figures_table(title, part))


def _parts(rows: Sequence[Row], width: int) -> list[list[Row]]:
    """Cut rows into as many decoders as a table of this width holds, by what they promise."""
    decoders = list(dict.fromkeys(row['decoder'] for _, of_group in grouped(rows)
                                  for row in of_group))
    most = max(1, (width - _LABEL_WIDTH) // _COLUMN_WIDTH)
    return [[row for name in decoders[first:first + most] for row in rows
             if row['decoder'] == name] for first in range(0, len(decoders), most)]


def broken(name: str, most: int) -> str:
    """Break a decoder's name behind blanks, hyphens or underscores, as far as lines are longer."""
    lines = ['']
    for part in re.split(r'(?<=[ _-])', name):
        if lines[-1] and len((lines[-1] + part).rstrip()) > most:
            lines.append('')
        lines[-1] += part
    return '\n'.join(line.rstrip(' ') for line in lines)


def figures_table(title: str, rows: Sequence[Row]) -> Table:
    """Return a table with a column per decoder and a line per figure that at least one has."""
    decoders = list(dict.fromkeys(row['decoder'] for row in rows))
    table = Table(title=title, title_justify='left', title_style='bold', header_style='bold')
    table.add_column('')
    for decoder in decoders:
        table.add_column(decoder, justify='right')
    for subset, heading in (('all', None), ('successful', 'successful episodes only')):
        of_subset = {row['decoder']: row for row in rows if row['subset'] == subset}
        if not of_subset:
            continue
        if heading:
            table.add_section()
            table.add_row(heading, style='italic')
        none: Row = {'actions': 0, 'subset': subset}
        for name, cells in shown_lines([of_subset.get(name, none) for name in decoders]):
            table.add_row(name, *cells)
    return table


def shown_lines(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """Return the lines of a table with a column per row, without those that say nothing."""
    columns = [figure_lines(row) for row in rows]
    lines = [(name, [column[name] for column in columns]) for name in columns[0]]
    return [(name, cells) for name, cells in lines
            if any(cell and (cell != '0' or name not in _ONLY_IF_ANY) for cell in cells)]


def figure_lines(row: Row) -> dict[str, str]:
    """Return a row's figures as the lines of its column; empty where there is none."""
    interval, times = row.get('success_interval'), row.get('ms_per_action', {})
    equal, stages = row.get('tokens_equal_ar'), row.get('stage_ms', {})
    live, risk = row.get('tokens_equal_live'), row.get('risk', {})
    solved_only = row.get('subset') == 'successful'
    lines = {
        'verification': '' if solved_only else row.get('verification') or '',
        'solved / ended episodes': '' if solved_only or 'episodes' not in row else
        f'{row["successes"]}/{row["episodes"]}',
        'success, 95 % interval': f'{100 * interval[0]:.0f}–{100 * interval[1]:.0f} %'
        if interval else '',
        'crashes': '' if solved_only else _number(row.get('crashes'), 'd'),
        'actions': _number(row.get('actions'), 'd'),
        'target passes per action': _number(row.get('target_passes_per_action'), '.2f'),
        'actions without a pass': _number(row.get('actions_without_pass'), 'd'),
        'acceptance length': _number(row.get('acceptance_length'), '.2f'),
        'tokens the target never saw': _share(row.get('unverified'), row.get('tokens')),
        'forbidden tokens it wanted': _number(row.get('forbidden'), 'd'),
        'ms per action, mean': _number(times.get('mean'), '.1f'),
        '  median': _number(times.get('p50'), '.1f'),
        '  95th percentile': _number(times.get('p95'), '.1f'),
    }
    if not solved_only:
        lines |= {f'  of it {name}': _number(stages.get(name), '.1f') for name in STAGES}
        lines['ROS around it, median'] = _number(
            row.get('ros_ms_per_action', {}).get('p50'), '.1f')
    of_steps = row.get('ms_per_step', {})
    lines |= {
        'control steps executed': _number(row.get('steps'), 'd'),
        '  passes per step': _number(row.get('target_passes_per_step'), '.2f'),
        '  ms per step, mean': _number(of_steps.get('mean'), '.1f'),
        '  95th percentile of it': _number(of_steps.get('p95'), '.1f'),
    }
    share = row.get('ceiling_share')
    lines |= {
        'speed-up against ar': _number(row.get('speedup_vs_ar'), '.2f', '×'),
        'its ceiling here': _number(row.get('speedup_ceiling'), '.2f', '×'),
        'share of the ceiling': '' if share is None else f'{100 * share:.0f} %',
    }
    if not solved_only:
        lines |= {
            'actions equal to ar': f'{equal["actions_equal"]}/{equal["actions"]}'
            if equal else '',
            'actions equal to the live ones': f'{live["actions_equal"]}/{live["actions"]}'
            if live else '',
            'largest error, bins': _number(row.get('max_bin_error'), 'd'),
            'mean error, mm': _number(row.get('mean_abs_error_mm'), '.2f'),
            'mean error, deg': _number(row.get('mean_abs_error_deg'), '.2f'),
            'risk, mean': _number(row.get('mean_risk'), '.3f'),
            'risk of failed / solved episodes': ' / '.join(
                _number(risk[group], '.3f') or '–' for group in ('failed', 'solved'))
            if risk else '',
            '  AUROC of it': _number(risk.get('auroc'), '.2f'),
            "frames missed at the bag's rate": _number(row.get('missed_frames'), 'd'),
        }
    return lines


def _task_table(suite: str, rows: list[Row]) -> Table:
    decoders = list(dict.fromkeys(row['decoder'] for row in rows))
    table = Table(title=f'{suite}, by task: solved, acceptance length, ms per action',
                  title_justify='left', title_style='bold', header_style='bold')
    table.add_column('task', justify='right')
    for decoder in decoders:
        table.add_column(decoder, justify='right')
    by_place = {(row['task'], row['decoder']): row for row in rows}
    for task in dict.fromkeys(row['task'] for row in rows):
        cells = []
        for decoder in decoders:
            row = by_place.get((task, decoder))
            cells.append('' if row is None else '  '.join((
                f'{row["successes"]}/{row["episodes"]}',
                _number(row.get('acceptance_length'), '.2f') or '–',
                _number(row.get('ms_per_action', {}).get('mean'), '.0f') or '–')))
        table.add_row(str(task), *cells)
    return table


def _share(part: int | None, whole: int | None) -> str:
    if not whole:
        return ''
    return f'{100 * part / whole:.0f} %' if part else '0'


def _number(value: float | None, form: str, unit: str = '') -> str:
    return '' if value is None else format(value, form) + unit


def provenance(document: Report) -> str:
    """Return the machine, versions and weights that figures were got with, on two lines."""
    host, found = document['machine'], document['versions']
    checkpoint = document['checkpoint']
    gpus = ', '.join(host['gpus']) or 'no GPU'
    settings = ', '.join(f'{name.replace("_", " ")} {document["config"][name]}'
                         for name in ('device', 'workers', 'threads')
                         if document['config'].get(name) is not None)
    weights = ', '.join(f'{name.removesuffix("_sha256")} {value[:12]}'
                        for name, value in checkpoint.items()
                        if name.endswith('_sha256') and value)
    packages = ', '.join(f'{name} {found[name]}' for name in ('torch', 'mujoco')
                         if name in found)
    moving = conditions(document['config'])
    return (f'{host["cpu"]}, {host["cores"]} cores, {gpus}; {settings}\n'
            + (f'{moving}\n' if moving else '') +
            f'specvla {document["specvla"]}, {packages}; sha256: {weights or "random weights"}')
