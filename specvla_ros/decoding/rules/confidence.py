"""Relaxed by the target's own doubt: within the smallest region that holds a share of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specvla_ros.action_space import ActionSpace
from specvla_ros.errors import SpecVLAError
from specvla_ros.situation import Situation

from . import check_number, RULES
from .bins import Bins
from .rule import Drafts


@RULES.register('confidence')
@dataclass(frozen=True, slots=True)
class Confidence:
    """
    Accepts the most probable bins that together hold ``share`` of the target's probability.

    They need not be adjacent.

    share: above 0, at most 1. r: bins, at most so far from the target's choice, whatever its
        probability: two ways around an obstacle are both likely, their mixture is neither. The
        gripper is exact.

    The bins are taken by falling probability, of equal ones the nearer to the target's choice
    first: where the target is sure only its choice may stay.
    """

    share: float = 0.5
    r: int = 15

    def __post_init__(self) -> None:
        check_number('confidence', 'share', self.share, 0.0, 1.0)
        check_number('confidence', 'r', self.r, 0, float('inf'), whole=True)
        if not self.share:
            raise SpecVLAError(
                'share of the rule confidence is 0, must be more; take the rule strict')

    def reach(self, space: ActionSpace, situation: Situation) -> tuple[int, ...]:
        """Return r, and 0 for the gripper."""
        return Bins(self.r).reach(space, situation)

    def stays(self, drafts: Drafts, space: ActionSpace) -> Tensor:
        """Whether the bins before a draft hold less than ``share``."""
        chances = drafts.logits.softmax(-1, dtype=torch.float32)
        bins = torch.arange(chances.shape[-1], device=chances.device)
        own = drafts.own[:, None]
        # Of two bins as near as each other the lower comes first: an order without ties.
        order = 2 * (bins - own).abs() + (bins > own)
        chance, place = (it.gather(-1, drafts.bins[:, None]) for it in (chances, order))
        before = (chances > chance) | ((chances == chance) & (order < place))
        return (chances * before).sum(-1) < self.share
