"""
The expert of a task: each step it does the first skill of the plan whose aim isn't reached yet.

Of several things to put it takes the one that the hand is at: a policy that copies it has no more
than a picture, and that often doesn't show whether the one before lies well enough.

It has no clock and no memory of stages: the simulator's state alone says which skill is at work,
so it goes on sensibly from wherever a push or a policy has led.
"""

from __future__ import annotations

from typing import Protocol, TYPE_CHECKING

import numpy as np

from specvla_ros.libero.experts.aside import aside_of, covered
from specvla_ros.libero.experts.doors import CloseDoor, OpenDoor
from specvla_ros.libero.experts.drawers import CloseDrawer, OpenDrawer
from specvla_ros.libero.experts.inserts import goes_in_by_handle, Insert
from specvla_ros.libero.experts.knobs import TurnKnob
from specvla_ros.libero.experts.motion import Motion, OPEN
from specvla_ros.libero.experts.places import place_of
from specvla_ros.libero.experts.plan import Act, Goal, plan, Stage
from specvla_ros.libero.experts.pushes import PushTo
from specvla_ros.libero.experts.put import Put
from specvla_ros.libero.experts.workspace import Vector, Workspace
from specvla_ros.libero.lying import Lying

if TYPE_CHECKING:
    from specvla_ros.libero.environment import LiberoEnv

_WIDE = 0.03  # m off its end: a drawer into which a bowl still goes
_LEFT = 0.06  # m: a hand closer to what it has dealt with backs out first
_MOVED = 0.03  # m: an object that lies further from where it was placed was moved
_AT = 0.08  # m: a hand closer than this to a grasp is at it


class Skill(Protocol):
    """What every skill answers."""

    def act(self, nominal: Vector) -> Motion:
        """Return the motion for the present state; nominal [3, 3]: the hand's first rotation."""

    @property
    def held(self) -> bool:
        """Whether the hand holds what the skill moves."""

    @property
    def grip(self) -> Vector:
        """Where the hand is while at work, [3] m."""

    @property
    def subject(self) -> Vector:
        """Where what is moved is, [3] m."""

    @property
    def target(self) -> Vector:
        """Where what is moved should go, [3] m."""


class TaskExpert:
    """
    Solves the task of an environment, or another one in its scene.

    :param goals: those of the other task, as `Workspace.goals`; None = the environment's own
    :raises ValueError: the task's goal has a predicate that no skill serves
    """

    def __init__(self, env: LiberoEnv, goals: list[list[str]] | None = None) -> None:
        self._scene = Workspace(env)
        self.steps = plan(self._scene.goals if goals is None else goals)
        self.restart()

    def restart(self) -> None:
        """Take in a new episode: where things stand, and the hand's nominal orientation."""
        self._nominal = self._scene.hand
        self._skills = [skill_of(self._scene, step) for step in self.steps]
        self._placed = {step.thing: self._scene.position(step.thing) for step in self.steps
                        if step.act is Act.CLEAR}

    @property
    def step(self) -> Stage:
        """The step at work."""
        return self.steps[self.active]

    def act(self) -> Vector:
        """Return the SI action [7] for the present state: m, rotation vector in rad, gripper."""
        active = self.active
        motion = self._back_out(active) or self._skills[active].act(self._nominal)
        return motion.action(self._scene.hand, self._nominal)

    def state(self) -> Vector:
        """Return what a policy must see, [10]: eef, moved thing and its aim (m), finger width."""
        skill = self._skills[self.active]
        return np.concatenate([self._scene.eef, skill.subject, skill.target,
                               [self._scene.width]]).astype(np.float32)

    @property
    def away(self) -> float:
        """Distance of the hand from the grasp of the next object, m; 0 while it holds it."""
        return self._away(self.active)

    @property
    def carried(self) -> Lying | None:
        """How the object that is to be put lies in the hand, if the hand holds it."""
        step, skill = self.steps[self.active], self._skills[self.active]
        carries = skill.held and self._scene.movable(step.thing)
        return self._scene.in_hand(step.thing) if carries else None

    @property
    def settled(self) -> list[Lying]:
        """How the objects lie that were put where they belong, or out of a drawer's way."""
        due = self._due
        moves = {self.steps[index].thing for index in due}
        lying = []
        for index, step in enumerate(self.steps):
            if step.destination is None or index in due:
                continue
            if step.thing not in moves:
                lying.append(self._scene.lying(step.thing, step.destination))
            elif step.act is Act.CLEAR and self._was_moved(step.thing):
                lying.append(self._scene.lying(step.thing, self._scene.owner(step.destination)))
        return lying

    @property
    def active(self) -> int:
        """
        Return the number of the step at work; once all are done, of the last.

        It is the first step that isn't done. Where that one puts an object, and the hand is at
        another object that is to be put, it is the step of that other object.
        """
        due = self._due
        if not due:
            return len(self.steps) - 1
        if self.steps[due[0]].act is not Act.PUT:
            return due[0]
        away = {index: self._away(index) for index in due
                if index == due[0] or self._in_any_order(index)}
        nearest = min(away, key=lambda index: away[index])
        return nearest if away[nearest] < _AT else due[0]

    @property
    def _due(self) -> list[int]:
        """Numbers of the steps that are not done; an object in the hand isn't put yet."""
        return [index for index, (step, skill)
                in enumerate(zip(self.steps, self._skills, strict=True))
                if not any(self._helps(goal) for goal in step.needed_for)
                and (not self._reached(step) or skill.held)]

    def _in_any_order(self, index: int) -> bool:
        """Whether a step puts an object, and no other step's object lies on or below it then."""
        step = self.steps[index]
        return step.act is Act.PUT and not any(
            other.destination == step.thing or other.thing == step.destination
            for other in self.steps)

    def _away(self, index: int) -> float:
        skill = self._skills[index]
        return 0.0 if skill.held else float(np.linalg.norm(skill.grip - self._scene.eef))

    def _was_moved(self, thing: str) -> bool:
        way = self._scene.position(thing) - self._placed[thing]
        return bool(np.linalg.norm(way) > _MOVED)

    def _reached(self, step: Stage) -> bool:
        if step.act is Act.CLEAR:  # no predicate of LIBERO's
            assert step.destination is not None
            return not covered(self._scene, step.thing, step.destination)
        return self._helps(step.goal) if step.needed_for else self._scene.satisfied(step.goal)

    def _helps(self, goal: Goal) -> bool:
        """Whether a predicate holds, or nearly: a drawer that was bumped into is wide enough."""
        wide = goal[0] == 'open' and 'microwave' not in goal[1] and \
            np.linalg.norm(self._scene.travel(goal[1])) < _WIDE
        return bool(wide) or self._scene.satisfied(goal)

    def _back_out(self, active: int) -> Motion | None:
        """Return the way out of what an earlier step has dealt with, or None: it is free."""
        if self._skills[active].held:
            return None
        eef, hand = self._scene.eef, self._scene.hand
        for index, skill in enumerate(self._skills):
            if index != active and np.linalg.norm(skill.grip - eef) < _LEFT and \
                    np.linalg.norm(self._skills[active].grip - eef) > _LEFT:
                opened = np.clip((self._scene.width - 0.03) / 0.04, 0, 1)
                return Motion(-hand[:, 2] * (0.01 + 0.05 * opened), OPEN,
                              hand @ self._nominal.T)
        return None


def skill_of(scene: Workspace, step: Stage) -> Skill:
    """Return the skill that does a step."""
    if step.act is Act.TURN:
        return TurnKnob(scene, step.thing, step.goal[0].lower() == 'turnon')
    if step.act is Act.OPEN:
        return (OpenDoor if 'microwave' in step.thing else OpenDrawer)(scene, step.thing)
    if step.act is Act.CLOSE:
        return (CloseDoor if 'microwave' in step.thing else CloseDrawer)(scene, step.thing)
    assert step.destination is not None
    if step.act is Act.CLEAR:
        return Put(scene, step.thing, aside_of(scene, step.thing, step.destination))
    if step.act is Act.PUSH:
        return PushTo(scene, step.thing, step.destination)
    if step.inside and goes_in_by_handle(scene, step.thing, step.destination):
        return Insert(scene, step.thing, step.destination)
    place = place_of(scene, step.thing, step.destination, step.inside, step.slot, step.slots)
    return Put(scene, step.thing, place)
