"""
What decoding costs on this machine, measured while it decodes.

Times are kept in units of the vision towers' time in the same action. All decoders do that work
alike, so what slows the whole machine down slows the unit as well, and costs that were measured
before still compare. Medians of the last few actions leave out what hit a single one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from specvla_ros.configuration import BASELINE

from .choice import Choice, choose, Cost, LOOK_AGAIN
from .plan import cheapest, Passes, Plan

WINDOW, MAY_LOSE = 200, 0.03  # the promise: of any 200 actions not more than 3 % above `ar`
# Most of it is for what nothing foretells: an action that suddenly takes several times as long.
_RESERVED = 0.7
_RECENT = 9  # measurements a median looks back
# Of what plans were off: least weight of the newest action; actions that 1.0 stands for. With 0.03
# and 10, `auto` lost up to 5.0 % where rows suddenly got dear (24 simulated runs), with these 2.5.
_PLANNED = 0.1, 3
_TRUST = 60  # drafts of a position a hit rate looks back, about
# What is assumed of an action's drafts before any was measured: 2.8 miss; of a short action
# 40 %, if that is less. This is hopeful, so that each position is tried. At 40 % of the 56 tokens
# of a chunk a good candidate would look slow after two actions, and then wait for a hundred.
_PRIOR_MISSES, _PRIOR_RATE, _PRIOR_DRAFTS = 2.8, 0.6, 2.0
_FADES, _HOPES = 1 - 1 / _TRUST, 0.01  # per action: of what was seen, of what wasn't
_SURPRISE = 2.0  # times what such a pass costs lately: that much is charged as it was


class PassTaken(NamedTuple):
    """A pass of the target: draft tokens in it, those accepted, and ms of draft and pass."""

    drafted: int
    accepted: int
    draft_ms: float
    pass_ms: float


@dataclass(frozen=True, slots=True)
class ActionTaken:
    """What one action took; passes: the prefill first."""

    vision_ms: float
    total_ms: float
    passes: Sequence[PassTaken]


class Recent:
    """
    The last few measurements of one thing.

    median: the middle one, of an even number the lower: of a candidate's first two actions one
        finds caches cold. 0 where there is none.
    """

    __slots__ = ('_kept', 'median')

    def __init__(self) -> None:
        self._kept: deque[float] = deque(maxlen=_RECENT)
        self.median = 0.0

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, value: float) -> None:
        """Take in a measurement; the oldest is forgotten."""
        self._kept.append(value)
        self.median = sorted(self._kept)[(len(self._kept) - 1) // 2]

    @property
    def most(self) -> float:
        """The largest; 0 where there is none."""
        return max(self._kept, default=0.0)


class PassCosts:
    """Cost of a pass by its number of draft tokens; more of them never cost less."""

    __slots__ = ('_by_rows', '_line')

    def __init__(self) -> None:
        self._by_rows: dict[int, Recent] = {}
        self._line: tuple[list[float], list[float]] | None = None

    def take(self, drafted: int, units: float) -> float:
        """Take in a pass; return what such passes cost lately."""
        recent, self._line = self._by_rows.setdefault(drafted, Recent()), None
        recent.take(units)
        return recent.median

    def at(self, drafted: float) -> float:
        """Cost of a pass: on the line between the measured ones around it, else the nearest."""
        if self._line is None:
            self._line = self._rising()
        rows, costs = self._line
        above = bisect_left(rows, drafted)
        if above == len(rows):
            return costs[-1] if costs else 0.0
        if above == 0 or rows[above] == drafted:
            return costs[above]
        share = (drafted - rows[above - 1]) / (rows[above] - rows[above - 1])
        return costs[above - 1] + share * (costs[above] - costs[above - 1])

    def _rising(self) -> tuple[list[float], list[float]]:
        """
        Medians by rows, those that fall joined to their weighted mean.

        Noise must not say that more rows cost less: then deeper guesses would look free.
        Source: pool adjacent violators (Ayer et al., 1955).
        """
        blocks: list[tuple[float, int, int]] = []  # mean, measurements, numbers of rows in it
        for _, recent in sorted(self._by_rows.items()):
            mean, weight, size = recent.median, len(recent), 1
            while blocks and blocks[-1][0] > mean:
                before, measured, joined = blocks.pop()
                mean = (mean * weight + before * measured) / (weight + measured)
                weight, size = weight + measured, size + joined
            blocks.append((mean, weight, size))
        return sorted(self._by_rows), [mean for mean, _, size in blocks for _ in range(size)]


class HitRates:
    """How often a draft of the action's n-th token was accepted, where all before it were."""

    __slots__ = ('_drafts', '_hits', '_hoped')

    def __init__(self, length: int) -> None:
        self._hoped = _PRIOR_DRAFTS * max(_PRIOR_RATE, 1 - _PRIOR_MISSES / length)
        self._hits, self._drafts = [self._hoped] * length, [_PRIOR_DRAFTS] * length

    def take(self, first: int, offered: int, accepted: int) -> None:
        """
        Take in a pass that offered guesses of some tokens, from the ``first`` on.

        Of tokens that it says nothing about hope returns slowly, so they are tried again.
        """
        seen = first + min(accepted + 1, offered)
        for position in range(first, seen):
            hit = position < first + accepted
            self._hits[position] = _FADES * self._hits[position] + hit
            self._drafts[position] = _FADES * self._drafts[position] + 1
        for position in range(seen, len(self._hits)):
            self._hits[position] += _HOPES * (self._hoped - self._hits[position])
            self._drafts[position] += _HOPES * (_PRIOR_DRAFTS - self._drafts[position])

    def at(self, position: int) -> float:
        """Share of the drafts of this token that were accepted."""
        return self._hits[position] / self._drafts[position]


@dataclass(slots=True)
class Candidate:
    """
    What is known of one candidate; of pairs the first is of the prefill, the second of later.

    drafts: units of a draft. rows: draft tokens per level of guesses. other: units of what is
    neither draft nor pass. off: what its actions cost, divided by what was planned.
    """

    hits: tuple[HitRates, HitRates]
    drafts: tuple[Recent, Recent] = field(default_factory=lambda: (Recent(), Recent()))
    rows: tuple[Recent, Recent] = field(default_factory=lambda: (Recent(), Recent()))
    other: Recent = field(default_factory=Recent)
    off: float = 1.0
    totals: Recent = field(default_factory=Recent)
    actions: int = 0
    last: int = 0  # number of its last action
    plan: Plan | None = None

    @property
    def units(self) -> float:
        """Expected units of an action."""
        return self.plan.units * self.off if self.plan else 0.0


class Measured:
    """
    Costs of all candidates for actions of ``length`` tokens; says who is next.

    budgets: whether a candidate's guesses may be cut short; not where rows cost nothing.
    """

    def __init__(self, names: Iterable[str], length: int, budgets: bool = True) -> None:
        self.length, self.budgets = length, budgets
        self.passes = PassCosts(), PassCosts()  # the prefill, later ones
        self.candidates = {name: self._unknown() for name in names}
        self.unit = Recent()
        self._actions = 0
        self._lost: deque[float] = deque(maxlen=WINDOW - 1)

    def next(self) -> Choice:
        """Choose for the next action."""
        unit = self.unit.median
        costs = {name: Cost(it.units * unit, it.totals.most * unit, it.actions,
                            self._actions - it.last) for name, it in self.candidates.items()}
        may_lose = (1 - _RESERVED) * MAY_LOSE * WINDOW * self.candidates[BASELINE].units
        choice = choose(costs, self.lost * unit, may_lose * unit)
        if costs[choice.name].idle >= LOOK_AGAIN:
            # What was measured so long ago is no ground for passing it over again.
            self.candidates[choice.name] = self._unknown(self.candidates[choice.name].actions)
        return choice

    def forget(self, name: str) -> None:
        """Forget what is known of a candidate's guesses; passes cost what they did."""
        self.candidates[name] = self._unknown()

    def depths(self, name: str) -> tuple[int, ...] | None:
        """How deep a candidate is to draft, by the tokens known; None = as deep as it likes."""
        plan = self.candidates[name].plan
        return plan.depths if plan and self.budgets and name != BASELINE else None

    @property
    def lost(self) -> float:
        """The most units that some of the last actions in a row cost more than ``ar``."""
        return max(0.0, max(accumulate(reversed(self._lost)), default=0.0))

    def take(self, name: str, taken: ActionTaken) -> None:
        """
        Take in an action of a candidate.

        It is charged its own drafts as they were, and passes at what such passes cost lately,
        unless one is far from it: a machine that varies a little is no fault of a drafter.
        """
        unit, candidate, known = taken.vision_ms, self.candidates[name], 0
        other = taken.total_ms - unit - sum(it.draft_ms + it.pass_ms for it in taken.passes)
        charge = 1 + other / unit
        for number, done in enumerate(taken.passes):
            after, took = number > 0, done.pass_ms / unit
            usual = self.passes[after].take(done.drafted, took)
            charge += done.draft_ms / unit + (took if took > _SURPRISE * usual else usual)
            candidate.drafts[after].take(done.draft_ms / unit)
            offered = min(done.drafted, self._depth(name, known))
            if offered:
                candidate.rows[after].take(done.drafted / offered)
            candidate.hits[after].take(known, offered, done.accepted)
            known += done.accepted + 1
        self.unit.take(unit)
        candidate.other.take(other / unit)
        candidate.totals.take(charge)
        candidate.plan = self._plan(name)
        newest, trusted = _PLANNED
        weight = max(newest, 1 / (trusted + candidate.actions + 1))
        candidate.off += weight * (charge / candidate.plan.units - candidate.off)
        self._actions += 1
        candidate.actions, candidate.last = candidate.actions + 1, self._actions
        ar = self.candidates[BASELINE]
        if ar.actions:  # `ar` loses nothing against itself, however long it took
            self._lost.append(0.0 if candidate is ar else charge - ar.units)

    def _unknown(self, actions: int = 0) -> Candidate:
        return Candidate((HitRates(self.length), HitRates(self.length)), actions=actions)

    def _depth(self, name: str, known: int) -> int:
        """Levels that a tree might have had."""
        depths = self.depths(name)
        most = max(self.length - known - 1, 0)
        return most if depths is None else min(most, depths[known])

    def _plan(self, name: str) -> Plan:
        """Plan a candidate's next action from its measured hit rates, drafts and passes."""
        candidate = self.candidates[name]
        most = 1 if name == BASELINE else self.length  # one more than the deepest guess
        first, later = (
            Passes([hits.at(place) for place in range(self.length)],
                   [passes.at((rows.median or 1.0) * depth) for depth in range(most)])
            for hits, passes, rows in zip(
                candidate.hits, self.passes, candidate.rows, strict=True))
        # The draft before the prefill is made whatever is verified of it.
        drafts = [recent.median for recent in candidate.drafts]
        first = first._replace(units=[drafts[0] + units for units in first.units])
        later = later._replace(
            units=[later.units[0], *(drafts[1] + units for units in later.units[1:])])
        plan = cheapest(first, later)
        return plan._replace(units=1 + candidate.other.median + plan.units)
