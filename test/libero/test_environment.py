import numpy as np
import pytest

from specvla_ros.errors import SpecVLAError
from specvla_ros.libero.environment import LiberoEnv
from specvla_ros.libero.experts.task_expert import TaskExpert

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


@pytest.mark.parametrize('place, turn', [
    (None, 0.0), ([0.3, -0.2, 0.5], 0.0), ([0.3, -0.2, 0.5], np.pi / 2)])
def test_the_pose_of_the_end_effector_is_in_the_frame_of_the_base(env, place, turn):
    """Moving and turning the base with the arm on it changes nothing in its own frame."""
    import mujoco
    before = env.reset(0)
    model, data = env.sim.sim.model._model, env.sim.sim.data._data
    base = model.body('robot0_base')
    kept = base.pos.copy(), base.quat.copy()
    # In libero_object the base stands on the floor, 0.6 m behind the middle of the scene.
    np.testing.assert_allclose(
        before.eef_position, env.raw['robot0_eef_pos'] + [0.6, 0, 0], atol=1e-9)
    try:
        if place is not None:
            base.pos, base.quat = place, [np.cos(turn / 2), 0, 0, np.sin(turn / 2)]
        mujoco.mj_forward(model, data)
        env._observation = env.sim._get_observations(force_update=True)
        after = env._observe(False, render=False)
    finally:
        base.pos, base.quat = kept
        mujoco.mj_forward(model, data)
    np.testing.assert_allclose(after.eef_position, before.eef_position, atol=1e-4)
    assert abs(after.eef_quaternion @ before.eef_quaternion) == pytest.approx(1, abs=1e-4)


def test_the_image_lies_in_an_optical_frame(env):
    """x to the right, y down, z forward (REP 103): a point there is seen where K projects it."""
    env.reset(0)
    model, data = env.sim.sim.model._model, env.sim.sim.data._data
    camera = data.cam('agentview')
    # MuJoCo's camera looks along -z with y up
    optical = camera.xmat.reshape(3, 3) @ np.diag([1.0, -1.0, -1.0])
    focal = 64 / np.tan(np.radians(model.cam('agentview').fovy[0]) / 2)
    for seen, point in (('basket_1_main', 'basket_1'), ('milk_1_main', 'milk_1')):
        x, y, z = optical.T @ (env.raw[f'{point}_pos'] - camera.xpos)
        with_it = env.frame().astype(int)
        geoms = [g for g in range(model.ngeom)
                 if model.geom_bodyid[g] == model.body(seen).id and model.geom_group[g] == 1]
        kept = model.geom_rgba[geoms].copy()
        model.geom_rgba[geoms, 3] = 0
        changed = np.abs(env.frame() - with_it).sum(-1) > 30
        model.geom_rgba[geoms] = kept
        row, column = np.argwhere(changed).mean(0)
        assert z > 0
        assert column == pytest.approx(64 + focal * x / z, abs=6)
        assert row == pytest.approx(64 + focal * y / z, abs=10)


def test_an_action_is_metres_and_a_rotation_vector_along_the_axes_of_the_base(env):
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


def test_a_random_placement_is_the_same_without_its_frame(env):
    shown, places = env.reset_random(11), env.raw['basket_1_pos'].copy()
    hidden = env.reset_random(11, render=False)
    assert shown.image is not None and hidden.image is None
    np.testing.assert_array_equal(hidden.joint_positions, shown.joint_positions)
    np.testing.assert_array_equal(env.raw['basket_1_pos'], places)


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
    expert = TaskExpert(env)
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


@pytest.mark.parametrize('seed', [-1, 2**32])
def test_a_seed_that_would_mean_another_placement_s_is_refused(env, seed):
    with pytest.raises(ValueError, match=f'random placement is {seed}, must be from 0 to 42949'):
        env.reset_random(seed)


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


def test_a_placement_that_flings_an_object_away_is_drawn_anew(env, monkeypatch):
    env.reset_random(5)
    usual = env.raw['basket_1_pos'].copy()
    assert not env._flung()
    body = env.sim.obj_body_id['milk_1']
    first = env.sim.sim.model._model.body_dofadr[body]
    env.sim.sim.data._data.qvel[first] = -2.5  # m/s, as objects that overlapped
    assert env._flung()
    flung = iter([True, False])
    monkeypatch.setattr(env, '_flung', lambda: next(flung))
    env.reset_random(5)
    assert not np.array_equal(env.raw['basket_1_pos'], usual)
    monkeypatch.setattr(env, '_flung', lambda: True)
    with pytest.raises(SpecVLAError, match='task 0 seed 5: objects overlap in 10 placements'):
        env.reset_random(5)
    monkeypatch.undo()
    env.reset_random(5)
    np.testing.assert_array_equal(env.raw['basket_1_pos'], usual)
