"""
A moving world: one object of a LIBERO scene stands on a conveyor belt.

The belt acts by friction alone: in the contacts between the object and what can't move (floor,
table), friction acts against the object's speed relative to the belt. So the object is carried
along, is stopped by what is in its way, carries what lies in it, and is carried no longer once the
gripper lifts it. No position is ever set, so nothing passes through anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import Any, get_args, Literal

import numpy as np
from numpy.typing import NDArray

from specvla_ros.errors import SpecVLAError

Drifting = Literal['basket', 'target']
Vector = NDArray[np.float64]
MOST_M_PER_S = 0.2  # a fifth of the 1 m/s that the hand's controller can ask for
# Where the hand reaches the table from above, along x and y of the robot's base, m.
REACH = np.array(((0.36, -0.32), (0.78, 0.32)))
# A surface that carries is flatter than this (cosine of its slope): a wall is no belt.
_LEVEL = 0.9


@dataclass(frozen=True, slots=True)
class Drift:
    """
    Which object of a task drifts, and how.

    m_per_s: its speed on the table. body: `target`, the object to be taken, or `basket`, where it
    is to be put (in other suites a plate, say). span_m: how far it drifts along x and along y from
    where it began before it turns back; it always turns where the robot's reach ends. seed: of the
    directions, one for each task and initial state.

    :raises SpecVLAError: a value that can't be
    """

    m_per_s: float
    body: Drifting = 'basket'
    span_m: float = math.inf
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.m_per_s <= MOST_M_PER_S:  # refuses NaN, too
            raise SpecVLAError(f'a drift of {100 * self.m_per_s:g} cm/s: give 0 to '
                               f'{100 * MOST_M_PER_S:g} cm/s')
        if self.body not in get_args(Drifting):
            raise SpecVLAError(f'a drift of the {self.body!r}, must be of one of: '
                               f'{", ".join(get_args(Drifting))}')
        if not self.span_m > 0:
            raise SpecVLAError(f'a drift that turns back after {100 * self.span_m:g} cm: give '
                               'more than 0 cm')
        if self.seed < 0:
            raise SpecVLAError(f'a drift with the seed {self.seed}: give 0 or more')

    def velocity(self, task: int, state: int) -> Vector:
        """Return [2] m/s along x and y of the robot's base, in which an episode begins."""
        angle = np.random.default_rng((self.seed, task, state)).uniform(0, 2 * math.pi)
        return self.m_per_s * np.array([math.cos(angle), math.sin(angle)])

    def box(self, start: Vector) -> tuple[Vector, Vector]:
        """
        Return the corners [2] m, lowest and highest x and y, between which an object drifts.

        :param start: [2] m, where it begins; all are in the frame of the robot's base
        """
        return (np.minimum(start, np.maximum(REACH[0], start - self.span_m)),
                np.maximum(start, np.minimum(REACH[1], start + self.span_m)))


def name_of(body: Drifting, goals: Sequence[Sequence[str]]) -> str:
    """
    Return what drifts: the name of an object, or of a region of it.

    :param goals: of the task, as LIBERO has them: `[['in', object, region of the basket]]`
    :raises SpecVLAError: the task doesn't put one object into or onto another
    """
    if len(goals) != 1 or len(goals[0]) != 3:
        raise SpecVLAError(f'the goal {list(goals)} has no one {body}: a drift needs a task that '
                           'puts one object into or onto another')
    return goals[0][1 if body == 'target' else 2]


class Belt:
    """
    The conveyor belt under one object; `step` stands in for MuJoCo's step.

    :param model, data: MuJoCo's own
    :param body: number of the object's body
    :param name: of the object, for messages
    :param base: position [3] and rotation [3, 3] of the robot's base in the world
    :raises SpecVLAError: the object is fixed
    """

    def __init__(self, model: Any, data: Any, body: int, name: str, base: tuple[Vector, Vector]
                 ) -> None:
        import mujoco
        joint = model.body_jntadr[body]
        if joint < 0 or model.jnt_type[joint] != mujoco.mjtJoint.mjJNT_FREE:
            raise SpecVLAError(f'{name} is fixed and can not drift: choose another task, or let '
                               'the other object drift')
        if model.opt.cone != mujoco.mjtCone.mjCONE_ELLIPTIC:
            raise SpecVLAError('a drift needs the elliptic friction cones that LIBERO has')
        self.name = name
        self._model, self._data, self._body, self._base = model, data, body, base
        self._moves = model.body_rootid[model.geom_bodyid] == body
        self._stands = model.body_weldid[model.geom_bodyid] == 0  # floor, table, what is fixed
        self._velocity: Vector | None = None
        self._low = self._high = np.zeros(2)

    @property
    def place(self) -> Vector:
        """Where the object is now, [2] m, along x and y of the robot's base."""
        origin, turn = self._base
        return (turn.T @ (self._data.xpos[self._body] - origin))[:2]

    @property
    def carries(self) -> bool:
        """Whether the object stands on the belt now."""
        return bool(self._contacts()[0].size)

    def start(self, velocity: Vector, low: Vector, high: Vector) -> None:
        """
        Begin to move.

        :param velocity: [2] m/s
        :param low, high: [2] m, corners of the box in which the object stays; all are along x and
            y of the robot's base
        """
        self._velocity, self._low, self._high = velocity, low, high

    def stop(self) -> None:
        """Stand still: steps are MuJoCo's own again."""
        self._velocity = None

    def step(self, with_udd: bool = True) -> None:
        """Advance the simulation by one of its time steps, in place of robosuite's `sim.step`."""
        import mujoco
        if self._velocity is None:
            mujoco.mj_step(self._model, self._data)
            return
        mujoco.mj_step1(self._model, self._data)
        place, speed = self.place, np.abs(self._velocity)
        self._velocity = np.where(place < self._low, speed, np.where(
            place > self._high, -speed, self._velocity))
        self._carry(self._base[1] @ np.append(self._velocity, 0.0))
        mujoco.mj_step2(self._model, self._data)

    def _contacts(self) -> tuple[NDArray[np.int64], Vector]:
        """
        Return the contacts of object and belt, and a sign each: -1 where the object is first.

        MuJoCo's relative velocity in a contact is that of its second body less that of its first.
        """
        contact = self._data.contact
        first, second = contact.geom1, contact.geom2
        sign = (self._stands[first] & self._moves[second]) * 1.0 - (
            self._moves[first] & self._stands[second])
        level = np.abs(contact.frame[:, 2]) > _LEVEL
        which = np.flatnonzero((sign != 0) & level & (contact.efc_address >= 0))
        return which, sign[which]

    def _carry(self, velocity: Vector) -> None:
        """
        Have friction act against the speed relative to a belt of this velocity [3] m/s.

        Along each tangent t of a contact, MuJoCo's friction aims at the acceleration -b (t·u), u
        the relative velocity and b a damping (its documentation, "Computation", "Constraint
        model"). Here u less the belt's velocity takes its place.
        """
        which, sign = self._contacts()
        tangents = self._data.contact.frame.reshape(-1, 3, 3)[which, 1:]
        rows = self._data.contact.efc_address[which, None] + (1, 2)
        along = tangents @ velocity * sign[:, None]
        self._data.efc_aref[rows] += self._data.efc_KBIP[rows, 1] * along
