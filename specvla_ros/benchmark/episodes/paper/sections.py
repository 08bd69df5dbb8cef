"""The paper's Tables 1, 2 and 3 and its Figure 4, with our figures beside its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from specvla_ros.benchmark.acceptance_figures import LIBERO_TOKENS
from specvla_ros.benchmark.episodes.paper.contents import (
    Cell,
    figure_cell,
    interval_text,
    line,
    ReportTable,
    Section,
    TableLine,
)
from specvla_ros.benchmark.episodes.paper.measured import MeasuredRun
from specvla_ros.benchmark.episodes.paper.published import published, settings, SOURCE, SUITES
from specvla_ros.benchmark.episodes.paper.roles import (
    AR,
    MeasuredDecoder,
    of_suite,
    RELAXED,
    ROLES,
    STRICT,
    swept,
)
from specvla_ros.benchmark.report import Row

MOST_POINTS_LOST = 3  # of success, that a threshold may cost to be recommended
NOT_MEASURED = 'not measured'
_PAPER = 'paper'
_RULES = ((STRICT, 0), (RELAXED, 1))  # with their places in the paper's tables


def to_measure(suite: str, more: str = '') -> str:
    """Return the command that measures what is missing of a suite."""
    return f'`specvla report --play --suite {suite} --trials 10 {more}--checkpoint FOLDER`'


def missing(suite: str, *cells: Cell | str) -> TableLine:
    """Return the row of what was not measured, with what to run."""
    return line('missing', *cells, Cell(NOT_MEASURED, to_measure(suite)))


def main_section(runs: Sequence[MeasuredRun]) -> Section:
    """Return Table 1: success, acceptance length and speed."""
    lines: list[TableLine] = []
    for suite in SUITES:
        lines += _papers_main(suite)
        decoders = of_suite(runs, suite)
        if not decoders:
            lines.append(missing(suite, suite, 'ours', 'all'))
        for role in ROLES if decoders else ():
            found = [decoder for decoder in decoders if decoder.role == role]
            lines += [_main_line(suite, decoder) for decoder in found] or [
                missing(suite, suite, 'ours', role)]
        lines += [_main_line(suite, decoder) for decoder in decoders
                  if decoder.role not in ROLES and decoder.threshold is None]
    return Section('Table 1: success, acceptance length and speed', (
        "Success: solved of ended episodes, Wilson's 95 % interval. Δ to ar: percentage points "
        "over the initial states that both ended, Newcombe's interval. Length: tokens that a "
        'verification gains, bonus token included; n: verifications. Speed-up: mean time per '
        'action of `ar` in the same run through this one; n: actions. Their intervals are a '
        'bootstrap over episodes. The paper gives neither counts nor intervals.'),
        ReportTable(('suite', 'whose', 'decoder', 'success, %', 'Δ to ar', 'length', 'speed-up',
                     'passes per action'), tuple(lines)), 'table1.png')


def _papers_main(suite: str) -> list[TableLine]:
    row, reach = published()[suite], settings().threshold(suite)
    names = ('ar', 'strict', f'relaxed, r = {reach}')
    lines = []
    for number, name in enumerate(names):
        delta = '' if not number else f'{row.success[number] - row.success[0]:+.1f}'
        others = ('', '') if not number else (
            f'{row.length[number - 1]:.2f}', f'{row.speedup[number - 1]:.2f}×')
        lines.append(line('paper', suite, _PAPER, name, f'{row.success[number]:.1f}', delta,
                          *others, ''))
    return lines


def _main_line(suite: str, decoder: MeasuredDecoder) -> TableLine:
    row, passes = decoder.row, decoder.row.get('passes_per_action')
    is_ar = decoder.role == AR
    return line('ours', suite, 'ours', label(decoder), success_cell(row), Cell('') if is_ar
                else delta_cell(row), Cell('1.00', 'by definition') if is_ar
                else length_cell(row), Cell('') if is_ar else speed_cell(row),
                Cell('–') if not passes else Cell(f'{passes["mean"]:.2f}', ', '.join((
                    interval_text(passes['interval'], '.2f'), f'n {row["actions"]:,}'))))


def label(decoder: MeasuredDecoder) -> str:
    """Return a decoder's name, and r where it has one and the name doesn't say it."""
    reach = decoder.threshold
    return decoder.name if not reach or f'r{reach}' in decoder.name \
        else f'{decoder.name}, r = {reach}'


def success_cell(row: Row) -> Cell:
    """Return the share of solved episodes."""
    crashes = f', {row["crashes"]} crashed' if row.get('crashes') else ''
    return Cell(f'{100 * row["success_rate"]:.1f}', ', '.join((
        interval_text(row['success_interval'], '.0f', 100),
        f'{row["successes"]} of {row["episodes"]}{crashes}')))


def delta_cell(row: Row) -> Cell:
    """Return the difference of success to `ar`."""
    against = row.get('success_vs_ar')
    if not against:
        return Cell(NOT_MEASURED, 'no `ar` from the same states, or a file without --compare')
    return Cell(f'{against["points"]:+.1f}', f'{interval_text(against["interval"], "+.0f")}, '
                f'{against["pairs"]} pairs')


def length_cell(row: Row) -> Cell:
    """Return the acceptance length; '–' where no action needed a second pass."""
    known = row.get('acceptance') or {}
    if not known and row.get('acceptance_length') is not None:  # a file of an earlier version
        return Cell(f'{row["acceptance_length"]:.2f}', 'no interval')
    return figure_cell(known.get('length'))


def speed_cell(row: Row) -> Cell:
    """Return how many times as fast as `ar` it is."""
    ratio = row.get('speedup_vs_ar')
    if ratio is None:
        return Cell(NOT_MEASURED, 'no `ar` in this run')
    return Cell(f'{ratio:.2f}×', f'{interval_text(row.get("speedup_interval"), ".2f")}, '
                f'n {row["actions"]:,}')


def distribution_section(runs: Sequence[MeasuredRun]) -> Section:
    """Return Table 2: shares of verifications by the draft tokens that they accepted."""
    longest = max([5, *(len(shares_of(decoder.row)) - 1 for suite in SUITES
                        for decoder in of_suite(runs, suite) if decoder.role in (STRICT, RELAXED))
                   ])
    lines: list[TableLine] = []

    def ours(suite: str, decoder: MeasuredDecoder) -> TableLine:
        shares = shares_of(decoder.row)
        cells = [figure_cell(figure, '.1f', 100) for figure in shares]
        # n is the same in all of them; the length has it.
        return line('ours', suite, 'ours', label(decoder), *(
            Cell(cell.main, cell.small.rpartition(', n')[0]) for cell in cells),
            *[Cell('0.0')] * (longest + 1 - len(shares)), length_cell(decoder.row))

    for suite in SUITES:
        row = published()[suite]
        for role, place in _RULES:
            shares = row.accepted[place]
            lines.append(line('paper', suite, _PAPER, role, *(f'{share:.1f}' for share in shares),
                              *[''] * (longest + 1 - len(shares)), Cell(
                                  f'{row.mean_length(place):.2f}',
                                  f'its Table 1: {row.length[place]:.2f}')))
            lines += _lines_of(runs, suite, role, ours)
    return Section('Table 2: accepted draft tokens of a verification', (
        'Shares of verifications, %, that accepted so many draft tokens. Length: the mean, and '
        'the bonus token. Of the paper it is worked out from these shares; for libero_goal its '
        'Table 1 says more than they give. Intervals: a bootstrap over episodes. Ours stops once '
        'the action is complete, so a verification near its end can accept few tokens only.'),
        ReportTable(('suite', 'whose', 'decoder', *map(str, range(longest + 1)), 'length'),
                    tuple(lines)), 'table2.png')


def shares_of(row: Row) -> list[dict[str, Any]]:
    """Return the shares of accepted draft tokens 0, 1 …; [] where there are none."""
    return (row.get('acceptance') or {}).get('shares', [])


def _lines_of(runs: Sequence[MeasuredRun], suite: str, role: str,
              make: Callable[[str, MeasuredDecoder], TableLine]) -> list[TableLine]:
    """Return the rows of our decoders of a role that have lengths, or that there are none."""
    found = [decoder for decoder in of_suite(runs, suite)
             if decoder.role == role and shares_of(decoder.row)]
    return [make(suite, decoder) for decoder in found] or [missing(suite, suite, 'ours', role)]


def position_section(runs: Sequence[MeasuredRun]) -> Section:
    """Return Table 3: accepted draft tokens by where in the action a verification begins."""
    lines: list[TableLine] = []

    def ours(suite: str, decoder: MeasuredDecoder) -> TableLine:
        at = positions_of(decoder.row)
        return line('ours', suite, label(decoder), *(
            figure_cell(at.get(name)) for name in LIBERO_TOKENS))

    for suite in SUITES:
        for role, _ in _RULES:
            lines += [each if each.kind == 'ours' else missing(suite, suite, role)
                      for each in _lines_of(runs, suite, role, ours)]
    return Section('Table 3: accepted draft tokens by position', (
        'Mean number of draft tokens that a verification accepts, by the first token that it may '
        'accept (n verifications). The prefill says x, so verifications begin at y; the later '
        'one begins, the fewer tokens are left. Of an action of several control steps, steps '
        "are taken together. The paper's own values are not among its data here."),
        ReportTable(('suite', 'decoder', *LIBERO_TOKENS), tuple(lines)), 'table3.png')


def positions_of(row: Row) -> dict[str, dict[str, Any]]:
    """Return the figures by position, by the name of the first token that may be accepted."""
    return (row.get('acceptance') or {}).get('by_token', {})


def sweep_section(runs: Sequence[MeasuredRun]) -> Section:
    """Return Figure 4: success, length and speed over the threshold r."""
    lines: list[TableLine] = []
    for suite in SUITES:
        decoders = list(swept(of_suite(runs, suite)))
        best = recommended(decoders)
        lines += [line('ours', suite, Cell(str(decoder.threshold), advice(decoder)
                                           if decoder is best else ''), decoder.name,
                       success_cell(decoder.row), delta_cell(decoder.row),
                       length_cell(decoder.row), speed_cell(decoder.row))
                  for decoder in decoders]
        if len(decoders) < 2:
            lines.append(line('missing', suite, '0 … 15', Cell(NOT_MEASURED, to_measure(
                suite, '--thresholds 0 1 3 5 7 9 11 13 15 '))))
    return Section('Figure 4: over the threshold r', (
        "EAGLE's drafts accepted within r bins, r = 0 being strict. Recommended: the longest "
        f'acceptance length among those that solve at most {MOST_POINTS_LOST} percentage points '
        "fewer than `ar`; *not sure* where the interval of Δ reaches further down. The paper's "
        'Figure 4 is not among its data here; hollow marks are the two points of its Table 1.'),
        ReportTable(('suite', 'r', 'decoder', 'success, %', 'Δ to ar', 'length', 'speed-up'),
                    tuple(lines)), 'figure4.png')


def recommended(decoders: Sequence[MeasuredDecoder]) -> MeasuredDecoder | None:
    """Return the threshold with the longest acceptance length that costs little success."""
    able = [decoder for decoder in decoders
            if (decoder.row.get('success_vs_ar') or {}).get('points', -100) >= -MOST_POINTS_LOST
            and decoder.row.get('acceptance_length') is not None]
    return max(able, key=lambda one: one.row['acceptance_length'], default=None) \
        if len(decoders) > 1 else None


def advice(decoder: MeasuredDecoder) -> str:
    """Say of a recommended threshold whether its episodes are enough to be sure of it."""
    low, _ = decoder.row['success_vs_ar']['interval']
    return 'recommended' if low >= -MOST_POINTS_LOST else 'recommended, not sure'


def front_text(runs: Sequence[MeasuredRun]) -> str:
    """Return what the report is, and whose figures are whose."""
    measured = [suite for suite in SUITES if of_suite(runs, suite)]
    left = [suite for suite in SUITES if suite not in measured]
    return ' '.join(filter(None, (
        f'Rows marked *paper* are the own figures of {SOURCE}: its machine, its OpenVLA of 7B '
        'parameters, its episodes. Rows marked *ours* were measured by the commands, on the '
        'machines and with the weights under *Where ours come from*.',
        f'Measured: {", ".join(measured)}.' if measured else '',
        f'Not measured: {", ".join(left)}. The commands in their rows measure them; FOLDER is a '
        "checkpoint with the suite's statistics, and `--run` of what was measured keeps it in the "
        'report.' if left else '')))
