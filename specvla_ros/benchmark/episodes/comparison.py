"""
Decoders held against each other: success against time per action, with intervals.

All figures come from records of episodes, so a finished run is compared in seconds. Every stored
initial state is played under every decoder, so differences are taken state by state: what makes a
state hard, or the machine slow, hits both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specvla_ros.benchmark.records import EpisodeRecord
from specvla_ros.benchmark.report import Row, verification_of, wilson
from specvla_ros.configuration import BASELINE, DecoderConfig, VERIFICATIONS

POINTS_BELOW = 2  # of success, percentage points, that a decoder may stay behind `ar`
_DRAWS = 2000  # of the bootstrap: 50 beyond each end of an interval

Place = tuple[str, int, int]


class _Sums(NamedTuple):
    """What episodes took: actions, control steps executed of them, time in ms, passes."""

    actions: int
    steps: int  # 0 where an action is one step
    ms: float
    passes: int


def comparison(
    episodes: Sequence[EpisodeRecord], decoders: Mapping[str, DecoderConfig], seed: int = 0
) -> dict[str, Any]:
    """
    Compare the decoders of a run, suite by suite.

    Crashed episodes don't count. Rows of the subset `all` have success, time and passes per
    action; those of `successful` the latter two over solved episodes only: stalled failures
    flatter speed. Where an action has several control steps, time and passes are also given per
    executed step.

    :param seed: of the bootstrap
    :returns: what intervals mean, and a row per suite, subset and decoder
    """
    ended = [episode for episode in episodes if episode.crash is None]
    made: list[Row] = []
    for suite in dict.fromkeys(episode.suite for episode in episodes):
        of_suite = [episode for episode in ended if episode.suite == suite]
        made += _rows(suite, 'all', of_suite, decoders, seed)
        solved = [episode for episode in of_suite if episode.success]
        made += _rows(suite, 'successful', solved, decoders, seed)
    return {
        'reference': BASELINE if BASELINE in decoders else None, 'interval': 0.95,
        'points_below': POINTS_BELOW,
        'methods': {
            'success': 'Wilson score interval',
            'success_vs_ar': 'same initial states; Newcombe 1998, method 10',
            'per_action': f'bootstrap over initial states, {_DRAWS} draws, percentiles',
            'speedup_vs_ar': 'the same draws of the initial states that both have'},
        'rows': made}


def _rows(suite: str, subset: str, episodes: Sequence[EpisodeRecord],
          decoders: Mapping[str, DecoderConfig], seed: int) -> list[Row]:
    by_decoder: dict[str, dict[Place, EpisodeRecord]] = {name: {} for name in decoders}
    for episode in episodes:
        if episode.decoder in by_decoder:
            by_decoder[episode.decoder][episode.key[:3]] = episode
    baseline = by_decoder.get(BASELINE, {})
    made = []
    for name, own in by_decoder.items():
        row: Row = {'decoder': name, 'verification': verification_of(name, decoders),
                    'suite': suite, 'subset': subset, 'episodes': len(own)}
        if subset == 'all':
            row |= _success(own)
            if name != BASELINE:
                row |= success_against(outcomes(own.values()), outcomes(baseline.values()))
        row |= _costs(own, seed)
        if name != BASELINE:
            row |= _speedup(own, baseline, seed)
        made.append(row)
    if subset == 'all':
        _mark_front(made)
    return made


def _success(own: Mapping[Place, EpisodeRecord]) -> Row:
    solved = sum(episode.success for episode in own.values())
    return {'successes': solved, 'success_rate': solved / len(own) if own else None,
            'success_interval': list(wilson(solved, len(own)))}


def outcomes(episodes: Iterable[EpisodeRecord]) -> dict[Place, bool]:
    """Return which initial states a decoder solved, of those whose episodes ended."""
    return {episode.key[:3]: episode.success for episode in episodes if episode.crash is None}


def success_against(own: Mapping[Place, bool], baseline: Mapping[Place, bool]) -> Row:
    """Compare success with the baseline's from the same initial states; {} without any."""
    both = [place for place in own if place in baseline]
    if not both:
        return {}
    pairs = [(own[place], baseline[place]) for place in both]
    here, there = pairs.count((True, False)), pairs.count((False, True))
    low, high = paired_interval(pairs.count((True, True)), here, there,
                                pairs.count((False, False)))
    points = 100 * (here - there) / len(both)
    return {'success_vs_ar': {
        'pairs': len(both), 'only_here': here, 'only_ar': there, 'points': points,
        'interval': [100 * low, 100 * high], 'within': points >= -POINTS_BELOW,
        'surely_within': 100 * low >= -POINTS_BELOW}}


def paired_interval(both: int, first: int, second: int, neither: int, z: float = 1.959964
                    ) -> tuple[float, float]:
    """
    Return the interval of the difference of two success rates over the same trials (95 %).

    It is made of the two Wilson intervals and the correlation of the outcomes, so it has a width
    where all outcomes are alike as well.

    :param both: trials that both solved; first, second: that only this one did
    :returns: of the first's rate less the second's, from -1 to 1

    Source: R. G. Newcombe, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17 (1998), method 10.
    """
    n = both + first + second + neither
    if not n:
        return -1.0, 1.0
    rates = (both + first) / n, (both + second) / n
    (low_1, high_1), (low_2, high_2) = (wilson(count, n, z) for count in
                                        (both + first, both + second))
    down = rates[0] - low_1, high_2 - rates[1]
    up = high_1 - rates[0], rates[1] - low_2
    shared = _correlation(both, first, second, neither)
    lengths = [math.sqrt(max(0.0, a * a - 2 * shared * a * b + b * b)) for a, b in (down, up)]
    difference = rates[0] - rates[1]
    return max(-1.0, difference - lengths[0]), min(1.0, difference + lengths[1])


def _correlation(both: int, first: int, second: int, neither: int) -> float:
    """Return phi of the outcomes, corrected for continuity where it is positive; 0 if unknown."""
    product = (both + first) * (second + neither) * (both + second) * (first + neither)
    if not product:
        return 0.0
    covariance: float = both * neither - first * second
    if covariance > 0:
        covariance = max(covariance - (both + first + second + neither) / 2, 0)
    return covariance / math.sqrt(product)


def _sums(episode: EpisodeRecord) -> _Sums:
    actions = episode.actions
    return _Sums(len(actions), sum(action.steps or 0 for action in actions),
                 sum(action.stage_ms['total'] for action in actions),
                 sum(action.target_passes for action in actions))


def _drawn(places: Sequence[Place], seed: int) -> NDArray[np.int64]:
    """Draw initial states with replacement [draws, places]; the same ones for all decoders."""
    return np.random.default_rng(seed).integers(0, len(places), (_DRAWS, len(places)))


def _costs(own: Mapping[Place, EpisodeRecord], seed: int) -> Row:
    """Return mean time and passes, with intervals; only a count without any action."""
    places = sorted(own)
    sums = np.array([_sums(own[place]) for place in places], float).reshape(-1, len(_Sums._fields))
    total = _Sums(*sums.sum(axis=0).tolist())
    row: Row = {'actions': int(total.actions)}
    if not row['actions']:
        return row
    draws = np.moveaxis(sums[_drawn(places, seed)].sum(axis=1), 1, 0)
    drawn = dict(zip(_Sums._fields, draws, strict=True))
    for unit, count, counts in (('action', total.actions, drawn['actions']),
                                ('step', total.steps, drawn['steps'])):
        some = counts > 0
        for figure in ('ms', 'passes') if count else ():
            row[f'{figure}_per_{unit}'] = {
                'mean': getattr(total, figure) / count,
                'interval': _middle(drawn[figure][some] / counts[some], places)}
    return row


def _speedup(own: Mapping[Place, EpisodeRecord], baseline: Mapping[Place, EpisodeRecord],
             seed: int) -> Row:
    """Return `ar`'s time per action through this one's, from the states that both have."""
    places = sorted(own.keys() & baseline.keys())
    mine, theirs = (
        np.array([(found.actions, found.ms) for found in map(_sums, map(of.__getitem__, places))],
                 float).reshape(-1, 2)
        for of in (own, baseline))
    if not (mine[:, 0].any() and theirs[:, 0].any()):
        return {}
    numbers = _drawn(places, seed)
    drawn = [sums[numbers].sum(axis=1) for sums in (theirs, mine)]
    usable = (drawn[0][:, 0] > 0) & (drawn[1][:, 0] > 0)
    (times, counts), (own_times, own_counts) = (
        (sums[usable, 1], sums[usable, 0]) for sums in drawn)
    ratio = (theirs[:, 1].sum() / theirs[:, 0].sum()) / (mine[:, 1].sum() / mine[:, 0].sum())
    return {'speedup_vs_ar': float(ratio),
            'speedup_interval': _middle((times / counts) / (own_times / own_counts), places)}


def _middle(values: NDArray[np.float64], places: Sequence[Place]) -> list[float] | None:
    """Return where 95 % of the draws lie; None of one initial state, of which all are alike."""
    if len(places) < 2:
        return None
    return np.percentile(values, (2.5, 97.5)).tolist()


def _mark_front(rows: Sequence[Row]) -> None:
    """
    Say of each row whether it is on the front: no other is as good in both and better in one.

    Held against it are those that promise as much or more: an unverified decoder takes no lossless
    one off the front.
    """
    known = [row for row in rows if row['actions']]
    for row in rows:
        row['on_front'] = row in known and not any(
            _rank(other) <= _rank(row) and _beats(other, row) for other in known)


def _rank(row: Row) -> int:
    kind = row['verification']
    return VERIFICATIONS.index(kind) if kind in VERIFICATIONS else len(VERIFICATIONS)


def _beats(one: Row, other: Row) -> bool:
    rates = one['success_rate'], other['success_rate']
    times = one['ms_per_action']['mean'], other['ms_per_action']['mean']
    return rates[0] >= rates[1] and times[0] <= times[1] and (
        rates[0] > rates[1] or times[0] < times[1])
