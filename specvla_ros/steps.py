"""
When a control step is executed; no ROS in it.

Time has one owner. Step k of an answer to an image taken at time t belongs to t + k T, T the
control period of the data set. All times here are seconds of one clock that never jumps
(`time.monotonic`); stamps of images are not.

Why no more than one step a period: a step is a displacement, and the limits of an arm are per
second. With a camera of 60 Hz and a policy that takes 15 ms, one step an image would move the arm
2.6 times as fast as the limits, which count a step as one period, allow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import Generic, TypeVar

Delta = TypeVar('Delta')


@dataclass(frozen=True, slots=True)
class Step(Generic[Delta]):
    """A control step to execute now: its number in its answer, and its delta."""

    number: int
    delta: Delta


class StepQueue(Generic[Delta]):
    """
    Hands out the steps of the newest answer: each once at most, one a control period at most.

    * Steps whose period is over are skipped. The last one of an answer is not: a policy slower
      than the control period moves the arm slowly, rather than not at all.
    * A newer answer takes the place of an older one; an older one is not let in any more.
    * After `execute_steps` of an answer the next one is wanted. Until it comes the steps beyond go
      on: they are still what was said of these times.
    * If only the first steps of an answer are firm and they are over, none of it is executed.

    :param period_s: T, how long a control step lasts
    :param execute_steps: E; None = all that an answer has
    """

    def __init__(self, period_s: float, execute_steps: int | None = None) -> None:
        self._period, self._execute = period_s, execute_steps
        self._free_at = -math.inf
        self._newest = -math.inf  # when the image of the last step handed out was taken, s
        self._deltas: Sequence[Delta] = ()
        self._taken, self._next, self._enough = -math.inf, 0, 0
        self._firm = 0  # steps that may be executed

    @property
    def free_at(self) -> float:
        """The earliest time of the next step, s: one period after the last one."""
        return self._free_at

    def begin_at(self, came: float, takes_s: float) -> float:
        """
        When to begin making the next answer, s, so that it is there when it is wanted.

        :param came: when the image to answer came, s
        :param takes_s: how long making an answer takes, s
        """
        # A hair late, and the step would be one of the answer before: be there a little sooner.
        margin = self._period / 10 if self.next_at is not None else 0.0
        at = self.wanted_at - takes_s - margin
        # Had it waited for more than half a period, a camera about as fast as the control period
        # would send the next one sooner than that: rather be late once than old each time. But
        # not where the arm, which is under way, would stop for it.
        if at - came > self._period / 2 and self.bridges:
            return max(at, came + self._period)
        return at

    @property
    def wanted_at(self) -> float:
        """
        When the first step of the next answer is wanted, s; the present answer has begun.

        Once steps beyond `execute_steps` go on, that is in the past, and stays where it was.
        """
        if not len(self._deltas):
            return self._free_at
        left = self._enough - self._next
        return max(self._taken + self._enough * self._period, self._free_at + left * self._period)

    @property
    def bridges(self) -> bool:
        """Whether steps go on if the next answer is late; True where none goes on anyway."""
        return not len(self._deltas) or self._firm > max(self._enough, self._next)

    @property
    def next_at(self) -> float | None:
        """When `due` will have a step, s; None where no step waits."""
        if not len(self._deltas):
            return None
        return max(self._free_at, self._taken + self._next * self._period)

    def put(self, deltas: Sequence[Delta], taken: float, firm_steps: int | None = None) -> bool:
        """
        Execute these steps from now on, and no older ones.

        :param deltas: one entry a control step
        :param taken: when the image they answer was taken, s
        :param firm_steps: of them that may be executed, from the first on; None = all
        :returns: False if this image was answered already, or is older than one that was
        """
        if not taken > max(self._newest, self._taken):
            return False
        self._deltas, self._taken, self._next, self._enough = deltas, taken, 0, 0
        self._firm = len(deltas) if firm_steps is None else min(firm_steps, len(deltas))
        return True

    def due(self, now: float) -> Step[Delta] | None:
        """Hand out the step whose time it is at `now`, s; None where there is none."""
        at = self.next_at
        if at is None or now < at:
            return None
        begun = int((now - self._taken) / self._period)  # steps whose period has begun, less one
        number = max(self._next, min(begun, len(self._deltas) - 1))
        if number >= self._firm:  # it came too late
            self._newest = self._taken
            self.clear()
            return None
        step = Step(number, self._deltas[number])
        if not self._enough:
            self._enough = min(number + (self._execute or len(self._deltas)), self._firm)
        self._free_at, self._newest, self._next = now + self._period, self._taken, number + 1
        if self._next == self._firm:
            self.clear()
        return step

    def hold(self, until: float) -> None:
        """Hand out nothing before this time, s."""
        self._free_at = max(self._free_at, until)

    def clear(self) -> None:
        """Execute nothing of what was put so far; the pace stays."""
        self._deltas, self._taken, self._next, self._enough = (), -math.inf, 0, 0
        self._firm = 0
