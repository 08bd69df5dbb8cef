"""
What a glance network learns while its robot acts, and when what it learned is used.

Two threads meet here. The one that acts calls `take` and `carry_out` between two actions; the one
that has time calls `step`, which touches no weight that is in use. A new head is tried before it
is used: it stops learning, and guesses at the actions that come afterwards.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specvla_ros.decoding.drafters import GlanceHead
from specvla_ros.learning.contest import Contest, Contestant
from specvla_ros.learning.kept_actions import KeptActions
from specvla_ros.learning.paired import Paired
from specvla_ros.learning.settings import LearnerSettings
from specvla_ros.learning.shadow import BATCH, cpu_copy, put_in_place, Shadow

_STEPS_AN_ACTION = 3  # each action is learned from about 48 times: a robot at rest learns no more
_MEASURED_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class HeadChange:
    """
    A head was put in use between two actions.

    sequence: of the first action after it. number: of the head, 0 = as loaded. taken_back: whether
    it was in use before, and is again. passes: an action, by the guesses of the head alone, on the
    last actions: of the head in use before and of this one.
    """

    sequence: int
    number: int
    taken_back: bool
    passes: Paired

    def __str__(self) -> str:
        change, low, high = self.passes.percent()
        which = f'head {self.number} that was learned while running' if self.number \
            else 'the head as it was loaded'
        interval = '' if low is None else f' (95 %: {low:+.0f} to {high:+.0f})'
        return (f'{which} is {"taken back" if self.taken_back else "used"} from action '
                f'{self.sequence} on: {self.passes.before:.2f} → {self.passes.after:.2f} passes '
                f'an action by its guesses alone, {change:+.0f} %{interval}')


@dataclass(frozen=True, slots=True)
class LearnerState:
    """
    How far it is, for reports.

    kept: actions that are learned from. steps: of learning, done so far. number: of the head
    in use. loaded, used: passes an action of the loaded head and of the one in use, by the guesses
    alone, on the last actions that both were measured on; None = none yet. swaps, taken_back: how
    often.
    """

    kept: int = 0
    steps: int = 0
    number: int = 0
    loaded: float | None = None
    used: float | None = None
    swaps: int = 0
    taken_back: int = 0
    last: HeadChange | None = None


class Learner:
    """
    Learns in shadow.

    in_use: the last change of heads; None = there was none.

    :param head: the head in use; only `carry_out` changes it
    """

    def __init__(self, head: GlanceHead, settings: LearnerSettings) -> None:
        config = head.config
        self._head, self._settings = head, settings
        self._random = np.random.default_rng(settings.seed)
        self._loaded = cpu_copy(head)
        self._shadow = Shadow(self._loaded, self._random)
        self._contest = Contest(self._loaded, settings.window)
        self._kept = KeptActions(
            settings.actions, (config.patches + 1) * config.rank, config.length)
        # Not yet measured: of more than a window the oldest are forgotten.
        self._fresh: deque[tuple[NDArray[np.float16], NDArray[np.int16]]] = deque(
            maxlen=settings.window)
        self._owed = self._learned = 0  # steps
        self._tried = self._named = 0  # the shadow's steps at the last candidate; candidates
        self._order: tuple[Contestant, Paired] | None = None
        self._done: HeadChange | None = None
        self.in_use: HeadChange | None = None
        self.state = LearnerState()

    @property
    def nbytes(self) -> int:
        """Bytes of the kept actions."""
        return self._kept.nbytes

    @property
    def head_in_use(self) -> GlanceHead | None:
        """A copy of the head in use, where it was learned; None where it is the loaded one."""
        present = self._contest.present
        return present.head if present.number else None

    def take(self, features: NDArray[np.float16], columns: NDArray[np.int16]) -> None:
        """Take in an action, in the thread that acts: seen [F], the target's own bins [L]."""
        self._fresh.append((features, columns))

    def carry_out(self, sequence: int) -> HeadChange | None:
        """
        Put the head in use that was found better, in the thread that acts, between two actions.

        :param sequence: of the next action
        :returns: what was changed; None = nothing
        """
        if self._order is None or self._done is not None:
            return None
        chosen, paired = self._order
        put_in_place(chosen.head, self._head)
        self.in_use = HeadChange(
            sequence, chosen.number, chosen is not self._contest.candidate, paired)
        self._done = self.in_use  # the other thread takes note of it
        return self.in_use

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something."""
        return bool(self._fresh or self._done or self._is_due or
                    self._owed > 0 and len(self._kept) >= BATCH)

    def step(self) -> None:
        """Do one short piece of work: some milliseconds."""
        if self._done is not None:
            self._note_change(self._done)
        elif self._fresh:
            self._measure()
        elif self._is_due:
            self._named, self._tried = self._named + 1, self._shadow.steps
            self._contest.nominate(cpu_copy(self._shadow.averaged), self._named)
        elif self._owed > 0 and len(self._kept) >= BATCH:
            self._owed, self._learned = self._owed - 1, self._learned + 1
            self._shadow.learn(*self._kept.draw(self._random, BATCH))

    def settle(self) -> None:
        """Take note of a change, when the thread that calls `step` has ended."""
        if self._done is not None:
            self._note_change(self._done)

    @property
    def _is_due(self) -> bool:
        """Whether enough was learned for another candidate."""
        window = self._settings.window
        return (self._contest.candidate is None and self._order is None
                and len(self._kept) >= window and self._shadow.steps - self._tried >= window)

    def _measure(self) -> None:
        """Let all heads guess at new actions; only then these may be learned from."""
        count = min(len(self._fresh), _MEASURED_AT_ONCE)
        actions = [self._fresh.popleft() for _ in range(count)]
        self._contest.measure(
            np.stack([features for features, _ in actions]).astype(np.float32),
            np.stack([columns for _, columns in actions]).astype(np.int64))
        for features, columns in actions:
            self._kept.put(features, columns)
        self._owed = min(self._owed + _STEPS_AN_ACTION * count,
                         _STEPS_AN_ACTION * self._settings.actions)
        if self._order is None:
            self._order = self._contest.verdict()
            if self._contest.is_worse:  # what led to such a candidate is no beginning
                self._restart(self._contest.present)
        self._note_state()

    def _note_change(self, change: HeadChange) -> None:
        """The head that was ordered is in use."""
        assert self._order is not None
        chosen, _ = self._order
        self._contest.put_in_use(chosen)
        if change.taken_back:
            self._restart(chosen)
        self._order = self._done = None
        self._note_state(change)

    def _restart(self, contestant: Contestant) -> None:
        self._shadow.restart(contestant.head)
        self._tried = 0

    def _note_state(self, change: HeadChange | None = None) -> None:
        state, contest = self.state, self._contest
        present, loaded = contest.present, contest.used[0]
        paired = contest.compare(loaded, present) if len(present.passes) >= contest.least else None
        self.state = LearnerState(
            len(self._kept), self._learned, present.number,
            None if paired is None else paired.before, None if paired is None else paired.after,
            state.swaps + bool(change and not change.taken_back),
            state.taken_back + bool(change and change.taken_back), change or state.last)
