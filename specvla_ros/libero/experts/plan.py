"""From a goal to the steps that reach it: what to open first, what to close last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

Goal = Sequence[str]


class Act(IntEnum):
    """What a step does; lower ones come first."""

    TURN = 0   # a knob, on or off
    CLEAR = 1  # out of a drawer's way, which would else hang over what goes into it
    OPEN = 2   # a drawer or a door
    PUSH = 3   # an object that lies flat and is too wide to take
    PUT = 4
    CLOSE = 5


_ACTS = {'turnon': Act.TURN, 'turnoff': Act.TURN, 'open': Act.OPEN, 'close': Act.CLOSE,
         'in': Act.PUT, 'on': Act.PUT}
_TOO_WIDE = ('plate', 'frypan', 'tray')
_CONTAINERS = ('cabinet', 'fridge', 'microwave')


@dataclass(frozen=True, slots=True)
class Stage:
    """
    One step of a plan.

    goal: the predicate that becomes true. thing: the object that is moved. destination: where it
    goes, or None; of CLEAR the drawer that must not cover it.
    slot, slots: which of how many objects it is that go to this destination. needed_for: the step
    is only a means: it is left out once one of these predicates holds; none = it is a goal.
    """

    act: Act
    goal: tuple[str, ...]
    thing: str
    destination: str | None = None
    slot: int = 0
    slots: int = 1
    needed_for: tuple[tuple[str, ...], ...] = ()

    @property
    def inside(self) -> bool:
        """Whether the goal is `In`."""
        return self.goal[0].lower() == 'in'


def plan(goals: Sequence[Goal]) -> tuple[Stage, ...]:
    """
    Return the steps, in order, that make all predicates of a goal true.

    :param goals: as LIBERO parses them: `[['in', object, region], ['close', region]]`
    :raises ValueError: a predicate that no skill serves
    """
    steps: list[Stage] = []
    for goal in goals:
        name = goal[0].lower()
        if name not in _ACTS or len(goal) != (3 if _ACTS[name] is Act.PUT else 2):
            raise ValueError(f'no scripted expert for the goal {list(goal)}: there are skills for '
                             f'{", ".join(sorted(_ACTS))}')
        steps += _steps(tuple(goal), goals)
    return tuple(sorted(steps, key=lambda step: step.act))


def _steps(goal: tuple[str, ...], goals: Sequence[Goal]) -> list[Stage]:
    act = _ACTS[goal[0].lower()]
    if act is not Act.PUT:
        return [Stage(act, goal, goal[1])]
    thing, destination = goal[1], goal[2]
    if any(word in thing for word in _TOO_WIDE):
        return [Stage(Act.PUSH, goal, thing, destination)]
    together = [other[1] for other in goals if len(other) == 3 and other[2] == destination]
    put = Stage(act, goal, thing, destination, together.index(thing), len(together))
    door = _door(destination)
    if door is None or ('open', door) in {tuple(other) for other in goals}:
        return [put]
    opened = ('open', door)
    steps = [Stage(Act.OPEN, opened, door, needed_for=(goal,)), put]
    if door == destination:  # a drawer: it slides out over the table
        steps.append(Stage(Act.CLEAR, ('clear', thing, door), thing, door,
                           needed_for=(goal, opened)))
    return steps


def _door(region: str) -> str | None:
    """Return what must be open to put something into a region: a drawer, or its owner."""
    if not region.endswith('_region') or not any(word in region for word in _CONTAINERS):
        return None
    return region if 'cabinet' in region else region.removesuffix('_heating_region')
