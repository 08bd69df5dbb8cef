"""
The figures of a bench: rows from samples, and the tables on the screen.

Times of one observation are a pair, so the interval of a ratio comes from drawing observations,
all repeats of one together, not single actions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
import resource
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
import torch

from specvla_ros.benchmark import report, report_tables
from specvla_ros.benchmark.latency.contest import Sample
from specvla_ros.benchmark.latency.contestants import Contestants
from specvla_ros.benchmark.latency.cost import total, Work
from specvla_ros.benchmark.observations import Footage
from specvla_ros.benchmark.report import BASELINE, Report, Row
from specvla_ros.configuration import DecoderConfig
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.openvla.quantization import stored_bytes

_DRAWS = 2000  # of the bootstrap: 50 beyond each end of the interval
_STAGES = (*report.STAGES, 'generate')


def make_report(
    command: Sequence[str], config: dict[str, Any], hashes: dict[str, str | None],
    contestants: Contestants, episodes: Sequence[Footage], samples: Sequence[Sample],
    decoders: Mapping[str, DecoderConfig],
) -> Report:
    """Return the JSON document: the shape all commands write, and the device's ceilings."""
    prompts = [_prompt_rows(contestants, episode) for episode in episodes]
    made = [_row(name, samples, contestants, prompts) | {'suite': config.get('suite')}
            for name in contestants.policies]
    _compare(made, samples, config['seed'])
    ceilings = contestants.ceilings
    return report.report(command, config, hashes, made, decoders) | {
        'ceilings': {'bytes_per_s': ceilings.bandwidth, 'flops_per_s': ceilings.rate},
        'peak_memory_mib': peak_memory_mib(contestants.checkpoint.model.device),
        'weights': _weights(contestants.checkpoint.model),
        'prompt_rows': prompts, 'left_out': contestants.left_out,
    }


def peak_memory_mib(device: torch.device) -> float:
    """Return the most memory in use so far, MiB: of the GPU there, else of this process."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux


def _weights(model: OpenVLA) -> dict[str, int]:
    """Bytes of the target's weights, as they are stored and as they would be unquantised."""
    weights = list(model.parameters())
    return {'bytes': stored_bytes(weights),
            'unquantized_bytes': sum(w.numel() * w.element_size() for w in weights)}


def ratio_interval(
    baseline: NDArray[np.float64], other: NDArray[np.float64], seed: int
) -> tuple[float, float]:
    """
    Return the 95 % interval of mean(baseline) / mean(other), by a paired bootstrap.

    :param baseline: one time per observation [N], and `other` those on the same observations

    Source: B. Efron, "Bootstrap methods", Annals of Statistics 7 (1979); percentile interval.
    """
    drawn = np.random.default_rng(seed).integers(0, len(other), (_DRAWS, len(other)))
    ratios = baseline[drawn].mean(axis=1) / other[drawn].mean(axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(low), float(high)


def _prompt_rows(contestants: Contestants, episode: Footage) -> int:
    """Rows of an episode's prompt: patches and text."""
    checkpoint = contestants.checkpoint
    ids = checkpoint.prompt_ids(episode.instruction)
    return checkpoint.model.config.n_patches + ids.shape[1]


def _row(name: str, samples: Sequence[Sample], contestants: Contestants,
         prompts: Sequence[int]) -> Row:
    own = [sample for sample in samples if sample.contestant == name]
    peer = name in contestants.peers
    row: Row = {'decoder': name, 'peer': peer, 'task': None, 'subset': 'all',
                **report.action_figures([sample.record for sample in own])}
    if taken := Counter(sample.taken for sample in own if sample.taken):
        row['actions_by_candidate'] = dict(taken)
    passes: dict[str, list[Work]] = {}
    for sample in own:
        for stage, work in contestants.costs[name].action(prompts[sample.place[1]], sample.drafts):
            # `generate` is one call: from outside its prefill has no visible end.
            stage = 'generate' if peer and stage != 'vision' else stage
            passes.setdefault(stage, []).append(work)
    row['passes'] = {
        stage: _stage_figures(works, row['stage_ms'][stage] * len(own), contestants)
        for stage, works in passes.items()}
    floors = {stage: contestants.ceilings.floor_ms(works) / len(own)
              for stage, works in passes.items()}
    row['floor_ms'] = floors | {'total': sum(floors.values())}
    # Preparing the image is the host's work and has no floor here.
    model_ms = row['ms_per_action']['mean'] - row['stage_ms']['preprocess']
    row['times_floor'] = model_ms / row['floor_ms']['total']
    if peer:
        tokenizer = contestants.checkpoint.space.tokenizer
        row['actions_with_text_tokens'] = sum(
            not all(map(tokenizer.is_action, sample.record.tokens)) for sample in own)
    return row


def _stage_figures(works: Sequence[Work], ms: float, contestants: Contestants) -> Row:
    """Return the mean pass of a stage; ms: what all its passes took together."""
    whole, n = total(works), len(works)
    return {'passes': n, 'bytes': whole.n_bytes / n, 'flops': whole.flops / n, 'ms': ms / n,
            'floor_ms': contestants.ceilings.floor_ms(works) / n,
            'flops_per_byte': whole.intensity, 'flops_per_s': whole.flops / (1e-3 * ms)}


def _compare(rows: list[Row], samples: Sequence[Sample], seed: int) -> None:
    """Add to each row how it stands against the baseline."""
    tokens = {sample.place: sample.record.tokens for sample in samples
              if sample.contestant == BASELINE}
    baseline = _times(BASELINE, samples)
    report.against_baseline(rows)
    for row in rows:
        own = _times(row['decoder'], samples)
        if row['decoder'] == BASELINE:
            continue
        row['speedup_interval'] = list(ratio_interval(baseline, own, seed))
        pairs = [sample.record.tokens == tokens[sample.place] for sample in samples
                 if sample.contestant == row['decoder'] and sample.record.deviation is not None]
        if pairs:
            row['tokens_equal_ar'] = {'actions': len(pairs), 'actions_equal': sum(pairs)}


def _times(name: str, samples: Sequence[Sample]) -> NDArray[np.float64]:
    """Return the mean time of each observation over its repeats, ms [N]."""
    times: dict[tuple[int, int], list[float]] = {}
    for sample in samples:
        if sample.contestant == name:
            times.setdefault(sample.place[1:], []).append(sample.record.stage_ms['total'])
    return np.array([np.mean(times[place]) for place in sorted(times)])


def print_tables(document: Report, console: Console | None = None) -> None:
    """Print a bench: times, stages, passes against their floor, machine and versions."""
    console = console or Console(file=sys.stdout)
    rows = document['rows']
    for table in (_times_table(rows), *_steps_tables(rows, document['config']),
                  _stages_table(rows), _tokens_table(rows), _passes_table(rows)):
        console.print(table)
    for row in rows:
        if taken := row.get('actions_by_candidate'):
            counts = ', '.join(f'{name} {count}' for name, count in taken.items())
            console.print(f'{row["decoder"]} took {counts}', markup=False, highlight=False)
    for name, reason in document['left_out'].items():
        console.print(f'{name} is left out: {reason}', markup=False, highlight=False)
    if document['config']['random_weights']:
        console.print('[bold]acceptance drawn, speed projected[/bold]: random weights '
                      f'({document["config"]["shape"]}), drafts accepted as in '
                      f'{document["config"]["acceptance"]}', highlight=False)
    ceilings, config = document['ceilings'], document['config']
    whose = 'GPU' if config['device'].startswith('cuda') else 'process'
    console.print(
        f'Measured here: copy {ceilings["bytes_per_s"] / 1e9:.1f} GB/s, of as many bytes as a '
        f'pass reads; matrix product {ceilings["flops_per_s"] / 1e9:.0f} GFLOP/s in '
        f'{config["dtype"]}; weights of the target {_megabytes(document)}; peak memory of the '
        f'{whose} {document["peak_memory_mib"]:.0f} MiB. '
        'The floor is that of the vision towers and the passes of the target; image and drafter '
        'have none. Ceiling: a free drafter that is always right, so ar through its image, vision '
        'and prefill; share: of the ceiling. "= ar": actions equal to those of ar on the same '
        'observation; "off": the largest distance from them; "with text": actions '
        'with a token that is no action; "unverified": tokens that the target never saw. '
        "Lossless: tokens are the target's own choice; relaxed: it accepted near ones. "
        'Floor: times the floor.',
        style='dim', highlight=False, markup=False)
    console.print(report_tables.provenance(document), style='dim', highlight=False, markup=False)


def _megabytes(document: Report) -> str:
    weights, kind = document['weights'], document['config']['quantization']
    stored = f'{weights["bytes"] / 1e6:.1f} MB'
    if kind == 'none':
        return stored
    return f'{stored} as {kind}, {weights["unquantized_bytes"] / 1e6:.1f} MB without'


def _table(title: str, *columns: str, names: int = 1) -> Table:
    """Return an empty table whose first columns, `names` of them, hold words."""
    table = Table(title=title, title_justify='left', title_style='bold', header_style='bold')
    for number, column in enumerate(columns):
        table.add_column(column, justify='right' if number >= names else 'left', overflow='fold')
    return table


def _ms(value: float) -> str:
    """Say a time with one decimal, whole from 100 on: a 7B on a CPU takes seconds an action."""
    return f'{value:.1f}' if value < 99.95 else f'{value:.0f}'


def _by_promise(rows: Sequence[Row], table: Table) -> Iterator[Row]:
    """Yield a table's rows by what they promise, with a heading each where they differ."""
    groups = report.grouped(rows)
    for heading, of_group in groups:
        if len(groups) > 1:
            table.add_section()
            table.add_row(heading, style='italic')
        yield from of_group


def _times_table(rows: Sequence[Row]) -> Table:
    limit = rows[0]['speedup_ceiling']
    title = f'ms per action, {rows[0]["actions"]} actions each'
    if limit is not None:
        title += f'; ceiling {limit:.2f}× ar'
    # Eighty columns hold the longest name, so headings are short.
    table = _table(title, '', 'mean', 'median', 'p95', '× ar', '95 %', 'share', 'floor')
    for row in _by_promise(rows, table):
        times, interval = row['ms_per_action'], row.get('speedup_interval')
        table.add_row(
            report_tables.broken(row['decoder'], 18),
            *(_ms(times[key]) for key in ('mean', 'p50', 'p95')),
            f'{row["speedup_vs_ar"]:.2f}',
            f'{interval[0]:.2f}–{interval[1]:.2f}' if interval else '',
            '' if row['ceiling_share'] is None else f'{100 * row["ceiling_share"]:.0f} %',
            _ms(row['times_floor']))
    return table


def _steps_tables(rows: Sequence[Row], config: Mapping[str, Any]) -> list[Table]:
    """Return the figures of a control step; none where an action is one step."""
    if 'ms_per_step' not in rows[0]:
        return []
    table = _table(f'per control step, {config["execute_steps"]} of {config["chunk"]} executed',
                   '', 'ms, mean', 'median', 'p95', 'passes')
    for row in rows:
        table.add_row(
            row['decoder'], *(_ms(row['ms_per_step'][key]) for key in ('mean', 'p50', 'p95')),
            f'{row["target_passes_per_step"]:.2f}')
    return [table]


def _stages_table(rows: Sequence[Row]) -> Table:
    shown = [name for name in _STAGES if any(name in row['stage_ms'] for row in rows)]
    table = _table('of it, ms, mean', '', *shown)
    for row in _by_promise(rows, table):
        # Broken, the longest names leave room for all stages in 80 columns.
        table.add_row(report_tables.broken(row['decoder'], 16), *(
            _ms(row['stage_ms'][name]) if name in row['stage_ms'] else '' for name in shown))
    return table


def _tokens_table(rows: Sequence[Row]) -> Table:
    table = _table('what it says, per action', '', 'passes', 'tokens\na pass', '= ar',
                   'with\ntext', 'off,\nbins', 'un-\nverified')
    for row in _by_promise(rows, table):
        equal, length = row.get('tokens_equal_ar'), row['acceptance_length']
        table.add_row(
            report_tables.broken(row['decoder'], 18), f'{row["target_passes_per_action"]:.2f}',
            f'{length:.2f}' if length else '',
            f'{equal["actions_equal"]}/{equal["actions"]}' if equal else '',
            str(row.get('actions_with_text_tokens', '')), str(row.get('max_bin_error', '')),
            f'{100 * row["unverified"] / row["tokens"]:.0f} %' if row['unverified'] else '')
    return table


def _passes_table(rows: Sequence[Row]) -> Table:
    table = _table('a pass, mean; its floor and its time in ms', '', '', 'MB', 'GFLOP', 'FLOP/B',
                   'floor', 'ms', 'GFLOP/s', names=2)
    for row in rows:
        name = report_tables.broken(row['decoder'], 11)
        for stage, own in row['passes'].items():
            table.add_row(
                name, stage, *(f'{value:.{3 if value >= 1 else 2}g}' for value in (
                    own['bytes'] / 1e6, own['flops'] / 1e9, own['flops_per_byte'],
                    own['floor_ms'], own['ms'], own['flops_per_s'] / 1e9)))
            name = ''
        table.add_section()
    return table
