"""
Still frames: further placements of a task, seen with the arm where it was in an episode.

An episode shows one placement, and a policy may know it by heart instead of looking. Here nothing
is executed: the objects are placed anew, the arm is put somewhere on its way to the object, and
the expert says what it would do. Such frames show many placements at the cost of a few; they
never show an object in the hand.

Where other tasks can be done in the scene, each frame is labelled for these as well: one picture
teaches several instructions.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specvla_ros.libero.experts.task_expert import TaskExpert
from specvla_ros.libero.scenes import other_goals, Predicates

if TYPE_CHECKING:
    from specvla_ros.libero.environment import LiberoEnv

POSES = 6  # frames of a placement
_TRIES = 30  # poses tried for them: in some the arm would stand in an object
_NEAR, _NEAR_SHARE = 0.12, 0.65  # m from the grasp, where most can be learned; share of the frames
_MOVED = 0.02  # rad: standard deviation of the joints from those of the episode


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

    :param random: what the placements, and the poses in them, are drawn from
    """

    def __init__(self, env: LiberoEnv, random: np.random.Generator) -> None:
        self._env, self._random = env, random
        self._near: list[NDArray[np.float64]] = []
        self._far: list[NDArray[np.float64]] = []

    @property
    def others(self) -> list[str]:
        """Instructions of the other tasks in this scene, K."""
        return list(self._goals)

    @cached_property
    def _goals(self) -> dict[str, Predicates]:
        return other_goals(self._env)

    def note(self, expert: TaskExpert) -> None:
        """Keep where the arm is, if it is on its way to what it is to take."""
        if away := expert.away:
            (self._near if away < _NEAR else self._far).append(self._env.arm)

    def take(self, placements: int) -> Iterator[Still]:
        """
        Take frames of so many placements; the episode is over then.

        :raises SpecVLAError: objects overlap in ten placements in a row
        """
        for _ in range(placements if self._near or self._far else 0):
            self._env.reset_random(int(self._random.integers(2**32)), render=False)
            experts = [TaskExpert(self._env, goals) for goals in (None, *self._goals.values())]
            taken = 0
            for _ in range(_TRIES):
                if taken < POSES and self._env.put_arm(self._pose()):
                    taken += 1
                    yield Still(self._env.frame(), np.stack([it.act() for it in experts]),
                                np.stack([it.state() for it in experts]))

    def _pose(self) -> NDArray[np.float64]:
        near = self._random.random() < _NEAR_SHARE
        poses = (self._near if near else self._far) or self._near or self._far
        pose = poses[self._random.integers(len(poses))].copy()
        pose[:-2] += self._random.normal(scale=_MOVED, size=len(pose) - 2)  # the fingers stay
        return pose
