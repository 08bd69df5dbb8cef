"""Whom `policy_node` hears and beside whom it doesn't act, with real processes."""
import os
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Pose
import pytest
import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from specvla_ros.msg import ActionDelta
from std_msgs.msg import Bool, Empty, Float32, Int8, String
from std_srvs.srv import Trigger

from specvla_ros.nodes import qos

NODE = 'fake_policy_node.py'
OFFERS = [QoSProfile(depth=1, reliability=reliability, durability=durability)
          for reliability in (ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE)
          for durability in (DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL)]


@pytest.fixture
def other_node(probe):
    """Give a node of another process, as far as DDS knows: one has one type on a topic."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=int(os.environ['ROS_DOMAIN_ID']))
    node = rclpy.create_node('other', context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def acts(robot, until):
    """Give a function that waits until it acts (again)."""
    def acts():
        count = len(robot.actions)
        until(lambda: robot.see(1, 2, 3) and len(robot.actions) > count, 'it acts')
    return acts


@pytest.fixture
def rests(robot, until):
    """Give a function that waits until no image is acted on any more."""
    def rests():
        def is_at_rest():
            robot.watch(1, 2, 3, seconds=0.3)
            count = len(robot.actions)
            robot.watch(1, 2, 3, seconds=0.5)
            return len(robot.actions) == count
        until(is_at_rest, 'it rests')
    return rests


@pytest.fixture
def state(probe, until):
    """Give a function that waits for a state in the diagnostics."""
    probe.hear(DiagnosticArray, '/diagnostics', qos.STREAM)

    def state(level, text):
        since = len(probe.heard['/diagnostics'])
        until(lambda: any(
            message.status[0].level == level and text in message.status[0].message
            for message in probe.heard['/diagnostics'][since:]), f'{text!r} in the diagnostics')
    return state


def test_an_emergency_stop_is_heard_from_every_publisher(robot, probe, start, until, acts, rests):
    node = start(NODE)
    robot.connect(until)
    robot.say('pick up')
    for number, offer in enumerate(OFFERS, start=1):
        acts()
        button = probe.node.create_publisher(Bool, 'emergency_stop', offer)
        probe.wait_for_subscribers(button)
        time.sleep(0.3)  # its side of the discovery
        button.publish(Bool(data=True))
        button.publish(Bool(data=False))  # let go at once
        until(lambda most=number: node.output.count('EMERGENCY STOP') == most, offer)
        rests()
        probe.node.destroy_publisher(button)
        assert probe.call(
            Trigger, 'policy_node/reset_emergency_stop', Trigger.Request()).success


def test_an_instruction_is_withdrawn_by_every_publisher(robot, probe, start, until, acts, rests):
    start(NODE)
    robot.connect(until)
    for number, offer in enumerate(OFFERS):
        robot.say(f'pick up {number}')
        acts()
        boss = probe.node.create_publisher(String, 'instruction', offer)
        probe.wait_for_subscribers(boss)
        time.sleep(0.3)
        boss.publish(String(data=''))
        rests()
        probe.node.destroy_publisher(boss)


def test_no_action_while_there_is_a_publisher_that_cannot_be_heard(
        robot, probe, start, until, acts, rests, state):
    node = start(NODE)
    robot.connect(until)
    robot.say('pick up')
    for topic, kind, other in (('emergency_stop', 'std_msgs/msg/Bool', Empty),
                               ('current_pose', 'geometry_msgs/msg/PoseStamped', Pose),
                               ('episode', 'specvla_ros/msg/EpisodeStatus', Int8)):
        acts()
        deaf = probe.node.create_publisher(other, topic, 1)
        node.says(f'no action: /{topic} has publishers that cannot be heard: /probe with ')
        node.says(f'/msg/{other.__name__}, expected is {kind}; ')
        rests()
        state(DiagnosticStatus.ERROR, f'/{topic} has publishers that cannot be heard')
        probe.node.destroy_publisher(deaf)
        state(DiagnosticStatus.OK, 'active')
    acts()


def test_no_action_beside_a_second_master(robot, probe, start, until, acts, rests, state):
    node = start(NODE, dict(publish_gripper='true'))
    robot.connect(until)
    robot.say('pick up')
    for topic, kind in (('action', ActionDelta), ('gripper_command', Float32)):
        acts()
        other = probe.node.create_publisher(kind, topic, 1)
        line = f'2 publishers on /{topic}: /policy_node, /probe'
        node.says(f'no action: {line}; an arm has one master')
        rests()
        state(DiagnosticStatus.ERROR, line)
        probe.node.destroy_publisher(other)
        state(DiagnosticStatus.OK, 'active')
    acts()
    second = start(NODE)
    for policy in (node, second):
        policy.says('no action: 2 publishers on /action: /policy_node, /policy_node')
    rests()
    assert second.interrupt() == 0
    acts()


def test_silence_is_said_with_topic_and_type_until_it_ends(
        probe, other_node, make_image, start, flood, state):
    elsewhere = probe.node.create_publisher(Image, 'camera/image_raw', 1)
    node = start(NODE)
    node.says('no image for more than 5 s: no node publishes on /image, expected is '
              'sensor_msgs/msg/Image; that is on /camera/image_raw: remap /image to it')
    node.says('no instruction for more than 5 s: no node publishes on /instruction, expected is '
              'std_msgs/msg/String')
    state(DiagnosticStatus.WARN, 'no image for more than 5 s: no node publishes on /image')
    probe.node.destroy_publisher(elsewhere)
    wrong = other_node.create_publisher(String, 'image', 1)
    node.says('no image for more than 5 s: /other: std_msgs/msg/String on /image, expected is '
              'sensor_msgs/msg/Image')
    other_node.destroy_publisher(wrong)
    camera = probe.node.create_publisher(Image, 'image', 1)
    node.says('no image for more than 5 s: /probe: sensor_msgs/msg/Image on /image is there, but '
              'nothing comes')
    boss = probe.node.create_publisher(String, 'instruction', qos.LATCHED)
    boss.publish(String(data='pick up'))
    flood(camera, make_image, period=0.1)
    state(DiagnosticStatus.OK, 'active')
    assert node.output.count('no image for more than') == 3  # each is said once
