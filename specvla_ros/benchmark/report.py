"""
The one shape of figures: rows from episodes, and the JSON document; `report_tables` shows it.

Rates are over episodes that ran to an end; crashes are counted beside them. Times are per action
(= one call of the policy), the simulator not counted.
"""

from collections.abc import Iterable, Mapping, Sequence
import math
from types import MappingProxyType
from typing import Any

import numpy as np

from specvla_ros import __version__
from specvla_ros.benchmark.acceptance_figures import acceptance
from specvla_ros.benchmark.auroc import auroc
from specvla_ros.benchmark.machine import machine, versions
from specvla_ros.benchmark.records import ActionRecord, EpisodeRecord
from specvla_ros.configuration import BASELINE, DecoderConfig, VERIFICATIONS
from specvla_ros.errors import counted

BEFORE_DRAFTS = ('preprocess', 'vision', 'prefill')  # stages that no drafter shortens
STAGES = ('preprocess', 'vision', 'prefill', 'draft', 'verify')
Row = dict[str, Any]
Report = dict[str, Any]


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """
    Return the Wilson score interval of a proportion (95 % by default).

    Unlike the normal approximation it stays inside [0, 1] and is right for few trials.

    Source: E. B. Wilson, "Probable inference", JASA 22 (1927).
    """
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def rows(episodes: Iterable[EpisodeRecord], decoders: Sequence[str]) -> list[Row]:
    """
    Make the rows of a report.

    Per suite and decoder: all tasks together (`task` None), the same of the successful episodes
    only (`subset` "successful": stalled failures flatter speed), and every task by itself.

    :param decoders: order of the decoders in the report
    """
    episodes = list(episodes)
    suites = list(dict.fromkeys(episode.suite for episode in episodes))
    made: list[Row] = []
    for suite in suites:
        of_suite = [episode for episode in episodes if episode.suite == suite]
        tasks = sorted({episode.task for episode in of_suite})
        solved = [episode for episode in of_suite if episode.success]
        made += _rows_of(of_suite, decoders, suite, None, 'all')
        made += _rows_of(solved, decoders, suite, None, 'successful')
        for task in tasks:
            of_task = [episode for episode in of_suite if episode.task == task]
            made += _rows_of(of_task, decoders, suite, task, 'all')
    return made


def _rows_of(episodes: list[EpisodeRecord], decoders: Sequence[str], suite: str,
             task: int | None, subset: str) -> list[Row]:
    by_decoder = {name: [e for e in episodes if e.decoder == name] for name in decoders}
    made = [_row(name, suite, task, subset, by_decoder[name], by_decoder.get(BASELINE, []))
            for name in decoders if by_decoder[name]]
    return against_baseline(made)


def _row(decoder: str, suite: str, task: int | None, subset: str,
         episodes: list[EpisodeRecord], baseline: list[EpisodeRecord]) -> Row:
    ended = [episode for episode in episodes if episode.crash is None]
    actions = [action for episode in ended for action in episode.actions]
    successes = sum(episode.success for episode in ended)
    row: Row = {
        'decoder': decoder, 'suite': suite, 'task': task, 'subset': subset,
        'episodes': len(ended), 'successes': successes, 'crashes': len(episodes) - len(ended),
    }
    if subset == 'all':
        row['success_rate'] = successes / len(ended) if ended else None
        row['success_interval'] = list(wilson(successes, len(ended)))
    row |= action_figures(actions) | (_risk_figures(ended) if subset == 'all' else {})
    if subset == 'all' and task is None:
        row['acceptance'] = acceptance(episodes)
    if decoder != BASELINE and baseline:
        row['tokens_equal_ar'] = equality(ended, baseline)
    return row


def _risk_figures(episodes: Sequence[EpisodeRecord]) -> Row:
    """Say how well the mean risk of an episode tells failed from solved; {} where unknown."""
    known = [(episode.risk, episode.success) for episode in episodes if episode.risk is not None]
    failed, solved = ([risk for risk, won in known if won is success] for success in (False, True))
    if not known:
        return {}
    return {'risk': {
        'failed': float(np.mean(failed)) if failed else None,
        'solved': float(np.mean(solved)) if solved else None,
        'failed_episodes': len(failed), 'solved_episodes': len(solved),
        'auroc': auroc(failed, solved)}}


def action_figures(actions: Sequence[ActionRecord]) -> Row:
    """
    Return the figures of a row that come from single actions; no key where there is no action.

    `acceptance_length` is the mean number of tokens gained by a pass after the prefill, bonus
    included (the "Length" of the paper's Table 1); `acceptance_histogram[n]` counts the passes
    that gained n. Errors are those of the actions that `ar` was run beside.
    """
    if not actions:
        return {'actions': 0}
    lengths = [n for action in actions for n in action.acceptance_lengths]
    stages = list(dict.fromkeys(name for action in actions for name in action.stage_ms))
    figures: Row = {
        'actions': len(actions),
        'actions_without_pass': sum(not action.target_passes for action in actions),
        'tokens': sum(len(action.sources) for action in actions),
        'unverified': sum(action.unverified for action in actions),
        'forbidden': sum(action.forbidden for action in actions),
        'target_passes_per_action': float(np.mean([a.target_passes for a in actions])),
        'acceptance_length': float(np.mean(lengths)) if lengths else None,
        'acceptance_histogram': np.bincount(lengths).tolist() if lengths else [],
        'drafted': sum(action.drafted for action in actions),
        'accepted': sum(action.accepted for action in actions),
        'ms_per_action': _distribution([action.stage_ms['total'] for action in actions]),
        'stage_ms': {name: float(np.mean([a.stage_ms.get(name, 0.0) for a in actions]))
                     for name in stages},
    }
    figures |= step_figures(actions)
    risks = [action.risk for action in actions if action.risk is not None]
    if risks:
        figures['mean_risk'] = float(np.mean(risks))
    around = [action.ros_ms for action in actions if action.ros_ms is not None]
    if around:
        figures['ros_ms_per_action'] = _distribution(around)
    deviations = [action.deviation for action in actions if action.deviation is not None]
    if deviations:
        figures |= {
            'compared_actions': len(deviations),
            'max_bin_error': max(deviation.max_bins for deviation in deviations),
            'mean_abs_error_mm': float(np.mean([deviation.mm for deviation in deviations])),
            'mean_abs_error_deg': float(np.mean([deviation.deg for deviation in deviations])),
        }
    return figures


def step_figures(actions: Sequence[ActionRecord]) -> Row:
    """
    Return what a control step costs that was executed; {} where an action is one step.

    Passes and the mean time are those of all actions, shared out among all steps; percentiles are
    of each action's time, shared out among its own.
    """
    known = [action for action in actions if action.steps is not None]
    steps = sum(action.steps or 0 for action in known)
    if not steps:
        return {}
    each = [action.stage_ms['total'] / action.steps for action in known if action.steps]
    return {
        'steps': steps,
        'steps_per_action': steps / len(known),
        'target_passes_per_step': sum(action.target_passes for action in known) / steps,
        'ms_per_step': _distribution(each) | {
            'mean': sum(action.stage_ms['total'] for action in known) / steps},
    }


def _distribution(values: Sequence[float]) -> dict[str, float]:
    return {'mean': float(np.mean(values)), 'p50': float(np.percentile(values, 50)),
            'p95': float(np.percentile(values, 95))}


def equality(episodes: Sequence[EpisodeRecord], baseline: Sequence[EpisodeRecord]) -> Row:
    """
    Compare the tokens of episodes with those `ar` gave from the same initial states.

    Actions are compared in order up to the first that differs: after it the two robots see
    different pictures, and equality means nothing any more.

    :returns: counts of pairs of episodes and of actions, and where the pairs first differ
    """
    reference = {(e.suite, e.task, e.state): e for e in baseline if e.crash is None}
    figures: Row = {'episodes': 0, 'episodes_equal': 0, 'actions': 0, 'actions_equal': 0,
                    'first_differences': []}
    for episode in episodes:
        other = reference.get((episode.suite, episode.task, episode.state))
        if other is None:
            continue
        same = 0
        for mine, theirs in zip(episode.actions, other.actions):
            if mine.tokens != theirs.tokens:
                break
            same += 1
        equal = episode.tokens_sha256 == other.tokens_sha256
        figures['episodes'] += 1
        figures['episodes_equal'] += equal
        figures['actions'] += same + (not equal)
        figures['actions_equal'] += same
        if not equal:
            figures['first_differences'].append(
                {'task': episode.task, 'state': episode.state, 'action': same})
    return figures


def against_baseline(rows: list[Row]) -> list[Row]:
    """
    Add to rows of one run their speed-up, its ceiling on this machine, and their share of it.

    The ceiling is what a free drafter that is always right would reach: `ar`'s time through its
    time up to the prefill's end. Plain ratios move with the machine, shares hardly do.
    """
    baseline = next((row for row in rows if row['decoder'] == BASELINE), None)
    limit = ceiling(baseline)
    for row in rows:
        ratio = speedup(row, baseline)
        row |= {'speedup_vs_ar': ratio, 'speedup_ceiling': limit,
                'ceiling_share': ratio / limit if ratio and limit else None}
    return rows


def ceiling(baseline: Row | None) -> float | None:
    """Return `ar`'s time through that of its image, vision and prefill; None if not measured."""
    stages = {} if baseline is None else baseline.get('stage_ms', {})
    if baseline is None or not all(stages.get(name) for name in BEFORE_DRAFTS):
        return None
    return baseline['ms_per_action']['mean'] / sum(stages[name] for name in BEFORE_DRAFTS)


def speedup(row: Row, baseline: Row | None) -> float | None:
    """Return how many times as fast as `ar` a row's decoder is; None where that is unknown."""
    if baseline is None or not row['actions'] or not baseline['actions']:
        return None
    return baseline['ms_per_action']['mean'] / row['ms_per_action']['mean']


def report(command: Sequence[str], config: dict[str, Any], checkpoint: dict[str, Any],
           rows: list[Row], decoders: Mapping[str, DecoderConfig] = MappingProxyType({}),
           ) -> Report:
    """
    Return the JSON document every command writes (the shape stands in the design).

    :param decoders: by the names that rows have; rows say what they promise, `verification`
    """
    for row in rows:
        row.setdefault('verification', verification_of(row['decoder'], decoders))
    return {'specvla': __version__, 'command': list(command), 'machine': machine(),
            'versions': versions(), 'config': config, 'checkpoint': checkpoint, 'rows': rows}


def conditions(config: Mapping[str, Any]) -> str:
    """Say what drifts in the episodes of a run, and how late actions are; '' where it stands."""
    drift, late = config.get('drift'), config.get('latency_s') or 0
    if drift is None:
        return ''
    steps, span = config.get('execute_steps'), drift['span_cm']
    return (f'{drift["object"]} drifts at {drift["cm_per_s"]:g} cm/s'
            + ('' if span is None else f' within {span:g} cm') + f', latency {late}'
            + ('' if late == 'measured' else ' s')
            + (f', {counted(steps, "step")} of an action executed' if steps else ''))


def verification_of(decoder: str, decoders: Mapping[str, DecoderConfig]) -> str | None:
    """Return what a decoder promises of its tokens; None of one that is none of ours."""
    return decoders[decoder].verification if decoder in decoders else None


def grouped(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """
    Sort rows by what they promise: (heading, rows), the strongest promise first.

    Rows that promise nothing of this kind are peers; they come last.
    """
    groups = [(kind or 'peers', [row for row in rows if row.get('verification') == kind])
              for kind in (*VERIFICATIONS, None)]
    return [(heading, of_group) for heading, of_group in groups if of_group]
