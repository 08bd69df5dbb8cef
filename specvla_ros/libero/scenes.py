"""
Tasks that can be done in the scene of another one.

In `libero_goal` all ten tasks have the same scene, in `libero_90` up to seven. In `libero_spatial`
each scene has a second black bowl, and it stands where the bowl of another task does. So the other
task's instruction asks for the second bowl.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product
from typing import Any, TYPE_CHECKING

from specvla_ros.libero import suites

if TYPE_CHECKING:
    from specvla_ros.libero.environment import LiberoEnv

Predicates = list[list[str]]  # `[['on', thing, place], …]`
Problem = dict[str, Any]  # a BDDL file, as LIBERO reads it


def other_goals(env: LiberoEnv) -> dict[str, Predicates]:
    """Return the goals of the suite's other tasks that fit an environment, by instruction."""
    from libero.libero.envs.bddl_utils import robosuite_parse_problem
    found = {}
    for task in suites.tasks(env.suite):
        if task.instruction == env.instruction:
            continue
        goals = goals_in(env.sim.parsed_problem,
                         robosuite_parse_problem(str(suites.scene_file(task))))
        if goals is not None:
            found[task.instruction] = goals
    return found


def goals_in(scene: Problem, task: Problem) -> Predicates | None:
    """
    Return a task's goals with the names of a scene, or None if it can't be done there.

    It can be done if the fixtures and the things of its goal are where its own scene has them.
    Another thing of the same kind will do: the goals then name that one.
    """
    if (scene['fixtures'], scene['objects']) != (task['fixtures'], task['objects']):
        return None
    for names in _renamings(task['objects']):
        goals = _renamed(task['goal_state'], names)
        placed = {*sum(task['fixtures'].values(), []), *sum(task['goal_state'], [])}
        begins = _renamed([it for it in task['initial_state'] if it[1] in placed], names)
        places = {name for it in begins for name in it[2:]}
        if all(it in scene['initial_state'] for it in begins) and all(
                scene['regions'].get(name) == task['regions'].get(name) for name in places):
            return goals
    return None


def _renamings(objects: dict[str, list[str]]) -> Iterator[dict[str, str]]:
    """Yield all ways to exchange things of a kind; the first one exchanges none."""
    kinds = list(objects.values())
    for chosen in product(*map(permutations, kinds)):
        yield dict(zip(sum(kinds, []), sum(map(list, chosen), []), strict=True))


def _renamed(predicates: Predicates, names: dict[str, str]) -> Predicates:
    return [[names.get(word, word) for word in it] for it in predicates]
