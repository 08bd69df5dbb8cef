"""
How many steps of an answer are executed, and when the next answer is asked for; no ROS in it.

An answer says H control steps. E of them (`execute_steps`) are executed for each answer. The
answer to an image taken at time t that takes D s comes at t + D: its first D / T steps are over by
then (T: control period) and are skipped, the next E are executed. So that the next answer is
there when they are done, its image is taken E periods after t.

Where the next answer is late, steps beyond E go on: they are still what the policy said of these
times, and an arm that stops and goes is worse. Where no step is left, the arm stands still.

On a clock `steps.StepQueue` does this. Here is the same for a simulation that waits for each
answer: there no time passes, so how long an answer would have taken is given, as `latency`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from specvla_ros.errors import SpecVLAError

_OPEN = 1.0
# Of a period: 0.15 s are 3 periods of 0.05 s, and not 2.9999999999999996.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Execution:
    """
    Says which steps of an answer a simulation executes that waits for it.

    execute_steps: E, at least 1; None = all that there are. latency: control periods that pass in
    the simulation before an answer is there.
    """

    execute_steps: int | None = None
    latency: int = 0

    @classmethod
    def late(cls, execute_steps: int | None, latency_s: float, period_s: float) -> Execution:
        """
        Take the latency in seconds; parts of a period don't count, as on a clock.

        :raises SpecVLAError: a latency that can't be
        """
        if not (isfinite(latency_s) and latency_s >= 0):
            raise SpecVLAError(f'latency_s is {latency_s}, must be 0 s or more')
        return cls(execute_steps, int(latency_s / period_s + _ROUNDING))

    def periods(self, chunk: int) -> int:
        """Return the control periods from an image to the next, for answers of H = chunk steps."""
        wanted = chunk if self.execute_steps is None else self.execute_steps
        # One answer is computed at a time, and none longer than its steps last.
        return max(self.latency, min(wanted, chunk - self.latency), 1)

    def firm_steps(self, missed: int | None = None) -> int | None:
        """
        Return how many steps of an answer are firm: the next one says the others again in time.

        :param missed: steps that are over when the answer comes; None = as the latency says
        :returns: None = all
        """
        if self.execute_steps is None:
            return None
        missed = self.latency if missed is None else missed
        return missed + max(self.execute_steps, missed, 1)

    def steps(self, chunk: int) -> slice:
        """
        Return which steps of an answer are executed, the first of them `latency` periods late.

        Where all are over when it comes, the last one is executed, as late as it is: a policy
        that is slower than its answers are long moves the arm slowly, rather than not at all.
        """
        return slice(min(self.latency, chunk - 1),
                     min(self.latency + self.periods(chunk), chunk))


@dataclass(frozen=True, slots=True)
class Move:
    """A control step of a simulation: delta [7]; stands: the arm stands still, none was said."""

    delta: NDArray[np.floating]
    stands: bool = False


class StepsAhead:
    """Holds the steps that an arm in a simulation has still to execute."""

    def __init__(self) -> None:
        self._ahead: deque[NDArray[np.floating] | None] = deque()
        self._gripper = _OPEN

    def put(self, deltas: NDArray[np.floating], first: int = 0, periods: int | None = None
            ) -> Iterator[Move]:
        """
        Take steps of an answer to the image shown now; say what is done until the next image.

        Until the first of them, older answers go on; where none says a step, the arm stands still
        and the gripper stays as it is.

        :param deltas: [steps, 7]
        :param first: control periods from the image to the first of them
        :param periods: from the image to the next; None = until all are done
        """
        older = [self._ahead.popleft() if self._ahead else None for _ in range(first)]
        self._ahead = deque([*older, *deltas])  # of what both say, the newer word
        for _ in range(max(len(deltas), first) if periods is None else periods):
            delta = self._ahead.popleft() if self._ahead else None
            if delta is None:
                yield Move(np.append(np.zeros(6), self._gripper), stands=True)
            else:
                self._gripper = float(delta[6])
                yield Move(delta)


def check_execute_steps(wanted: int | None, chunk: int) -> None:
    """Raise SpecVLAError for a number of steps that an answer of H = chunk steps doesn't have."""
    if wanted is not None and not 1 <= wanted <= chunk:
        most = f'from 1 to {chunk}' if chunk > 1 else '1'
        raise SpecVLAError(
            f'execute_steps is {wanted}, must be {most}, the control steps of an '
            'answer of this checkpoint (its chunk)')
