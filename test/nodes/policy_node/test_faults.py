"""What may go wrong around the nodes, done to real processes: see the table in on_a_robot.md."""
import array
import json
import math
import os
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
import numpy as np
import pytest
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from specvla_ros.msg import EpisodeStatus
from std_srvs.srv import Trigger
import yaml

from specvla_ros.config_folder import config_folder
from specvla_ros.nodes import qos
from specvla_ros.nodes.conversions import to_nanoseconds

POLICY, BRIDGE = 'fake_policy_node.py', 'fake_bridge_node.py'
SECOND = 10**9


@pytest.fixture
def steps(tmp_path):
    """Give a function that reads what the simulated arm was told: mm along x, by episode."""
    def steps():
        log = tmp_path / 'bridge.log'
        episodes = []
        for line in log.read_text().splitlines() if log.exists() else ():
            kind, *values = json.loads(line)
            if kind == 'reset':
                episodes.append([])
            elif kind == 'step':
                episodes[-1].append(round(1e3 * values[0], 3))
        return episodes
    return steps


def stamp_of(action):
    return to_nanoseconds(action.header.stamp)


# What the fake policy answers to the image of step i is i / 10 mm: each image once, in order.
EACH_ONCE = [round(0.1 * i, 1) for i in range(8)]


def test_a_policy_that_is_killed_and_started_again_goes_on_with_the_episode(
        probe, start, until, steps, tmp_path):
    policy = start(POLICY, FAKE_ACT_S='0.1')
    bridge = start(BRIDGE, dict(resend_after=0.3), FAKE_LOG=str(tmp_path / 'bridge.log'))
    until(lambda: steps() and len(steps()[0]) >= 3, 'the middle of the episode')
    policy.kill()
    done = len(steps()[0])
    assert bridge.popen.poll() is None and done < 8
    start(POLICY)
    assert bridge.wait() == 0
    assert steps() == [EACH_ONCE]
    assert '0 successes, 1 failure, 0 crashes' in bridge.output


def test_a_bridge_that_is_killed_and_started_again_plays_anew_with_the_same_policy(
        probe, start, until, steps, tmp_path):
    policy = start(POLICY, FAKE_ACT_S='0.1')
    log = dict(FAKE_LOG=str(tmp_path / 'bridge.log'))
    bridge = start(BRIDGE, **log)
    until(lambda: steps() and len(steps()[0]) >= 3, 'the middle of the episode')
    bridge.kill()
    done = len(steps()[0])
    assert start(BRIDGE, **log).wait() == 0
    assert steps() == [EACH_ONCE[:done], EACH_ONCE]
    assert policy.popen.poll() is None
    assert 'Traceback' not in policy.output


def test_two_cameras_on_a_topic_are_named_once(robot, probe, start, until):
    node = start(POLICY)
    probe.hear(DiagnosticArray, '/diagnostics', qos.STREAM)
    other = probe.node.create_publisher(Image, 'image', qos.CAMERA_PUBLISHER)
    robot.connect(until)
    probe.wait_for_subscribers(other)
    robot.say('pick up')

    def see_until_acted_on(red):
        until(lambda: robot.see(red, 0, 0) and red in {
            action.token_ids[0] for action in robot.actions}, 'an action')

    fault = '2 publishers on /image: /probe, /probe'
    node.says(fault)
    until(lambda: (DiagnosticStatus.WARN, fault) in [
        (m.status[0].level, m.status[0].message) for m in probe.heard['/diagnostics']],
        'a warning')
    for red in range(1, 5):
        see_until_acted_on(red)
        # The clock of the other camera is 10 s behind.
        other.publish(robot.make_image((100 + red, 0, 0), stamp=time.time_ns() - 10 * SECOND))
        time.sleep(0.1)
    assert max(action.token_ids[0] for action in robot.actions) < 100
    assert all(np.diff([to_nanoseconds(action.image_stamp) for action in robot.actions]) > 0)
    node.says('the clock of the camera was set back by ')
    probe.node.destroy_publisher(other)
    time.sleep(1.5)  # another look
    see_until_acted_on(50)
    assert node.output.count('2 publishers') == 1


def test_a_flood_of_500_images_a_second_neither_queues_nor_grows(
        robot, probe, start, until, flood):
    node = start(POLICY, FAKE_ACT_S='0.02')
    robot.connect(until)
    robot.say('pick up')
    counter = iter(range(10**6))
    flood(robot.camera, lambda: robot.make_image((next(counter) % 256, 1, 3), size=64))
    robot.wait_for_actions(20)
    before = resident_mb(node.popen.pid)
    robot.wait_for_actions(100)
    assert resident_mb(node.popen.pid) < before + 5
    ages = [stamp_of(a) - to_nanoseconds(a.image_stamp) for a in robot.actions[20:100]]
    assert np.median(ages) < 0.3 * SECOND  # the newest, not the oldest of a queue
    assert len({to_nanoseconds(a.image_stamp) for a in robot.actions}) == len(robot.actions)


def resident_mb(pid):
    with open(f'/proc/{pid}/statm') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6


def test_garbage_in_compressed_images_costs_one_line(probe, robot, start, until):
    node = start(POLICY, dict(image_transport='compressed'))
    camera = probe.node.create_publisher(CompressedImage, 'image/compressed', qos.STREAM)
    probe.wait_for_subscribers(camera)
    probe.wait_for_subscribers(robot.boss, count=2)
    robot.say('pick up')
    noise = np.random.default_rng(0)
    for size in (0, 1, 100, 10_000):
        image = CompressedImage(format='jpeg')
        image.data = array.array('B', noise.integers(0, 256, size, np.uint8).tobytes())
        image.header.stamp = probe.node.get_clock().now().to_msg()
        camera.publish(image)
        time.sleep(0.1)
    node.says('no action: ')
    assert robot.actions == []
    assert node.popen.poll() is None and 'Traceback' not in node.output


@pytest.fixture
def tell(robot):
    """Give a function that says where the arm is, and lets the camera see it move by 10 mm."""
    arm = robot.probe.node.create_publisher(PoseStamped, 'current_pose', qos.STREAM)

    def tell(x=0.4, w=1.0, frame='panda_link0'):
        pose = PoseStamped()
        pose.header.frame_id = frame
        pose.pose.position.x, pose.pose.orientation.w = x, w
        arm.publish(pose)
        time.sleep(0.05)
        robot.see(100, 1, 3)
        time.sleep(0.05)

    tell.connect = lambda: robot.probe.wait_for_subscribers(arm)
    return tell


@pytest.mark.parametrize('broken', [dict(x=math.inf), dict(x=math.nan, w=math.nan)])
def test_no_action_while_current_pose_says_no_number_and_no_target_is_made_of_it(
        robot, probe, start, until, tmp_path, tell, broken):
    envelope = tmp_path / 'envelope.yaml'
    content = yaml.safe_load((config_folder() / 'safety.yaml').read_text())
    envelope.write_text(yaml.safe_dump({**content, 'fallback': 'zero', 'deadline_periods': 10}))
    node = start(POLICY, dict(safety=envelope, publish_pose='true'))
    probe.hear(PoseStamped, 'target_pose', qos.STREAM)
    robot.connect(until)
    tell.connect()

    def moved():
        return sum(action.translation[0].x > 0 for action in robot.actions)

    robot.say('pick up')
    until(lambda: tell() or (moved() and probe.heard['target_pose']), 'actions and targets')
    until(lambda: tell(**broken) or 'is not finite' in node.output, 'a refusal')
    count = moved()
    for _ in range(20):  # past the deadline, when the arm is told to stand still
        tell(**broken)
    assert moved() == count
    node.says('current_pose is no pose')
    assert all(math.isfinite(target.pose.position.x) and math.isfinite(target.pose.orientation.w)
               for target in probe.heard['target_pose'])
    until(lambda: tell() or moved() > count, 'it goes on')


def test_a_pose_in_another_frame_is_not_used_and_one_that_turns_nowhere_still_means_walls(
        robot, probe, start, until, tell):
    node = start(POLICY, dict(publish_pose='true'))
    probe.hear(PoseStamped, 'target_pose', qos.STREAM)
    robot.connect(until)
    tell.connect()
    robot.say('pick up')
    until(lambda: tell(x=5.0, frame='map') or len(robot.actions) > 2, 'actions')
    node.says("current_pose is in the frame 'map', the actions are in 'panda_link0'")
    assert not any(action.limited for action in robot.actions)
    until(lambda: tell(x=5.0, w=0.0) or robot.actions[-1].limited, 'a wall')
    assert robot.actions[-1].translation[0].x == 0
    node.says('the action was limited by workspace')
    node.says('current_pose is no pose')
    assert probe.heard['target_pose'] == []


@pytest.fixture
def clock(probe):
    """Give a function that sets the ROS clock of the nodes, s."""
    publisher = probe.node.create_publisher(Clock, '/clock', qos.LATCHED)

    def clock(seconds):
        message = Clock()
        message.clock.sec = seconds
        publisher.publish(message)
    return clock


def test_a_clock_that_jumps_makes_images_stale_and_costs_one_image_when_it_goes_back(
        robot, start, until, clock):
    node = start(POLICY, dict(use_sim_time='true', max_image_age=2.0))

    def see(red, at):
        time.sleep(0.3)  # for the clock to arrive: nothing answers
        robot.see(red, 0, 0, stamp=int(at * SECOND))

    robot.connect(until)
    until(lambda: robot.probe.node.count_subscribers('/clock'), 'who reads the clock')
    time.sleep(0.3)
    clock(1000)
    robot.say('pick up')
    see(1, at=1000)
    robot.wait_for_actions(1)
    clock(2000)
    see(2, at=1001)
    node.says('the image is 999.000 s old')
    see(3, at=2000)
    robot.wait_for_actions(2)
    clock(500)
    see(4, at=500)
    node.says('the clock of the camera was set back by 1500.000 s')
    see(5, at=500.1)
    robot.wait_for_actions(3)
    assert [action.token_ids[0] for action in robot.actions] == [1, 3, 5]
    assert [action.header.stamp.sec for action in robot.actions] == [1000, 2000, 500]


@pytest.mark.parametrize('mode', ['lockstep', 'realtime'])
def test_an_episode_outlives_a_clock_that_is_set_back(
        probe, start, until, steps, tmp_path, clock, mode):
    start(POLICY, dict(max_image_age=0.0))  # it lives in another time
    probe.hear(EpisodeStatus, 'episode', qos.LATCHED)
    bridge = start(BRIDGE, dict(mode=mode, rate=4.0, use_sim_time='true', resend_after=0.3,
                                wait_for_start='true'), FAKE_LOG=str(tmp_path / 'bridge.log'))
    bridge.says('~/start_episode')
    until(lambda: probe.node.count_subscribers('/clock'), 'who reads the clock')
    time.sleep(0.3)
    clock(1000)
    time.sleep(0.3)
    probe.call(Trigger, 'libero_bridge_node/start_episode', Trigger.Request())
    probe.wait_for('episode', 1)
    for seconds in range(500, 600):  # set back, then on
        clock(seconds)
        time.sleep(0.05)
        if bridge.popen.poll() is not None:
            break
    assert bridge.wait() == 0
    moves = [step for step in steps()[0] if step]
    assert moves[-1] >= 0.5  # the answer to an image from long after the jump
    assert moves == sorted(set(moves))
