"""Tasks that can be done in the scene of another one, against the simulators of these tasks."""

import copy

import numpy as np
import pytest

from specvla_ros.libero.environment import LiberoEnv
from specvla_ros.libero.experts.task_expert import TaskExpert
from specvla_ros.libero.scenes import goals_in, other_goals


@pytest.fixture(scope='module')
def bowl():
    env = LiberoEnv('libero_goal', 8, render=False)
    yield env
    env.close()


@pytest.fixture(scope='module')
def spatial():
    """Between plate and ramekin, with another bowl next to the ramekin."""
    env = LiberoEnv('libero_spatial', 0, render=False)
    yield env
    env.close()


def test_all_tasks_of_the_goal_suite_have_one_scene(bowl):
    assert bowl.instruction == 'put the bowl on the plate'
    goals = other_goals(bowl)
    assert len(goals) == 9 and bowl.instruction not in goals
    assert goals['turn on the stove'] == [['turnon', 'flat_stove_1']]


def test_an_instruction_that_fits_the_other_bowl_is_about_the_other_bowl(spatial):
    [(said, goals)] = other_goals(spatial).items()
    assert said == 'pick up the black bowl next to the ramekin and place it on the plate'
    assert goals == [['on', 'akita_black_bowl_2', 'plate_1']]


def test_tasks_of_other_scenes_are_none_of_this_one(bowl, spatial):
    task = copy.deepcopy(bowl.sim.parsed_problem)
    assert goals_in(bowl.sim.parsed_problem, task) == task['goal_state']
    assert goals_in(spatial.sim.parsed_problem, task) is None
    elsewhere = copy.deepcopy(task)
    elsewhere['regions']['main_table_plate_region']['ranges'] = [[0.2, 0.2, 0.3, 0.3]]
    assert goals_in(bowl.sim.parsed_problem, elsewhere) is None
    # The cream cheese has nothing to do with it.
    other = copy.deepcopy(task)
    [cheese] = [it for it in other['initial_state'] if it[1] == 'cream_cheese_1']
    cheese[2] = 'main_table_wine_bottle_region'
    assert goals_in(bowl.sim.parsed_problem, other) == task['goal_state']
    moved = copy.deepcopy(task)
    [rack] = [it for it in moved['initial_state'] if it[1] == 'wine_rack_1']
    rack[2] = 'main_table_wine_bottle_region'
    assert goals_in(bowl.sim.parsed_problem, moved) is None


@pytest.mark.parametrize('task', [4, 7])
def test_an_expert_of_another_goal_does_what_that_tasks_own_would(bowl, task):
    own = LiberoEnv('libero_goal', task, render=False)
    own.reset_random(11), bowl.reset_random(11)
    wanted = TaskExpert(own)
    found = TaskExpert(bowl, other_goals(bowl)[own.instruction])
    for _ in range(15):
        action = wanted.act()
        np.testing.assert_allclose(found.act(), action, atol=1e-6)
        np.testing.assert_allclose(found.state(), wanted.state(), atol=1e-6)
        own.step(action), bowl.step(action)
    assert not np.allclose(TaskExpert(bowl).act(), action, atol=1e-3)
    own.close()


def test_the_other_bowl_is_taken_to_the_plate(spatial):
    spatial.reset_random(3)
    [goals] = other_goals(spatial).values()
    expert = TaskExpert(spatial, goals)
    for _ in range(160):
        spatial.step(expert.act())
        if spatial.sim._eval_predicate(goals[0]):
            return
    pytest.fail(f'the other bowl is not on the plate: {expert.state()}')
