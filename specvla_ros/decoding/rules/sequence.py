"""Relaxed by groups of tokens: HeiSD's sequence-wise acceptance (arXiv 2603.17573)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specvla_ros.action_space import ActionSpace
from specvla_ros.situation import Situation

from . import check_number, RULES
from .bins import Bins
from .rule import Drafts


@RULES.register('sequence')
@dataclass(frozen=True, slots=True)
class SequenceWise:
    """
    Limits the sum of the offsets, without their signs, in each group of a control step.

    The groups are the translation x, y, z and the three angles of the rotation.

    each: bins a token may be off, at least 0. total: bins that the tokens of a group may be off
        together, at least 0. The gripper is exact.

    A draft that takes its group beyond ``total`` is refused with all behind it, those before it
    stay: the target's own token in its place is off by nothing, so the group keeps its bound.
    Tokens of earlier passes count.
    """

    each: int = 15
    total: int = 30

    def __post_init__(self) -> None:
        for name in ('each', 'total'):
            check_number('sequence', name, getattr(self, name), 0, float('inf'), whole=True)

    def reach(self, space: ActionSpace, situation: Situation) -> tuple[int, ...]:
        """Return ``each``, and 0 for the gripper."""
        return Bins(self.each).reach(space, situation)

    def stays(self, drafts: Drafts, space: ActionSpace) -> Tensor:
        """Whether the offsets of a draft's group, up to it, are within ``total``."""
        groups = space.groups(torch.arange(space.length, device=drafts.off.device))
        group = groups.index_select(0, drafts.position)
        earlier = (drafts.before * (group[:, None] == groups)).sum(1)
        together = drafts.paths & (group[:, None] == group)
        return earlier + (drafts.off * together).sum(1) <= self.total
