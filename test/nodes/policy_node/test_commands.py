"""A control step as velocity, target and gripper state."""
from geometry_msgs.msg import Pose
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from specvla_ros.nodes.policy_node.commands import GripperSwitch, target_pose_of, twist_of

turns = st.lists(st.floats(-3, 3), min_size=3, max_size=3).map(np.array)


def step(place=(0.0, 0.0, 0.0), turn=(0.0, 0.0, 0.0)):
    return np.array([*place, *turn, 1.0])


def test_a_twist_is_the_step_over_the_control_period():
    twist = twist_of(step((0.05, 0, -0.01), (0, 0.5, 0)), period=0.05)
    assert (twist.linear.x, twist.linear.z) == pytest.approx((1.0, -0.2))
    assert twist.angular.y == pytest.approx(10.0)


@given(turns, turns)
def test_a_target_is_the_pose_moved_and_turned_about_the_base_s_axes(turn, start):
    pose = Pose()
    pose.position.y = 2.0
    q = pose.orientation
    q.x, q.y, q.z, q.w = Rotation.from_rotvec(start).as_quat().tolist()
    target = target_pose_of(pose, step((0.1, 0.2, 0.3), turn))
    assert (target.position.x, target.position.y, target.position.z) == pytest.approx(
        (0.1, 2.2, 0.3))
    got = target.orientation
    expected = Rotation.from_rotvec(turn) * Rotation.from_rotvec(start)
    apart = Rotation.from_quat([got.x, got.y, got.z, got.w]) * expected.inv()
    assert apart.magnitude() == pytest.approx(0, abs=1e-6)


def test_no_turn_leaves_the_orientation_to_the_bit():
    pose = Pose()
    pose.orientation.w, pose.orientation.x = 0.8, 0.6
    assert target_pose_of(pose, step()).orientation == pose.orientation


def test_the_gripper_changes_only_beyond_the_band():
    switch = GripperSwitch(hysteresis=0.2)
    values = [0.55, 0.45, 0.41, 0.39, 0.0, 0.59, 0.6, 0.61, 1.0, 0.5]
    assert [switch.put(value) for value in values] == [
        1, None, None, 0, None, None, None, 1, None, None]


def test_the_first_gripper_value_is_always_said():
    assert GripperSwitch(0.2).put(0.45) == 0
    assert GripperSwitch(0.2).put(0.5) == 1
