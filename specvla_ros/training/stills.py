"""
Still frames: further placements of a task, seen as if an episode had come this far with them.

An episode shows one placement, and a policy may know it by heart instead of looking. Here nothing
is executed: the objects are placed anew; those that the episode had dealt with are laid where they
lay, the soup in the basket and the drawer as far open; the arm is put where it was, with what it
held; and the expert says what it would do. Such frames show many placements at the cost of a few.

Where other tasks can be done in the scene, each frame is labelled for these as well: one picture
teaches several instructions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from enum import Enum
from functools import cached_property
from typing import NamedTuple, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specvla_ros.libero.experts.task_expert import TaskExpert
from specvla_ros.libero.lying import Lying
from specvla_ros.libero.scenes import other_goals, Predicates

if TYPE_CHECKING:
    from specvla_ros.libero.environment import LiberoEnv

POSES = 6  # frames of a placement
_TRIES = 30  # moments tried for them: in some the arm would stand in an object
_NEAR = 0.12  # m from the grasp, where most can be learned
_TOUCHED = 0.01  # m or rad: a fixture's joint that differs more from the beginning was moved
_MOVED = 0.02  # rad: standard deviation of the joints from those of the episode
# A policy closes its fingers too early. An expert's episodes hardly show closed fingers beside an
# object, so this share of the frames with an empty hand has the fingers at a random width.
_CLOSED_SHARE, _OPEN = 0.25, 0.04  # m: of each finger from the middle, open


class Kind(Enum):
    """What the hand does at a moment; the values are shares of the frames."""

    NEAR = 0.45
    FAR = 0.25
    CARRYING = 0.3


class Snapshot(NamedTuple):
    """
    What an episode has come to, without what it hasn't dealt with yet.

    step: number of the expert's step at work. arm: [9], as `LiberoEnv.arm`. fixtures: [F], as
    `LiberoEnv.fixture_joints`, NaN for those that nothing moved. settled, carried: as the expert
    has them.
    """

    step: int
    arm: NDArray[np.float64]
    fixtures: NDArray[np.float64]
    settled: list[Lying]
    carried: Lying | None


class Still(NamedTuple):
    """
    A frame uint8 [H, W, 3] RGB, the expert's SI actions [1 + K, 7] and privileged states for it.

    Those of the environment's own task come first, then those of `Stills.others`.
    """

    image: NDArray[np.uint8]
    actions: NDArray[np.float64]
    states: NDArray[np.float32]


class Stills:
    """
    Takes still frames of an environment.

    :param random: what the placements, and the moments in them, are drawn from
    """

    def __init__(self, env: LiberoEnv, random: np.random.Generator) -> None:
        self._env, self._random = env, random
        self._first: NDArray[np.float64] | None = None  # the fixtures' joints at the beginning
        self._snapshots: defaultdict[int, defaultdict[Kind, list[Snapshot]]] = \
            defaultdict(lambda: defaultdict(list))

    @property
    def others(self) -> list[str]:
        """Instructions of the other tasks in this scene, K."""
        return list(self._goals)

    @cached_property
    def _goals(self) -> dict[str, Predicates]:
        return other_goals(self._env)

    def note(self, expert: TaskExpert) -> None:
        """Keep what the episode has come to, if the arm is on its way to a thing or with it."""
        joints = self._env.fixture_joints
        if self._first is None:
            self._first = joints
        carried, away = expert.carried, expert.away
        if carried is None and not away:  # at work on a drawer, a door or a knob
            return
        kind = Kind.CARRYING if carried else Kind.NEAR if away < _NEAR else Kind.FAR
        self._snapshots[expert.active][kind].append(Snapshot(
            expert.active, self._env.arm,
            np.where(np.abs(joints - self._first) > _TOUCHED, joints, np.nan), expert.settled,
            carried))

    def take(self, placements: int) -> Iterator[Still]:
        """
        Take frames of so many placements; the episode is over then.

        :raises SpecVLAError: objects overlap in ten placements in a row
        """
        for _ in range(placements if self._snapshots else 0):
            self._env.reset_random(int(self._random.integers(2**32)), render=False)
            experts = [TaskExpert(self._env, goals) for goals in (None, *self._goals.values())]
            placed, taken = (self._env.positions, self._env.fixture_joints), 0
            for _ in range(_TRIES):
                if taken < POSES and self._show(self._snapshot(), placed, experts[0]):
                    taken += 1
                    yield Still(self._env.frame(), np.stack([it.act() for it in experts]),
                                np.stack([it.state() for it in experts]))

    def _snapshot(self) -> Snapshot:
        # Each step is as likely, however long it took.
        steps = list(self._snapshots.values())
        kinds = steps[self._random.integers(len(steps))]
        shares = np.array([kind.value for kind in kinds])
        chosen = list(kinds.values())[self._random.choice(len(kinds), p=shares / shares.sum())]
        return chosen[self._random.integers(len(chosen))]

    def _show(
        self, snapshot: Snapshot, placed: tuple[NDArray[np.float64], NDArray[np.float64]],
        expert: TaskExpert,
    ) -> bool:
        """Bring a placement to a moment; return whether it can be so, and is as far."""
        positions, joints = placed
        arm = snapshot.arm.copy()
        arm[:-2] += self._random.normal(scale=_MOVED, size=len(arm) - 2)
        if snapshot.carried is None and self._random.random() < _CLOSED_SHARE:
            arm[-2:] = self._random.uniform(0, _OPEN) * np.array([1, -1])
        joints = np.where(np.isnan(snapshot.fixtures), joints, snapshot.fixtures)
        self._env.put_back(positions, joints, snapshot.settled)
        free = self._env.put_arm(arm, snapshot.carried)
        return free and expert.active == snapshot.step and \
            (expert.carried is None) == (snapshot.carried is None)
