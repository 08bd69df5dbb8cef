"""
Guesses from a Kalman filter: constant velocity per degree of freedom, in normalised space.

`velocity` extrapolates the last two actions, so it passes on all their noise. The filter weighs
each new action against what it had predicted, and learns from how wrong that was (its
innovations) how far to trust either. KERV (arXiv 2603.01581) has such a filter per degree of
freedom, over the last 10 actions; the gripper has two states and no velocity, so it is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from specvla_ros.action_space import ActionSpace
from specvla_ros.errors import shown, SpecVLAError
from specvla_ros.typed_files import is_number

from .drafter import DRAFTERS
from .executed_steps import ExecutedSteps
from .history import PredictingDrafter

# The velocity's disturbance beside the value's. Of 0.001 to 0.3 on 278 recorded actions this one
# predicted best.
_VELOCITY = 0.01
_MOST_NOISE = 255


@DRAFTERS.register('kalman')
@dataclass(frozen=True, slots=True)
class Kalman:
    """
    Settings of the drafter `kalman`: the filter's window and its measurement noise.

    window: control steps over which innovations are averaged: fewer follow a change of motion
    sooner. noise: standard deviation of the target's own choices around a steady motion, in bins:
    the larger, the smoother the prediction.
    """

    weights: ClassVar[str | None] = None

    window: int = 10
    noise: float = 5.0

    def __post_init__(self) -> None:
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 2:
            raise SpecVLAError(
                f'window of the drafter kalman is {self.window!r}, must be a whole number >= 2')
        if not is_number(self.noise) or not 0 < self.noise <= _MOST_NOISE:
            raise SpecVLAError(f'noise of the drafter kalman is {shown(self.noise)}, must be '
                               f'above 0, at most {_MOST_NOISE} bins')

    def drafter(self, weights: None) -> KalmanDrafter:
        """Guess by these settings."""
        return KalmanDrafter(self)


class KalmanDrafter(PredictingDrafter):
    """Predict the next action, step by step, from those filtered so far."""

    def __init__(self, settings: Kalman) -> None:
        super().__init__('kalman')
        self.settings = settings
        self._done = _Track(settings)  # the steps executed, each once
        self._new = ExecutedSteps()  # those not filtered yet: what they mean, a context knows

    def predict(self, space: ActionSpace) -> list[int]:
        """Return the L tokens after those remembered: as many steps ahead as a chunk has."""
        done, left = self._new.take(space.action_dim)
        self._done.take_in(done, space)
        if not len(left):
            return self._done.ahead(space)
        # What is left of the last action is about to be said again: it is filtered on trial.
        trial = self._done.copy()
        trial.take_in(left, space)
        return trial.ahead(space)

    def remember(self, tokens: Sequence[int]) -> None:
        """Take in an action, [L] tokens."""
        super().remember(tokens)
        self._new.remember(tokens)

    def note_executed(self, steps: int) -> None:
        """Filter only so many steps of the last action."""
        self._new.note_executed(steps)

    def reset(self) -> None:
        """Forget all actions."""
        super().reset()
        self._done = _Track(self.settings)
        self._new.clear()


class _Track:
    """The steps of an arm, filtered: where they lead, with the gripper and what stands held."""

    def __init__(self, settings: Kalman) -> None:
        self._settings = settings
        self._filter: VelocityFilter | None = None
        self._last = np.zeros(0, np.int64)  # tokens of the last step [D]
        self._still = np.zeros(0, np.bool_)  # dimensions that stood still in it [D]

    def copy(self) -> _Track:
        """Return one that goes its own way from here."""
        made = copy(self)
        made._filter = copy(self._filter)  # an update replaces its arrays, and changes none
        return made

    def take_in(self, steps: NDArray[np.int64], space: ActionSpace) -> None:
        """Filter further steps, tokens [n, D]."""
        bin_width = 2 / (space.tokenizer.n_bins - 1)
        for tokens, values in zip(steps, space.tokenizer.decode(steps), strict=True):
            values = values.astype(np.float64)
            if self._filter is None:
                self._filter = VelocityFilter(
                    values, self._settings.noise * bin_width, self._settings.window)
                self._still = np.ones(len(tokens), bool)
            else:
                self._filter.update(values)
                self._still = tokens == self._last
            self._last = tokens
            self._still[-1] = True

    def ahead(self, space: ActionSpace) -> list[int]:
        """Return the tokens of a chunk of steps behind the last one; none if there is none."""
        if self._filter is None:
            return []
        ahead = np.arange(1, space.chunk + 1)[:, None]
        moving = space.tokenizer.encode(self._filter.value + ahead * self._filter.velocity)
        return np.where(self._still, self._last, moving).ravel().tolist()


class VelocityFilter:
    """
    Runs one constant-velocity Kalman filter for each of D values.

    The state of each is value and velocity. Measured values are good to ``noise``; what disturbs
    a value between two steps is learned from the innovations: their variance, averaged over
    ``window`` steps, is the variance of the disturbance (R. K. Mehra, IEEE Transactions on
    Automatic Control 15, 1970, adapts a filter so). A dimension that moves erratically is then
    followed closely, a steady one is smoothed. Its velocity is disturbed by a hundredth of that.

    value, velocity: [D], per step.
    """

    def __init__(self, first: NDArray[np.float64], noise: float, window: int) -> None:
        self.value, self.velocity = first, np.zeros_like(first)
        self._noise, self._rate, self._steps = noise**2, 1 / window, 0
        # Variances of value and velocity and their covariance, after the last step.
        self._p, self._cross = np.full_like(first, self._noise), np.zeros_like(first)
        self._pv = np.full_like(first, self._noise)
        self._disturbance = np.full_like(first, self._noise)

    def update(self, measured: NDArray[np.float64]) -> None:
        """Take in the values [D] of the next step."""
        q = self._disturbance
        p = self._p + 2 * self._cross + self._pv + q
        cross, pv = self._cross + self._pv, self._pv + _VELOCITY * q
        innovation = measured - (self.value + self.velocity)
        gain, gain_v = p / (p + self._noise), cross / (p + self._noise)
        self.value = self.value + self.velocity + gain * innovation
        self.velocity = self.velocity + gain_v * innovation
        self._p, self._cross, self._pv = p - gain * p, cross - gain * cross, pv - gain_v * cross
        self._steps += 1  # of the first innovations all count alike
        rate = max(self._rate, 1 / self._steps)
        self._disturbance = q + rate * (innovation**2 - q)
