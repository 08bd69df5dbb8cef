"""The expert in the simulator: a bowl in a drawer, from placements that are drawn anew."""

import numpy as np
import pytest

from specvla_ros.libero.environment import LiberoEnv
from specvla_ros.libero.experts.plan import Act, Stage
from specvla_ros.libero.experts.task_expert import TaskExpert
from specvla_ros.libero.lying import Lying

BOWL = 'akita_black_bowl_1_pos'


@pytest.fixture(scope='module')
def drawer():
    env = LiberoEnv('libero_spatial', 4, render=False)
    yield env
    env.close()


def test_a_bowl_is_placed_in_its_drawer_at_the_second_reset_too(drawer):
    for seed in (0, 1):
        drawer.reset_random(seed)
        assert 1.05 < drawer.raw[BOWL][2] < 1.08  # m: the drawer's floor, not a fall from above
        assert abs(drawer.raw[BOWL][0] - 0.085) < 0.03


def test_the_expert_takes_a_bowl_out_of_a_drawer(drawer):
    drawer.reset(25)
    expert = TaskExpert(drawer)
    assert expert.state().shape == (10,)
    assert any(drawer.step(expert.act(), render=False).success for _ in range(150))


def test_a_drawer_that_was_bumped_into_is_still_wide_enough():
    """LIBERO calls it open to 2 cm off its end; the bowl that the hand brings goes in further."""
    env = LiberoEnv('libero_10', 3, render=False)
    env.reset_random(0)
    expert, placed, joints = TaskExpert(env), env.positions, env.fixture_joints
    pulled = joints.argmin()  # the bottom drawer; they open to -0.16 m
    for place, wide in ((-0.15, True), (-0.135, True), (-0.1, False)):
        joints[pulled] = place
        env.put_back(placed, joints, [])
        assert env.sim._eval_predicate(['open', expert.steps[-1].thing]) == (place < -0.14)
        assert (expert.step.act is Act.PUT) == wide
        assert not expert.settled  # the bowl is still to be put
    env.close()


def test_a_bowl_that_was_put_out_of_a_drawers_way_lies_so_in_other_placements_too():
    """Anew it would lie under the drawer, which is open in the frames of the later steps."""
    env = LiberoEnv('libero_goal', 3, render=False)
    env.reset_random(0)
    expert, bowl = TaskExpert(env), 'akita_black_bowl_1'
    assert expert.step.act is Act.CLEAR and not expert.settled
    way = expert._skills[0].target - expert._skills[0].subject
    before = Lying.on(env.sim, bowl, '')
    Lying(bowl, 0, before.place + way, before.turn).lay(env.sim)
    assert expert.step.act is Act.OPEN
    aside = expert.settled
    assert [it.thing for it in aside] == [bowl]
    env.reset_random(1)
    again = TaskExpert(env)
    assert again.step.act is Act.CLEAR
    opened = env.fixture_joints - 0.15
    env.put_back(env.positions, opened, aside)
    assert again.step.act is Act.PUT
    place = Lying.on(env.sim, bowl, '').place
    assert np.linalg.norm(place - before.place - way) < 0.05  # as far as the cabinet was moved
    env.close()


def test_a_hand_at_the_second_thing_goes_on_with_it():
    """From there it often can't be seen whether the first lies well enough."""
    env = LiberoEnv('libero_10', 4, render=False)
    env.reset_random(0)
    expert = TaskExpert(env)
    assert expert.active == 0  # the hand is at neither
    second = expert.steps[1].thing
    for below, active in ((0.05, 1), (0.12, 0)):
        way = env.raw['robot0_eef_pos'] - expert._skills[1].grip - (0, 0, below)
        lying = Lying.on(env.sim, second, '')
        Lying(second, 0, lying.place + way, lying.turn).lay(env.sim)
        assert expert.active == active
        assert not expert.settled  # the first is still to be put
    env.close()


@pytest.mark.parametrize(('goals', 'free'), [
    ([['on', 'white', 'left'], ['on', 'yellow', 'right']], [True, True]),
    ([['on', 'bowl', 'plate'], ['on', 'plate', 'stove']], [False, False]),
])
def test_what_another_thing_is_put_on_keeps_its_turn(goals, free):
    expert = TaskExpert.__new__(TaskExpert)
    expert.steps = tuple(Stage(Act.PUT, tuple(goal), *goal[1:]) for goal in goals)
    assert [expert._in_any_order(index) for index in (0, 1)] == free
