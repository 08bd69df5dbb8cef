"""Where our figures come from: a row for each run, and what is not alike among them."""

from __future__ import annotations

from collections.abc import Sequence
import shlex

from specvla_ros.benchmark.episodes.paper.contents import (
    Cell,
    line,
    ReportTable,
    Section,
    TableLine,
)
from specvla_ros.benchmark.episodes.paper.measured import MeasuredRun
from specvla_ros.benchmark.episodes.paper.roles import described


def sources_section(runs: Sequence[MeasuredRun]) -> Section:
    """Return the runs: machine, weights, settings and command of each."""
    lines = [_line(run) for run in runs]
    text = ' '.join(('Interrupted runs count with the episodes they have.', *_unlike(runs)))
    return Section('Where ours come from', text, ReportTable(
        ('suites', 'machine', 'weights, sha256', 'decoders', 'command'), tuple(lines)))


def _line(run: MeasuredRun) -> TableLine:
    config, checkpoint = run.identity['config'], run.identity['checkpoint']
    hashes = [f'{name.removesuffix("_sha256")} {value[:12]}' for name, value in checkpoint.items()
              if name.endswith('_sha256') and isinstance(value, str)]
    versions = run.identity['versions']
    packages = [f'{name} {versions[name]}' for name in ('torch', 'mujoco') if name in versions]
    settings = [f'{name} {config[name]}' for name in (
        'workers', 'threads', 'device', 'dtype', 'quantization', 'chunk', 'execute_steps',
        'max_steps') if config.get(name) not in (None, 'none')]
    return line('ours', ', '.join(run.suites), Cell(machine_text(run), ', '.join(
        (*packages, *settings))), Cell(', '.join(hashes)), Cell('; '.join(
            described(run, name) for name in dict.fromkeys(name for _, name in run.rows))),
        Cell(shlex.join(run.command) if run.command else f'in {run.path}'))


def machine_text(run: MeasuredRun) -> str:
    """Return processor, cores and GPUs."""
    host = run.identity['machine']
    gpus = ', '.join(host.get('gpus') or ()) or 'no GPU'
    return f'{host.get("cpu", "unknown processor")}, {host.get("cores", "?")} cores, {gpus}'


def _unlike(runs: Sequence[MeasuredRun]) -> list[str]:
    """Say what a reader would take for the same in all suites, and is not."""
    said = []
    if len({run.identity['checkpoint'].get('target_sha256') for run in runs}) > 1:
        said.append('**The suites were played with different weights.**')
    if len({machine_text(run) for run in runs}) > 1:
        said.append('**They were played on different machines: a speed-up is against `ar` on the '
                    'same machine, so times of different suites are not comparable.**')
    if any((run.identity['config'].get('workers') or 1) > 1 for run in runs):
        said.append('With more than one worker, processes share the cores: times are cleaner '
                    'with one.')
    if any(run.identity['config'].get('max_steps') for run in runs):
        said.append("**Where max_steps stands, episodes were shorter than LIBERO's own limit.**")
    return said
