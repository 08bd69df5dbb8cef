"""Which of our decoders stands beside which of the paper's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from specvla_ros.benchmark.checks import drafter_and_rule
from specvla_ros.benchmark.episodes.paper.measured import MeasuredRun
from specvla_ros.benchmark.episodes.paper.published import settings
from specvla_ros.benchmark.report import Row
from specvla_ros.configuration import BASELINE, DecoderConfig

AR, STRICT, RELAXED, OTHER = 'ar', 'strict', 'relaxed', 'other'
ROLES = (AR, STRICT, RELAXED)  # the paper's decoders, in the order of its Table 1


@dataclass(frozen=True, slots=True)
class MeasuredDecoder:
    """A decoder's figures on a suite; threshold: r of EAGLE within bins or strict, else None."""

    name: str
    role: str
    threshold: int | None
    row: Row
    run: MeasuredRun


def of_suite(runs: Sequence[MeasuredRun], suite: str) -> list[MeasuredDecoder]:
    """Return what was measured on a suite; of a decoder in two runs, the first one's figures."""
    found: dict[str, MeasuredDecoder] = {}
    for run in runs:
        for (of, name), row in run.rows.items():
            if of == suite and name not in found:
                config = run.decoders[name]
                reach = threshold_of(config)
                found[name] = MeasuredDecoder(name, role_of(config, suite), reach, row, run)
    order = {role: number for number, role in enumerate((*ROLES, OTHER))}
    return sorted(found.values(), key=lambda one: (order[one.role], one.threshold or 0))


def role_of(config: DecoderConfig, suite: str) -> str:
    """Say which decoder of the paper's this is on a suite: by what it does, not by its name."""
    if config.name == BASELINE:
        return AR
    reach = threshold_of(config)
    if reach is None:
        return OTHER
    if config.is_strict:
        return STRICT
    return RELAXED if reach == settings().threshold(suite) else OTHER


def threshold_of(config: DecoderConfig) -> int | None:
    """Return r, bins, of EAGLE under the paper's rule, strict being 0; None of other decoders."""
    plain = not config.candidates and config.completion is None and config.strict_above_risk == 1
    if not plain or config.drafter.name != 'eagle' or config.by_step:
        return None
    return config.threshold if config.rule.name in ('strict', 'bins') else None


def swept(decoders: Sequence[MeasuredDecoder]) -> Iterator[MeasuredDecoder]:
    """Return a decoder for each threshold that was measured, by r; strict is r = 0."""
    by_reach: dict[int, MeasuredDecoder] = {}
    for decoder in decoders:
        if decoder.threshold is not None:
            by_reach.setdefault(decoder.threshold, decoder)
    yield from (by_reach[reach] for reach in sorted(by_reach))


def described(run: MeasuredRun, name: str) -> str:
    """Say drafter, rule and, of EAGLE, the tree, as on the machine that the run was on."""
    config = run.decoders[name]
    text = f'{name}: {drafter_and_rule(config)}'
    if config.drafter.name != 'eagle':
        return text
    on_gpu = run.identity['machine'].get('gpus') and run.identity['config'].get('device') != 'cpu'
    tree = config.drafter.settings_on('cuda' if on_gpu else 'cpu')
    return text + ''.join(f', {key} {tree[key]}' for key in ('top_k', 'depth', 'max_nodes')
                          if key in tree)
