import numpy as np
import pytest

from specvla_ros.libero.environment import LiberoEnv
from specvla_ros.libero.expert import PickAndPlace

STILL = np.array([0, 0, 0, 0, 0, 0, 1.0])


@pytest.fixture(scope='module')
def env():
    env = LiberoEnv('libero_object', 0, resolution=128)
    yield env
    env.close()


def play(env, state, actions):
    env.reset(state)
    return [env.step(action, render=False) for action in actions]


def test_frames_are_upright_rgb_and_react_to_motion(env):
    first = env.reset(0).image
    assert first.shape == (128, 128, 3) and first.dtype == np.uint8
    # The robot's white arm hangs in from the top; the wooden floor below is warmer than grey.
    top, bottom = first[10:40, 55:75].mean((0, 1)), first[100:, :].mean((0, 1))
    assert bottom[0] > bottom[2] + 3  # red over blue: RGB, not BGR
    assert first[10:40, 55:75].std() > first[100:, :].std() and top.mean() > 60
    for _ in range(10):
        moved = env.step(np.array([0, 0.05, 0, 0, 0, 0, 1.0])).image
    assert np.abs(moved[:60].astype(int) - first[:60]).mean() > 3 * np.abs(
        moved[100:].astype(int) - first[100:]).mean()


def test_the_same_state_and_actions_give_the_same_episode_again(env):
    actions = [np.array([0.02, -0.03, -0.04, 0, 0, 0.1, i % 2]) for i in range(12)]
    first = env.reset(3).image
    once = play(env, 3, actions)
    play(env, 4, [np.array([0, 0, 0, 0, 0, 0, 0.0])] * 12)  # ends with its fingers closed
    np.testing.assert_array_equal(env.reset(3).image, first)
    env.reset_random(5)
    again = play(env, 3, actions)
    for a, b in zip(once, again):
        np.testing.assert_array_equal(a.joint_positions, b.joint_positions)
        np.testing.assert_array_equal(a.eef_position, b.eef_position)


def test_an_action_is_metres_and_a_rotation_vector_in_the_world_frame(env):
    start = env.reset(0)
    for _ in range(15):
        end = env.step(np.array([0, 0.05, 0, 0, 0, 0, 1.0]), render=False)
    shift = end.eef_position - start.eef_position
    assert shift[1] > 0.1 and abs(shift[0]) < 0.03 and abs(shift[2]) < 0.03
    start = env.reset(0)
    for _ in range(10):
        end = env.step(np.array([0, 0, 0, 0, 0, 0.1, 1.0]), render=False)
    a, b = start.eef_quaternion, end.eef_quaternion
    turned = 2 * np.arccos(min(1, abs(a @ b)))
    assert 0.15 < turned < 1.2


def test_gripper_one_opens_and_zero_closes(env):
    env.reset(0)
    for _ in range(10):
        closed = env.step(np.array([0, 0, 0, 0, 0, 0, 0.0]), render=False).gripper_width
    for _ in range(10):
        opened = env.step(STILL, render=False).gripper_width
    assert closed < 0.01 and opened > 0.07


def test_random_placements_differ_by_seed_and_repeat_with_it(env):
    def start(seed):
        joints = env.reset_random(seed).joint_positions
        return np.concatenate([env.raw['basket_1_pos'], joints])
    first = start(11)
    assert np.abs(first - start(12)).max() > 1e-3
    np.testing.assert_allclose(first, start(11), atol=1e-6)


def test_random_starts_are_spread_like_the_stored_ones(env):
    def spread(reset):
        rows = []
        for index in range(12):
            joints = reset(index).joint_positions
            rows.append(np.concatenate([joints, env.raw['basket_1_pos'][:2]]))
        return np.std(rows, 0)
    stored, random = spread(env.reset), spread(env.reset_random)
    assert (random > stored / 3).all() and (random < stored * 3).all()


def solve(env, state):
    env.reset(state)
    expert = PickAndPlace(env)
    for _ in range(150):
        observation = env.step(expert.act(), render=False)
        if observation.success:
            break
    assert observation.success
    assert expert.state().shape == (10,)


def test_the_expert_solves_a_stored_state_without_seeing_a_clock(env):
    solve(env, 7)


def test_the_expert_takes_a_bowl_by_its_rim_and_puts_it_on_a_plate():
    env = LiberoEnv('libero_spatial', 3, render=False)
    try:
        solve(env, 7)
    finally:
        env.close()


@pytest.mark.parametrize('action', [np.zeros(6), np.array([0, 0, np.nan, 0, 0, 0, 1])])
def test_a_malformed_action_is_refused(env, action):
    with pytest.raises(ValueError, match='7 finite numbers'):
        env.step(action)


def test_a_missing_initial_state_is_refused(env):
    with pytest.raises(ValueError, match='no initial state 50; there are 0 to 49'):
        env.reset(50)


def test_a_second_rendered_environment_in_one_process_is_refused(env):
    with pytest.raises(RuntimeError, match='close the other one first'):
        LiberoEnv('libero_object', 6, resolution=128)
    LiberoEnv('libero_object', 6, render=False).close()
