"""A microwave's door, shut by a push, is opened again."""

import numpy as np
import pytest

from specvla_ros.libero.environment import LiberoEnv
from specvla_ros.libero.experts.doors import CloseDoor, OpenDoor
from specvla_ros.libero.experts.motion import rotation_vector
from specvla_ros.libero.experts.task_expert import TaskExpert

HINGE, UP = np.array([-0.18, 0.26, 1.0]), np.array([0.0, 0.0, 1.0])


class Scene:
    """A door of 26 cm with a handle in front of its free end."""

    width, hand = 0.08, np.diag([1.0, -1.0, -1.0])

    def __init__(self, angle, eef=(0, 0, 1.2)):
        self.angle, self.eef = angle, np.array(eef, float)
        self.axes = np.array([[np.cos(angle), -np.sin(angle), 0],
                              [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])

    def joint(self, name):
        return self.angle, UP, HINGE

    def moving_boxes(self, name):
        boxes = [([0.13, 0, 0], [0.13, 0.012, 0.09]), ([0.24, -0.055, 0], [0.01, 0.01, 0.075])]
        return [(HINGE + self.axes @ np.array(centre), np.array(half), self.axes)
                for centre, half in boxes]


@pytest.mark.parametrize('angle', [0.0, -0.1, -0.3, -0.49])
def test_a_door_that_is_nearly_shut_is_taken_by_its_handle(angle):
    door = OpenDoor(Scene(angle), 'microwave_1')
    np.testing.assert_allclose(
        door.handle - HINGE, Scene(angle).axes @ [0.24, -0.055, 0] + 0.055 * UP, atol=1e-9)
    # The fingers open along the door; the hand turns with it, and never the other way round.
    np.testing.assert_allclose(rotation_vector(door.turn), [0, 0, np.pi / 2 + angle], atol=1e-6)
    along = (door.turn @ [0, 1, 0]) @ Scene(angle).axes[:, 0]
    assert abs(along) == pytest.approx(1)


@pytest.mark.parametrize('skill, side', [(OpenDoor, -1), (CloseDoor, 1)])
def test_a_door_that_is_ajar_is_pushed_from_its_inside_to_open_it_and_else_from_outside(
        skill, side):
    scene = Scene(-1.0)
    shutting = scene.axes[:, 1]  # LIBERO's doors shut towards positive angles
    scene.eef = HINGE + 0.19 * scene.axes[:, 0] - side * 0.05 * shutting + 0.07 * UP
    door = skill(scene, 'microwave_1')
    np.testing.assert_array_equal(door.grip, HINGE + scene.axes @ [0.13, 0, 0])
    motion = door.act(scene.hand)
    assert motion.error @ shutting * side == pytest.approx(0.04)


def test_the_expert_opens_the_microwave_that_a_push_has_shut():
    env = LiberoEnv('libero_10', 9, render=False)
    try:
        env.reset_random(1_000_000)
        expert, sim = TaskExpert(env), env.sim.sim
        door = sim.model._model.joint(env.sim.get_object('microwave_1').joints[0])
        sim.data._data.qpos[door.qposadr[0]] = 0.0
        sim.forward()
        steps = 0
        while not expert._scene.satisfied(['open', 'microwave_1']) and steps < 200:
            assert isinstance(expert._skills[expert.active], OpenDoor)
            env.step(expert.act(), render=False)
            steps += 1
        assert steps < 200
    finally:
        env.close()
