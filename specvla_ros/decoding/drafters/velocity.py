"""Guesses from the actions before, moved on at constant velocity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from specvla_ros.action_space import ActionSpace

from .drafter import DRAFTERS
from .history import MotionModel


@DRAFTERS.register('velocity')
@dataclass(frozen=True, slots=True)
class ConstantVelocity(MotionModel):
    """
    Predicts that each dimension changes as in the last step: the settings of `velocity`.

    The gripper keeps its token.
    """

    name: ClassVar[str] = 'velocity'

    def ahead(self, steps: NDArray[np.int64], count: int, space: ActionSpace) -> NDArray:
        """Extrapolate the last two steps; what did not change stays the same token."""
        tokenizer = space.tokenizer
        before, last = tokenizer.decode(steps[[0, -1]]).astype(np.float64)
        moved = tokenizer.encode(last + count * (last - before))
        still = steps[0] == steps[-1]
        still[-1] = True  # the gripper: two states, not a scale
        return np.where(still, steps[-1], moved)
