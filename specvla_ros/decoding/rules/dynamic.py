"""Relaxed by how steadily the robot moves: KERV's dynamic threshold (arXiv 2603.01581)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import exp

from specvla_ros.action_space import ActionSpace
from specvla_ros.errors import SpecVLAError
from specvla_ros.situation import Situation

from . import check_number, RULES
from .bins import Bins


@RULES.register('dynamic')
@dataclass(frozen=True, slots=True)
class Dynamic:
    """
    Within ``most`` bins while the robot moves steadily, fewer the more its motion changes.

    r = least + (most - least) · exp(-(K / scale)^power), rounded down. K: kinematic variability,
    how many bins a dimension changes from one control step to the next, the mean over the steps of
    ``Situation.recent``, the gripper left out. With fewer than two steps r = least.

    least, most: bins. scale: bins, above 0. power: above 0. The gripper is exact.

    KERV's K is the sum of |drafted - verified| over the dimensions of an action; a rule is asked
    before there is a draft, so it looks at the motion itself.
    """

    least: int = 5
    most: int = 15
    scale: float = 20.0
    power: float = 1.0

    def __post_init__(self) -> None:
        check_number('dynamic', 'most', self.most, 0, float('inf'), whole=True)
        check_number('dynamic', 'least', self.least, 0, self.most, whole=True)
        for name in ('scale', 'power'):
            check_number('dynamic', name, getattr(self, name), 1e-3, 1e6)

    def reach(self, space: ActionSpace, situation: Situation) -> tuple[int, ...]:
        """Return r, and 0 for the gripper; raise SpecVLAError if no bin has a size."""
        if not space.bin_si:
            raise SpecVLAError('the rule dynamic needs to know what a bin is worth, but this '
                               'action space has no bin_si; take the rule bins')
        r = self.least
        if len(situation.recent) > 1:
            steady = exp(-((variability(situation.recent, space) / self.scale) ** self.power))
            r += int((self.most - self.least) * steady)
        return Bins(r).reach(space, situation)


def variability(recent: tuple[tuple[float, ...], ...], space: ActionSpace) -> float:
    """Mean change of a dimension between control steps, bins; the gripper left out."""
    worth = space.bin_si[: space.action_dim - 1]
    changes = [abs(new - old) / size for before, after in pairwise(recent)
               for old, new, size in zip(before, after, worth) if size]
    return sum(changes) / len(changes) if changes else 0.0
