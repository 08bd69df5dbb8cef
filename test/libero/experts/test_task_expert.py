"""The expert in the simulator: a bowl in a drawer, from placements that are drawn anew."""

import pytest

from specvla_ros.libero.environment import LiberoEnv
from specvla_ros.libero.experts.task_expert import TaskExpert

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
