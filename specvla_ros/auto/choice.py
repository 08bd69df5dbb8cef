"""
Which candidate decodes the next action: one function over measured costs.

It knows no tensors, no models and no clock: `measured` brings the costs, `auto_decoder` carries
the choice out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from specvla_ros.configuration import BASELINE
from specvla_ros.errors import counted

# Actions of a candidate before its cost is believed: the first one finds caches cold.
_FIRST_LOOKS = 2
# Estimates vary by some per cent. Of those within 5 % of the least the first is taken: presets
# name their candidates in the order that measured best elsewhere.
_ALIKE = 0.05
_WORTH = 0.97  # of ar's time at most: one that is hardly faster may as well be slower
# Actions between two looks at a candidate that costs as much as the best. One that costs a share
# x more waits 1 + 10 x times as long, so looking costs x / (100 + 1000 x): less than 0.1 % each.
# What cost twice as much or more may have changed as well: 1100 actions are the longest wait.
LOOK_AGAIN, _PATIENCE = 100, 10
# One that was measured fewer times than this waits a share of that. Two looks, one of them with
# cold caches, put the best preset behind another for a whole episode of the demo.
_WELL_KNOWN = 10
_LEAST_MS = 1e-6  # a clock may say that an action took no time


class Cost(NamedTuple):
    """
    What an action costs under a candidate.

    ms: expected, of one action. most_ms: the most of its last actions. actions: measured so far,
    0 = its costs are not known. idle: actions of others since its last one.
    """

    ms: float
    most_ms: float
    actions: int
    idle: int = 0


class Choice(NamedTuple):
    """A candidate's name, and why it was chosen: a sentence for the report."""

    name: str
    reason: str


def choose(costs: Mapping[str, Cost], lost_ms: float, may_lose_ms: float) -> Choice:
    """
    Take the candidate that costs least, or almost, and look at the others now and then.

    costs: by name; ``ar``, plain autoregression, is one of them. lost_ms: what was lost against
    ``ar`` already. One that might lose more than ``may_lose_ms`` in all is not taken: then
    ``ar`` is, which loses nothing.
    """
    ar = costs[BASELINE]
    if ar.actions == 0:
        return Choice(BASELINE, 'ar first: the others are held against it')

    def affordable(cost: Cost) -> bool:
        # Of an unknown one we fear twice the time of ar.
        at_risk = max(cost.most_ms - ar.ms, 0) if cost.actions else ar.ms
        return lost_ms + at_risk <= may_lose_ms

    able = [name for name, cost in costs.items() if name == BASELINE or affordable(cost)]
    faster = [name for name in able if costs[name].actions and costs[name].ms < _WORTH * ar.ms]
    least = min((costs[name].ms for name in faster), default=ar.ms)
    alike = (name for name in faster if costs[name].ms <= (1 + _ALIKE) * least)
    best = next(alike, BASELINE)
    best_ms = max(costs[best].ms, _LEAST_MS)
    for name in able:
        cost = costs[name]
        if cost.actions < _FIRST_LOOKS and name != BASELINE:
            return Choice(name, f'{name} is looked at: measured {cost.actions} times so far')
        dearer = min(cost.ms / best_ms - 1, 1)
        known = min(cost.actions / _WELL_KNOWN, 1)
        if name != best and cost.idle >= LOOK_AGAIN * (1 + _PATIENCE * dearer) * known:
            return Choice(name, f'{name} is looked at again after '
                                f'{counted(cost.idle, "action")}')
    shown = ', '.join(f'{name} {costs[name].ms:.1f}' for name in sorted(
        (name for name in costs if costs[name].actions), key=lambda name: costs[name].ms))
    if len(able) < len(costs) and best == BASELINE:
        return Choice(best, f'{lost_ms:.0f} ms were lost against ar lately, {may_lose_ms:.0f} may '
                            f'be; expected ms an action: {shown}')
    return Choice(best, f'expected ms an action: {shown}')
