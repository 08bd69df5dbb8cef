"""A moving world: a belt under one object, in a small scene of MuJoCo's and in LIBERO."""
import math

import numpy as np
import pytest

from specvla_ros.errors import SpecVLAError
from specvla_ros.libero.drift import Belt, Drift, name_of, REACH
from specvla_ros.libero.environment import LiberoEnv, PERIOD
from specvla_ros.libero.experts.task_expert import TaskExpert

STILL = np.array([0, 0, 0, 0, 0, 0, 1.0])
HERE = np.zeros(3), np.eye(3)
ANYWHERE = np.full(2, -9.0), np.full(2, 9.0)
SCENE = """
<mujoco>
  <option timestep="0.002" cone="elliptic" impratio="20"/>
  <worldbody>
    <geom name="floor" type="plane" size="3 3 .1"/>
    <geom name="wall" type="box" size=".02 1 .2" pos=".5 0 .2"/>
    <body name="tray" pos="0 0 .011"><freejoint/>
      <geom type="box" size=".06 .06 .01" mass=".1"/>
    </body>
    <body name="load" pos="0 0 .042"><freejoint/>
      <geom type="box" size=".02 .02 .02" mass=".02"/>
    </body>
    <body name="other" pos="0 .12 .021"><freejoint/>
      <geom type="box" size=".02 .02 .02" mass=".02"/>
    </body>
    <body name="lamp" pos="1 1 .1"><geom type="box" size=".1 .1 .1"/></body>
  </worldbody>
</mujoco>"""


class Scene:
    """A tray with a load on it, another thing 4 cm beside it, and a wall 42 cm ahead."""

    def __init__(self, body='tray', base=HERE):
        import mujoco
        self.model = mujoco.MjModel.from_xml_string(SCENE)
        self.data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)
        self.belt = Belt(self.model, self.data, self.model.body(body).id, body, base)

    def run(self, seconds, velocity=None, box=ANYWHERE):
        if velocity is not None:
            self.belt.start(np.array(velocity, float), *box)
        for _ in range(round(seconds / 0.002)):
            self.belt.step()
        return self

    def place(self, body):
        return self.data.body(body).xpos.copy()


@pytest.mark.parametrize('speed', [0.005, 0.04, 0.1])
def test_an_object_goes_as_fast_as_the_belt_and_takes_along_what_lies_on_it(speed):
    scene = Scene().run(0.2)
    tray, load, other = (scene.place(name) for name in ('tray', 'load', 'other'))
    scene.run(2.0, (speed, 0))
    assert scene.place('tray') - tray == pytest.approx([2 * speed, 0, 0], abs=0.001)
    assert scene.place('load') - load == pytest.approx([2 * speed, 0, 0], abs=0.001)
    assert scene.place('other') == pytest.approx(other, abs=1e-5)
    assert scene.data.body('tray').cvel[3] == pytest.approx(speed, rel=0.01)


def test_it_is_stopped_by_a_wall_and_pushes_what_can_be_pushed():
    scene = Scene().run(6.0, (0.1, 0))
    assert 0.415 < scene.place('tray')[0] < 0.4205  # 60 cm on an empty floor
    scene = Scene().run(2.0, (0, 0.1))
    assert 0.12 < scene.place('tray')[1] < 0.2  # what it pushes slows it down
    assert scene.place('other')[1] > scene.place('tray')[1] + 0.078  # 80 mm: they touch


def test_it_turns_back_at_the_end_of_its_box_and_comes_back_into_it():
    scene = Scene()
    box = np.array([-0.01, -0.02]), np.array([0.02, 0.01])
    scene.run(0, (0.03, -0.04), box)
    places = np.array([scene.run(0.05).place('tray')[:2] for _ in range(80)])
    assert places.min(0) == pytest.approx(box[0], abs=0.003)
    assert places.max(0) == pytest.approx(box[1], abs=0.003)
    speeds = np.abs(np.diff(places, axis=0)) / 0.05
    assert np.median(speeds, 0) == pytest.approx([0.03, 0.04], rel=0.01)
    scene.data.joint(scene.model.body('tray').jntadr[0]).qpos[0] = 0.2  # somebody took it away
    assert scene.run(4.0).place('tray')[0] < 0.15


def test_what_is_lifted_is_carried_no_longer():
    scene = Scene().run(0.2, (0.1, 0))
    assert scene.belt.carries
    joint = scene.data.joint(scene.model.body('tray').jntadr[0])
    joint.qpos[2], joint.qvel[:] = 0.5, 0
    assert not scene.run(0.002).belt.carries
    before = scene.place('tray')
    assert scene.run(0.1).place('tray')[:2] == pytest.approx(before[:2], abs=1e-6)


def test_a_load_on_something_that_moves_is_not_carried():
    assert not Scene('load').run(0.2).belt.carries


def test_velocities_and_boxes_are_in_the_frame_of_the_base():
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # its x is the world's y
    scene = Scene(base=(np.array([0.5, 0, 0]), turn)).run(0.2)
    start = scene.belt.place
    assert start == pytest.approx([0, 0.5], abs=1e-4)
    scene.run(0.5, (-0.04, 0))
    assert scene.belt.place - start == pytest.approx([-0.02, 0], abs=0.001)
    assert scene.place('tray')[1] == pytest.approx(-0.02, abs=0.001)


def test_a_belt_that_stands_changes_nothing():
    moved, plain = Scene().run(0.4, (0, 0)), Scene().run(0.4)
    np.testing.assert_array_equal(moved.data.qpos, plain.data.qpos)
    np.testing.assert_array_equal(moved.data.qvel, plain.data.qvel)


def test_what_is_fixed_can_not_drift():
    with pytest.raises(SpecVLAError, match='lamp is fixed and can not drift: choose another task'):
        Scene('lamp')


def test_each_task_and_state_has_its_own_direction_which_comes_back():
    state = np.random.get_state()[1].tolist()
    drift = Drift(0.04)
    velocities = [drift.velocity(task, start) for task in range(5) for start in range(20)]
    assert [math.hypot(*v) for v in velocities] == pytest.approx([0.04] * 100)
    assert len({tuple(v) for v in velocities}) == 100
    assert np.abs(np.mean(velocities, 0)).max() < 0.01  # all directions
    np.testing.assert_array_equal(drift.velocity(3, 7), Drift(0.04).velocity(3, 7))
    np.testing.assert_allclose(Drift(0.02, 'target').velocity(3, 7), drift.velocity(3, 7) / 2)
    assert (Drift(0.04, seed=1).velocity(3, 7) != drift.velocity(3, 7)).all()
    assert np.random.get_state()[1].tolist() == state  # LIBERO places objects by it


@pytest.mark.parametrize('start', [(0.6, 0.25), (0.36, 0.0), (0.9, -0.5)])
def test_the_box_is_within_reach_and_holds_where_it_began(start):
    low, high = Drift(0.01, span_m=0.05).box(np.array(start))
    assert (low <= start).all() and (high >= start).all() and (high - low <= 0.1 + 1e-9).all()
    low, high = Drift(0.01).box(np.array((0.6, 0.0)))
    np.testing.assert_array_equal([low, high], REACH)


@pytest.mark.parametrize('values, message', [
    ((-0.01,), 'a drift of -1 cm/s: give 0 to 20 cm/s'), ((0.3,), 'a drift of 30 cm/s'),
    ((math.nan,), 'a drift of nan cm/s'), ((0.01, 'robot'), "the 'robot', must be .* target"),
    ((0.01, 'basket', 0.0), 'after 0 cm: give more'), ((0.01, 'basket', math.nan), 'after nan cm'),
    ((0.01, 'basket', 1.0, -1), 'the seed -1')])
def test_a_drift_that_can_not_be_is_refused(values, message):
    with pytest.raises(SpecVLAError, match=message):
        Drift(*values)


def test_what_drifts_is_named_by_the_goal():
    goals = [['in', 'milk_1', 'basket_1_contain_region']]
    assert name_of('target', goals) == 'milk_1'
    assert name_of('basket', goals) == 'basket_1_contain_region'
    for other in ([], [['turnon', 'stove_1']], goals * 2):
        with pytest.raises(SpecVLAError, match='has no one basket: a drift needs a task'):
            name_of('basket', other)


def places(env):
    return {name: env.sim.sim.data._data.xpos[body].copy()
            for name, body in env.sim.obj_body_id.items()}


@pytest.fixture(scope='module')
def still():
    """Return joint positions and places in a world that stands: as it is reset, 5 steps on."""
    env = LiberoEnv('libero_object', 0, render=False)
    qpos = env.sim.sim.data._data.qpos
    env.reset(3)
    before = qpos.copy(), places(env)
    for _ in range(5):
        env.step(STILL)
    after = qpos.copy(), places(env)
    env.close()
    return before, after


def test_in_libero_the_basket_drifts_once_things_have_settled(still):
    (before, first), _ = still
    drift = Drift(0.04, 'basket')
    env = LiberoEnv('libero_object', 0, render=False, drift=drift)
    try:
        for _ in range(2):  # again from the start: nothing is left of the episode before
            env.reset(3)
            np.testing.assert_array_equal(env.sim.sim.data._data.qpos, before)
            for _ in range(20):
                env.step(STILL)
        moved = {name: place - first[name] for name, place in places(env).items()}
        assert moved.pop('basket_1') == pytest.approx(
            [*20 * PERIOD * drift.velocity(0, 3), 0], abs=0.001)
        assert max(np.abs(shift).max() for shift in moved.values()) < 1e-3
    finally:
        env.close()


def test_at_0_m_per_s_a_world_is_the_one_that_stands(still):
    env = LiberoEnv('libero_object', 0, render=False, drift=Drift(0.0))
    try:
        assert 'step' not in vars(env.sim.sim)
        env.reset(3)
        for _ in range(5):
            env.step(STILL)
        np.testing.assert_array_equal(env.sim.sim.data._data.qpos, still[1][0])
    finally:
        env.close()


def test_the_expert_takes_a_target_that_drifts():
    env = LiberoEnv('libero_object', 0, render=False, drift=Drift(0.04, 'target'))
    try:
        env.reset(7)
        expert, start = TaskExpert(env), env._belt.place
        carried = []
        for _ in range(150):
            observation = env.step(expert.act())
            carried.append(env._belt.carries)
            if observation.success:
                break
        assert observation.success and carried[0] and not carried[-1]
        assert np.linalg.norm(env._belt.place - start) > 0.3  # it is in the basket
    finally:
        env.close()


def test_what_stands_on_another_object_can_not_drift():
    env = LiberoEnv('libero_spatial', 3, render=False, drift=Drift(0.01, 'target'))
    try:
        with pytest.raises(SpecVLAError, match='akita_black_bowl_1 of libero_spatial task 3 can '
                                               'not drift: it stands on another object'):
            env.reset(0)
    finally:
        env.close()
