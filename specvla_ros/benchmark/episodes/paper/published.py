"""The paper's own numbers: Spec-VLA, arXiv 2507.22424 (EMNLP 2025), its Tables 1, 2 and 4."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
import json
from pathlib import Path

from specvla_ros.typed_files import typed

_FOLDER = Path(__file__).resolve().parent / 'tables'
SOURCE = 'Spec-VLA, arXiv 2507.22424'
SUITES = ('libero_goal', 'libero_object', 'libero_spatial', 'libero_10')  # order of its tables
LONG = 'libero_10'


@dataclass(frozen=True, slots=True)
class PublishedSuite:
    """
    A row of its Table 1, with those of Table 2.

    successes in %; lengths in tokens a verification gains, bonus included; speed-ups in multiples
    of its own `ar`; accepted: shares, %, of verifications that accepted 0, 1 … 5 draft tokens.
    Each is strict, then relaxed; success has `ar` before them.
    """

    success: tuple[float, float, float]
    length: tuple[float, float]
    speedup: tuple[float, float]
    accepted: tuple[tuple[float, ...], tuple[float, ...]]

    def mean_length(self, rule: int) -> float:
        """Return what Table 2 gives for the length: its mean, and the bonus token."""
        shares = self.accepted[rule]
        return 1 + sum(n * share for n, share in enumerate(shares)) / sum(shares)


@dataclass(frozen=True, slots=True)
class PublishedSettings:
    """Its Table 4; thresholds r in bins."""

    learning_rate: float
    batch_size: int
    warmup_steps: int
    p_w: float
    v_w: float
    gradient_clipping: float
    top_k: int
    tree_depth: int
    max_nodes: int
    relaxation_threshold_goal_object_spatial: int
    relaxation_threshold_long: int

    def threshold(self, suite: str) -> int:
        """Return its r of a suite."""
        return self.relaxation_threshold_long if suite == LONG \
            else self.relaxation_threshold_goal_object_spatial


@cache
def published() -> dict[str, PublishedSuite]:
    """Return the rows of its Tables 1 and 2, by suite."""
    shares = {(row['suite'], row['relaxed']): tuple(
        float(row[f'len{n}']) for n in range(6)) for row in _rows('table2_acceptance_length')}
    return {row['suite']: PublishedSuite(
        (float(row['ar_sr']), float(row['strict_sr']), float(row['relaxed_sr'])),
        (float(row['strict_length']), float(row['relaxed_length'])),
        (float(row['strict_speedup']), float(row['relaxed_speedup'])),
        (shares[row['suite'], 'no'], shares[row['suite'], 'yes'])) for row in _rows('table1_main')}


@cache
def settings() -> PublishedSettings:
    """Return its Table 4."""
    values = {row['parameter']: json.loads(row['value']) for row in _rows('table4_parameters')}
    return typed(PublishedSettings, values, 'table4_parameters.csv')


def _rows(name: str) -> list[dict[str, str]]:
    with (_FOLDER / f'{name}.csv').open(encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))
