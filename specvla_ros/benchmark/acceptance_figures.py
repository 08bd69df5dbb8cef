"""
What verifications gain, with intervals: the acceptance length as the paper defines it.

Spec-VLA (arXiv 2507.22424): a verification accepts n draft tokens (its Table 2) and gains n + 1,
the bonus token included; the mean gain is the "Length" of its Table 1. A verification is a pass
of the target after the prefill. Intervals draw episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specvla_ros.benchmark.bootstrap import ratio_intervals
from specvla_ros.benchmark.records import ActionRecord, EpisodeRecord

LIBERO_TOKENS = ('x', 'y', 'z', 'roll', 'pitch', 'yaw', 'gripper')  # of one control step
Figure = dict[str, Any]  # value, interval [low, high] or None, n


def acceptance(episodes: Sequence[EpisodeRecord]) -> dict[str, Any]:
    """
    Return length, shares of accepted lengths, and length by position, of episodes that ended.

    `length`: tokens a verification gains. `shares`, by accepted draft tokens 0, 1 …: of all
    verifications. `by_token`, by the first token that could be accepted (`LIBERO_TOKENS`, of
    whichever control step): draft tokens that a verification accepted there. Each has a value,
    its 95 % interval over episodes and n, the verifications. {} where there was none.
    """
    tables = [_passes(episode.actions) for episode in episodes if episode.crash is None]
    if not any(len(table) for table in tables):
        return {}
    longest = max(int(table[:, 1].max()) for table in tables if len(table))
    counts = np.array([np.bincount(table[:, 1], minlength=longest + 1) for table in tables], float)
    passes = counts.sum(axis=1, keepdims=True)
    gained = counts @ (np.arange(longest + 1.) + 1)[:, None]
    tokens = len(LIBERO_TOKENS)
    at, accepted = (np.array([np.bincount(table[:, 0] % tokens, weights(table), tokens)
                              for table in tables], float)
                    for weights in (lambda table: None, lambda table: table[:, 1]))
    return {
        'episodes': len(tables),
        'length': _figures(gained, passes)[0],
        'shares': _figures(counts, np.repeat(passes, longest + 1, axis=1)),
        'by_token': {name: figure for name, figure in zip(LIBERO_TOKENS, _figures(accepted, at))
                     if figure['n']},
    }


def _figures(parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> list[Figure]:
    tops, bottoms = parts.sum(axis=0), wholes.sum(axis=0)
    return [{'value': float(top / bottom) if bottom else None, 'interval': interval,
             'n': int(bottom)}
            for top, bottom, interval in zip(tops, bottoms, ratio_intervals(parts, wholes))]


def _passes(actions: Sequence[ActionRecord]) -> NDArray[np.int64]:
    """Return [verifications, 2]: tokens known before each, draft tokens it accepted."""
    found = []
    for action in actions:
        lengths = action.acceptance_lengths
        # What the verifications did not gain, and the target has seen, came with the prefill.
        known = len(action.tokens) - action.unverified - sum(lengths)
        for length in lengths:
            found.append((known, length - 1))
            known += length
    return np.array(found, np.int64).reshape(-1, 2)

