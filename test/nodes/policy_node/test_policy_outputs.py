"""Other ways in and out of `policy_node`: controllers' topics, compressed and picky cameras."""
from geometry_msgs.msg import PoseStamped, TwistStamped
import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
import simplejpeg
from specvla_ros.msg import ActionDelta
from std_msgs.msg import Float32, String

from specvla_ros.nodes import qos

NODE = 'fake_policy_node.py'
OUTPUTS = {'delta_twist_cmds': TwistStamped, 'target_pose': PoseStamped,
           'gripper_command': Float32}


def test_controllers_get_velocities_targets_and_gripper_changes(robot, start, until):
    start(NODE, dict(publish_twist='true', publish_pose='true', publish_gripper='true'))
    probe = robot.probe
    for topic, kind in OUTPUTS.items():
        probe.hear(kind, topic, qos.STREAM)
    arm = probe.node.create_publisher(PoseStamped, 'current_pose', qos.STREAM)
    robot.connect(until)
    probe.wait_for_subscribers(arm)
    until(lambda: all(probe.node.count_publishers(topic) for topic in OUTPUTS), 'outputs')
    robot.say('pick up')
    robot.see(100, 1, 3)
    action, = robot.wait_for_actions(1)
    twist, = probe.wait_for('delta_twist_cmds', 1)
    assert twist.header == action.header
    assert twist.twist.linear.x == pytest.approx(0.01 / 0.05)
    assert (probe.wait_for('gripper_command', 1)[0].data, probe.heard['target_pose']) == (1, [])

    pose = PoseStamped()
    pose.header.frame_id = 'panda_link0'
    pose.pose.position.x, pose.pose.orientation.w = 0.4, 1.0

    def there_is_a_target():
        arm.publish(pose)
        robot.see(100, 1, 3)
        return probe.heard['target_pose']

    target = until(there_is_a_target, 'a target')[0]
    assert target.header.frame_id == 'panda_link0'
    assert target.pose.position.x == pytest.approx(0.41)
    assert target.pose.orientation.w == 1
    robot.see(100, 0, 3)
    assert [state.data for state in probe.wait_for('gripper_command', 2)] == [1, 0]


def test_compressed_images_come_under_the_camera_s_name(probe, start, until):
    start(NODE, dict(image_transport='compressed'))
    camera = probe.node.create_publisher(CompressedImage, 'image/compressed', qos.STREAM)
    boss = probe.node.create_publisher(String, 'instruction', qos.LATCHED)
    probe.hear(ActionDelta, 'action', qos.STREAM)
    probe.wait_for_subscribers(camera, boss)
    boss.publish(String(data='pick up'))
    data = simplejpeg.encode_jpeg(np.full((16, 16, 3), 200, np.uint8))
    stamps = iter(range(1, 1000))

    def acts():
        image = CompressedImage(format='jpeg', data=data)
        image.header.stamp = probe.node.get_clock().now().to_msg()
        image.header.frame_id = str(next(stamps))
        camera.publish(image)
        return probe.heard['action']

    assert until(acts, 'an action')[0].token_ids[0] == pytest.approx(200, abs=2)


def test_ends_that_cannot_meet_are_named_with_the_way_out(probe, start):
    probe.node.create_publisher(
        Image, 'image', QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    probe.hear(ActionDelta, 'action', QoSProfile(
        depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    node = start(NODE, dict(camera_reliability='reliable'))
    node.says('/image: a publisher offers less than is asked for and is not heard (reliability); '
              'set the parameter camera_reliability of this node to auto')
    node.says('action: a subscriber asks for more than is offered and gets nothing (durability); '
              'subscribe with durability volatile')
