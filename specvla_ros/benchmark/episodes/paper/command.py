"""
`specvla report`: the paper's tables for our models, beside the paper's own numbers.

It is made of what `specvla eval` has measured; with `--play` it measures first what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from specvla_ros import files
from specvla_ros.benchmark import report, run_folder
from specvla_ros.benchmark.episodes.evaluation import finish, player_of, Unfinished
from specvla_ros.benchmark.episodes.paper import figures, sections, writing
from specvla_ros.benchmark.episodes.paper.arguments import check_arguments, ReportArgs
from specvla_ros.benchmark.episodes.paper.contents import Cell, Section
from specvla_ros.benchmark.episodes.paper.drafters import (
    drafters_section,
    length_figures,
    read_drafters,
)
from specvla_ros.benchmark.episodes.paper.measured import (
    check_together,
    MeasuredRun,
    paired,
    read_run,
)
from specvla_ros.benchmark.episodes.paper.playing import FOLDER, identity_run, missing_plans
from specvla_ros.benchmark.episodes.paper.provenance import sources_section
from specvla_ros.benchmark.episodes.paper.published import published, SOURCE
from specvla_ros.benchmark.report_files import leave
from specvla_ros.drafter_verdict import DrafterVerdict
from specvla_ros.errors import SpecVLAError
from specvla_ros.workforce.worker import MakeWorker
from specvla_ros.writable import check_writable

TITLE = "Spec-VLA's evaluation: the paper's figures and ours"
_FIGURES: dict[str, Callable[[Path, Sequence[MeasuredRun]], None]] = {
    'table1.png': figures.write_main, 'table2.png': figures.write_distribution,
    'table3.png': figures.write_positions, 'figure4.png': figures.write_sweep}
_DRAFTERS = 'drafters.png'
_FILES = ('report.md', 'report.html', 'report.json', *_FIGURES, _DRAFTERS)
_SHOWN = (1, 2, 3, 5, 6)  # columns of Table 1 that fit a terminal


def run(args: ReportArgs, make_player: MakeWorker | None = None) -> int:
    """
    Read the runs, play what is asked for, and write the report; returns the exit code.

    :param make_player: makes the player in each worker; the default is LIBERO with the policy
    :raises ValueError: bad input, in one line
    """
    check_arguments(args)
    console = Console()
    drafters = read_drafters(args.training)
    runs = _read(args.run, console)
    check_together(runs)
    folder, plans = _plans(args, runs)
    for own, plan in plans:
        console.print(f'{plan.suites[0]}: {", ".join(plan.decoders)}', style='bold',
                      highlight=False)
        try:
            finish(plan, make_player or player_of(own, plan), console)
        except Unfinished as end:
            return end.code
    runs += _read([plan.folder for _, plan in plans], console)
    if plans:  # of the command that has played them
        played = {plan.folder for _, plan in plans}
        runs = [replace(one, command=('specvla', *sys.argv[1:])) if one.path in played else one
                for one in runs]
    runs = paired(runs)
    document, parts = make_document(runs, drafters)
    _print(parts, console)
    _write(folder, document, parts, runs, drafters, args.json, console)
    return 0


def make_document(runs: Sequence[MeasuredRun], drafters: Sequence[DrafterVerdict]
                  ) -> tuple[report.Report, list[Section]]:
    """Return a report for machines, and for people."""
    parts: list[Section] = []
    if runs:
        parts += [make(runs) for make in (
            sections.main_section, sections.distribution_section, sections.position_section,
            sections.sweep_section)]
    if drafters:
        parts.append(drafters_section(drafters))
    if runs:
        parts.append(sources_section(runs))
    rows = [row | {'run': str(one.path)} for one in runs for row in one.rows.values()]
    document = report.report(sys.argv, {}, {}, rows) | {
        'runs': [one.identity | {'path': str(one.path), 'command': list(one.command)}
                 for one in runs],
        'drafters': [asdict(one) for one in drafters],
        'paper': {'source': SOURCE, 'suites': {
            suite: asdict(row) for suite, row in published().items()}},
        'sections': [asdict(part) for part in parts]}
    return document, parts


def _read(paths: Sequence[Path], console: Console) -> list[MeasuredRun]:
    runs = []
    for path in paths:
        with console.status(f'reading {path}'):
            runs.append(read_run(path))
    return runs


def _plans(args: ReportArgs, runs: Sequence[MeasuredRun]) -> tuple[Path, list[Any]]:
    """Return the report's folder and what is to be played; nothing is made yet."""
    identity: dict[str, Any] = {
        'runs': [str(one.path.resolve()) for one in runs],
        'training': [str(path.resolve()) for path in args.training]}
    plans = missing_plans(args, runs, args.out or Path()) if args.play else []
    for _, plan in plans:
        check_together([*runs, identity_run(plan)])
    if args.out is not None:
        folder = args.out
    else:
        identity['plans'] = [plan.identity() for _, plan in plans]
        folder = run_folder.default_folder('report', identity)
        plans = [(own, replace(plan, folder=folder / plan.folder)) for own, plan in plans]
    _check_folder(folder)
    return folder, plans


def _check_folder(folder: Path) -> None:
    """Raise SpecVLAError for a folder that holds something else: it would be mixed up."""
    if folder.exists() and not folder.is_dir():
        raise SpecVLAError(f'--out {folder} is a file; give a folder')
    check_writable('--out', folder)
    for found in sorted(folder.iterdir()) if folder.exists() else ():
        if found.name not in _FILES and not found.name.startswith(FOLDER):
            raise SpecVLAError(f'--out {folder} holds {found.name}, which is not of '
                               '`specvla report`; give a new folder')


def _print(parts: Sequence[Section], console: Console) -> None:
    """Print Table 1, or else the drafters' table, a heading for each suite or decoder."""
    shown = parts[0].table
    if shown is None:
        return
    columns = _SHOWN if parts[0].figure == 'table1.png' else (1, 2, 3)
    table = Table(title=parts[0].title, title_justify='left', title_style='bold', pad_edge=False)
    for column in columns:
        table.add_column(shown.headings[column], min_width=14 if column == columns[0] else None)
    group = None
    for line in shown.lines:
        if line.cells[0].main != group:
            group = line.cells[0].main
            table.add_section()
            table.add_row(group, style='bold')
        cells = [*line.cells, *[Cell('')] * len(shown.headings)]
        if line.kind == 'missing':
            cells[3] = Cell(sections.NOT_MEASURED)
        table.add_row(*('\n'.join(filter(None, (cells[column].main, cells[column].small)))
                        for column in columns), style='' if line.kind == 'ours' else 'dim')
    console.print(table)


def _write(folder: Path, document: report.Report, parts: Sequence[Section],
           runs: Sequence[MeasuredRun], drafters: Sequence[DrafterVerdict],
           json_path: Path | None, console: Console) -> None:
    if runs:
        for name, write in _FIGURES.items():
            write(folder / name, runs)
    if drafters:
        figures.write_drafters(folder / _DRAFTERS, length_figures(drafters))
    text = sections.front_text(runs) if runs else ''
    leave(document, folder, json_path, console, {
        'report.md': lambda path: files.write_text(path, writing.markdown(TITLE, text, parts)),
        'report.html': lambda path: files.write_text(
            path, writing.page(TITLE, text, parts, folder))})
