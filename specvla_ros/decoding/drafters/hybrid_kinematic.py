"""
A switch between drafters by the end effector's path: HeiSD's kinematic metric.

HeiSD (arXiv 2603.17573) drafts from retrieved actions where the recent path is long and straight
(free motion, which repeats) and with its network where it is short or bent (close to a contact):
F = α · norm(R) + (1 - α) · norm(D), R the radius of curvature and D the length of the path over 15
steps, α = 0.5. A large F is retrieval's. In a relay the switch stands between the two,
`retrieval+hybrid_kinematic+eagle`; whoever only continues plays along on either side.

Taken from the paper: F, α, the window. Not known to us, and so decided here: how R and D are
normalised, and where F is large. D is divided by the longest path that so many steps can make; R
becomes R / (R + D), 1 for a straight line, whatever the robot's size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from specvla_ros.decoding.tree import TokenTree
from specvla_ros.errors import shown, SpecVLAError
from specvla_ros.typed_files import is_number

from .drafter import DraftContext, Drafter, DRAFTERS
from .executed_steps import ExecutedSteps

_MOST_WINDOW = 1000
_LEAST = 3  # steps that say how a path bends
_AXES = 3  # of translation: the first dimensions of a step


@DRAFTERS.register('hybrid_kinematic')
@dataclass(frozen=True, slots=True)
class HybridKinematic:
    """
    Settings of the switch `hybrid_kinematic`: path window, weight and threshold.

    window: control steps of the path. alpha: weight of the curvature against the length.
    threshold: F from which on the drafters before the switch play, 0 to 1.
    """

    weights: ClassVar[str | None] = None

    window: int = 15
    alpha: float = 0.5
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if type(self.window) is not int or not 3 <= self.window <= _MOST_WINDOW:
            raise SpecVLAError(f'window of the drafter hybrid_kinematic is {shown(self.window)}, '
                               f'must be a whole number from 3 to {_MOST_WINDOW}')
        for name in ('alpha', 'threshold'):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value <= 1:
                raise SpecVLAError(
                    f'{name} of the drafter hybrid_kinematic is {shown(value)}, must be 0 to 1')

    def drafter(self, weights: None) -> KinematicSwitch:
        """Decide by these settings."""
        return KinematicSwitch(self)


class KinematicSwitch(Drafter):
    """
    Chooses for each action which drafters of a relay guess; it guesses nothing itself.

    metric: F of the action decoded last; None while less than three steps are known.
    """

    def __init__(self, settings: HybridKinematic) -> None:
        self.settings = settings
        self.metric: float | None = None
        self._steps: deque[NDArray[np.float64]] = deque(maxlen=settings.window)
        self._places: deque[tuple[float, float, float]] = deque(maxlen=settings.window + 1)
        self._between: deque[int] = deque(maxlen=settings.window)  # steps from each to the next
        self._new = ExecutedSteps()  # those since the last look: what they mean, a context knows

    def players(self, relay: Sequence[Drafter], context: DraftContext) -> Sequence[Drafter]:
        """Return those before the switch where F is large, else those behind it."""
        self.metric = self._measure(context)
        here = next(number for number, drafter in enumerate(relay) if drafter is self)
        # Before anything is known of the path: a start is no free motion.
        smooth = self.metric is not None and self.metric >= self.settings.threshold
        chosen = relay[:here] if smooth else relay[here + 1 :]
        return [it for it in relay if it in chosen or it.only_continues]

    def propose(self, context: DraftContext) -> TokenTree:
        """Guess nothing."""
        return TokenTree.empty()

    def remember(self, tokens: Sequence[int]) -> None:
        """Take in an action, [L] tokens."""
        self._new.remember(tokens)

    def note_executed(self, steps: int) -> None:
        """Count only so many steps of the last action."""
        self._new.note_executed(steps)

    def reset(self) -> None:
        """Forget the path."""
        for each in (self._steps, self._places, self._between, self._new):
            each.clear()
        self.metric = None

    def _measure(self, context: DraftContext) -> float | None:
        """F of the path so far, 0 to 1; None = too few steps."""
        space, place = context.space, context.situation.eef_position
        per_bin = np.array(space.bin_si or (1.0,) * space.action_dim)
        axes = slice(0, min(_AXES, space.action_dim))
        unit = (space.tokenizer.n_bins - 1) / 2 * per_bin[axes]  # of a normalised 1, m
        if context.situation.executed is not None:
            self._new.note_executed(context.situation.executed)
        steps, _ = self._new.take(space.action_dim)
        self._steps.extend(space.tokenizer.decode(steps).astype(np.float64)[:, axes] * unit)
        if place is None:
            self._places.clear()  # a path with a gap is none
            self._between.clear()
        else:
            if self._places:
                self._between.append(len(steps))
            self._places.append(place)
        longest = self.settings.window * float(np.linalg.norm(unit))
        if len(self._places) > _LEAST:  # where it was, rather than where it was told to go
            path = np.diff(np.array(self._places), axis=0)
            longest *= max(float(np.mean(self._between)), 1.0)
        elif len(self._steps) >= _LEAST:
            path = np.array(self._steps)
        else:
            return None
        return fused_metric(path, longest, self.settings.alpha)


def fused_metric(steps: NDArray[np.float64], longest: float, alpha: float) -> float:
    """
    F of a path, 0 to 1: long and straight is 1.

    steps: [n, D] one after the other, m; longest: the longest such path that can be, m.
    """
    lengths = np.linalg.norm(steps, axis=1)
    distance = float(lengths.sum())
    if distance <= 0:
        return 0.0  # it stands still
    # Turning angle between steps over the way between their middles: the mean curvature.
    ways = (lengths[:-1] + lengths[1:]) / 2
    products = lengths[:-1] * lengths[1:]
    moving = products > 0
    cosines = (steps[:-1] * steps[1:]).sum(1)[moving] / products[moving]
    turned = float(np.arccos(cosines.clip(-1, 1)).sum())
    radius = float(ways.sum()) / turned if turned > 0 else np.inf
    straight = 1.0 if np.isinf(radius) else radius / (radius + distance)
    return alpha * straight + (1 - alpha) * min(distance / longest, 1.0)
