"""Tasks that share a scene, against the simulators of these tasks."""

import numpy as np
import pytest

from specvla_ros.libero.environment import LiberoEnv
from specvla_ros.libero.experts.task_expert import TaskExpert
from specvla_ros.libero.scenes import other_goals


@pytest.fixture(scope='module')
def bowl():
    env = LiberoEnv('libero_goal', 8, render=False)
    yield env
    env.close()


def test_the_goal_suite_has_one_scene_and_the_object_suite_ten(bowl):
    assert bowl.instruction == 'put the bowl on the plate'
    goals = other_goals(bowl)
    assert len(goals) == 9 and bowl.instruction not in goals
    assert goals['turn on the stove'] == [['turnon', 'flat_stove_1']]
    milk = LiberoEnv('libero_object', 2, render=False)
    assert other_goals(milk) == {}
    milk.close()


def test_an_expert_of_another_goal_does_what_that_tasks_own_would(bowl):
    goals = other_goals(bowl)
    for task in (4, 7):
        own = LiberoEnv('libero_goal', task, render=False)
        own.reset_random(11), bowl.reset_random(11)
        wanted, found = TaskExpert(own), TaskExpert(bowl, goals[own.instruction])
        for _ in range(15):
            action = wanted.act()
            np.testing.assert_allclose(found.act(), action, atol=1e-6)
            np.testing.assert_allclose(found.state(), wanted.state(), atol=1e-6)
            own.step(action), bowl.step(action)
        assert not np.allclose(TaskExpert(bowl).act(), action, atol=1e-3)
        own.close()
