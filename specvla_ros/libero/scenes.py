"""Tasks that are set in one scene: the same things at the same places, but another goal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specvla_ros.libero import suites

if TYPE_CHECKING:
    from specvla_ros.libero.environment import LiberoEnv

_TASKS_OWN = ('goal_state', 'language_instruction', 'obj_of_interest')  # all else is the scene's


def other_goals(env: LiberoEnv) -> dict[str, list[list[str]]]:
    """
    Return the goals of the suite's other tasks in the scene of an environment, by instruction.

    In `libero_goal` all ten tasks share a scene, in `libero_90` four or five; in the other suites
    hardly any do.
    """
    from libero.libero.envs.bddl_utils import robosuite_parse_problem
    scene, goals = _scene(env.sim.parsed_problem), {}
    for task in suites.tasks(env.suite):
        problem = robosuite_parse_problem(str(suites.scene_file(task)))
        if task.instruction != env.instruction and _scene(problem) == scene:
            goals[task.instruction] = problem['goal_state']
    return goals


def _scene(problem: dict) -> dict:
    return {name: value for name, value in problem.items() if name not in _TASKS_OWN}
