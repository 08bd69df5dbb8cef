"""Exact: the rule that changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from specvla_ros.action_space import ActionSpace
from specvla_ros.situation import Situation

from . import RULES


@RULES.register('strict')
@dataclass(frozen=True, slots=True)
class Strict:
    """Only the target's own token may stay: lossless, whatever the drafter says."""

    def reach(self, space: ActionSpace, situation: Situation) -> tuple[int, ...]:
        """Zeros."""
        return (0,) * space.length
