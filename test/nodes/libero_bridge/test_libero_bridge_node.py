"""`libero_bridge_node` as others see it: a process, its topics, its service, its exit code."""
import json
import math
import signal
import time

from geometry_msgs.msg import PoseStamped, Vector3
import numpy as np
import pytest
from sensor_msgs.msg import Image, JointState
from specvla_ros.msg import ActionDelta, EpisodeStatus
from std_msgs.msg import String
from std_srvs.srv import Trigger

from specvla_ros.data_sets import load_dataset
from specvla_ros.nodes import qos
from specvla_ros.nodes.conversions import to_nanoseconds, to_rgb

NODE = 'fake_bridge_node.py'


class Brain:
    """The other side: looks at images and answers them with actions."""

    def __init__(self, probe):
        self.probe = probe
        self.answering = True
        self.delta = 0.001
        self.steps, self.first_step = 1, 0
        self.publisher = probe.node.create_publisher(ActionDelta, 'action', qos.STREAM)
        self.images = []
        self.times = []
        probe.node.create_subscription(Image, 'image', self._on_image, qos.SENSOR_SUBSCRIBER)
        for kind, topic, profile in (
                (EpisodeStatus, 'episode', qos.LATCHED), (String, 'instruction', qos.LATCHED),
                (JointState, 'joint_states', qos.STREAM), (PoseStamped, 'eef_pose', qos.STREAM)):
            probe.hear(kind, topic, profile)

    def _on_image(self, image):
        self.times.append(time.monotonic())
        self.images.append(image)
        if self.answering:
            self.act(image)

    def act(self, image, x=None, gripper=1.0):
        x = self.delta if x is None else x
        self.publisher.publish(ActionDelta(
            image_stamp=image.header.stamp, translation=[Vector3(x=x)] * self.steps,
            rotation=[Vector3()] * self.steps, gripper=[gripper] * self.steps,
            first_step=self.first_step))

    @property
    def statuses(self):
        return self.probe.heard['episode']

    def wait_for_image(self, until, count):
        return until(lambda: len(self.images) >= count and self.images[count - 1], 'an image')


@pytest.fixture
def brain(probe):
    return Brain(probe)


@pytest.fixture
def log(tmp_path):
    """Give a function that reads what the fake simulator did, by kind."""
    def log(kind):
        entries = [json.loads(line) for line in (tmp_path / 'fake.log').read_text().splitlines()]
        return [entry[1:] for entry in entries if entry[0] == kind]
    return log


def summary(status):
    return (status.task, status.initial_state, status.episode, status.step, status.success,
            status.done)


def test_lockstep_plays_the_list_and_ends(brain, start, log):
    bridge = start(NODE, dict(episodes="'0:3 1:4'"))
    assert bridge.wait() == 0
    # 5 steps of 1 mm reach the goal; each answered image is one step, none is taken twice.
    assert [list(to_rgb(image)[0, 0]) for image in brain.images] == [
        [step, task, state] for task, state in ((0, 3), (1, 4)) for step in range(5)]
    assert log('step') == [[0.001, 0, 0, 0, 0, 0, 1.0]] * 10
    assert [summary(status) for status in brain.statuses if status.done] == [
        (0, 3, 0, 5, True, True), (1, 4, 1, 5, True, True)]
    assert [text.data for text in brain.probe.heard['instruction']] == ['do task 0', 'do task 1']
    assert log('make') == [['libero_object', 0], ['libero_object', 1]]
    assert len(log('close')) == 2
    assert '2 episodes, 2 successes, 0 failures, 0 crashes' in bridge.output
    assert 'Traceback' not in bridge.output


def test_an_answer_of_several_steps_comes_as_late_as_it_says(brain, start, log):
    """Three steps, executed from the second period after each image on."""
    brain.delta, brain.steps, brain.first_step = 0.0001, 3, 2
    bridge = start(NODE, dict(max_steps=8))
    assert bridge.wait() == 0
    # The fake simulator draws the number of the step into the image: one image for three steps.
    assert [int(to_rgb(image)[0, 0, 0]) for image in brain.images] == [0, 3, 6]
    assert [step[0] for step in log('step')] == [0.0] * 2 + [0.0001] * 6
    assert [step[6] for step in log('step')] == [1.0] * 8


def test_an_answer_from_beyond_any_episode_is_refused(brain, start, until):
    brain.first_step = 2**32 - 1
    bridge = start(NODE, dict(max_steps=3, resend_after=0.2))
    bridge.says('refused an action: first_step is 4294967295, must be at most 100000')
    brain.first_step = 0
    assert bridge.wait() == 0


def test_what_the_sensors_say(brain, start):
    bridge = start(NODE, dict(max_steps=2, resolution=64))
    assert bridge.wait() == 0
    image, pose = brain.images[1], brain.probe.heard['eef_pose'][1]
    joints = brain.probe.heard['joint_states'][1]
    assert (image.height, image.width, image.encoding) == (64, 64, 'rgb8')
    assert image.header.frame_id == 'agentview_optical_frame'
    assert image.header.stamp == pose.header.stamp == joints.header.stamp
    assert pose.header.frame_id == load_dataset('libero_object').frame_id
    assert (pose.pose.position.x, pose.pose.position.z) == (0.001, 1.0)
    assert pose.pose.orientation.w == 1.0
    assert list(joints.position) == [*range(7), 0.04, 0.04]
    assert len(joints.name) == 9
    status = brain.statuses[-1]
    assert (status.suite, status.instruction, status.max_steps) == (
        'libero_object', 'do task 0', 2)


def test_an_episode_that_runs_out_of_steps_has_failed(brain, start):
    brain.delta = 0.0001
    bridge = start(NODE)
    assert bridge.wait() == 0
    assert summary(brain.statuses[-1]) == (0, 0, 0, 8, False, True)
    assert not any(status.crashed for status in brain.statuses)
    assert '0 successes, 1 failure, 0 crashes' in bridge.output


def test_a_latecomer_learns_instruction_and_status(brain, start, until):
    start(NODE, dict(exit_when_done=False)).says('done: 1 episode, ')
    late = {}
    for kind, topic in ((String, 'instruction'), (EpisodeStatus, 'episode')):
        brain.probe.node.create_subscription(
            kind, topic, lambda message, topic=topic: late.update({topic: message}), qos.LATCHED)
    until(lambda: len(late) == 2, 'what was said before')
    assert late['instruction'].data == 'do task 0'
    assert late['episode'].done


def test_actions_that_answer_nothing_are_not_taken(brain, start, until, log):
    brain.answering = False
    bridge = start(NODE, dict(max_steps=3, resend_after=60.0))
    first = brain.wait_for_image(until, 1)
    stale = ActionDelta(translation=[Vector3(x=1.0)], rotation=[Vector3()], gripper=[0.0])
    stale.image_stamp.sec = 5
    brain.publisher.publish(stale)
    brain.act(first, x=math.nan)
    bridge.says('refused an action')
    assert log('reset') and not log('step')
    brain.act(first, x=0.001)
    brain.act(first, x=0.002)  # twice for one image
    second = brain.wait_for_image(until, 2)
    time.sleep(0.3)
    brain.act(first, x=0.003)
    time.sleep(0.3)
    assert len(log('step')) == 1
    brain.act(second, x=0.004)
    assert bridge.wait() == 0
    assert [step[0] for step in log('step')] == [0.001, 0.004]


def test_a_chunk_of_actions_is_taken_step_by_step(brain, start, until, log):
    brain.answering = False
    bridge = start(NODE)
    image = brain.wait_for_image(until, 1)
    brain.publisher.publish(ActionDelta(
        image_stamp=image.header.stamp, translation=[Vector3(x=x) for x in (0.001, 0.002, 0.003)],
        rotation=[Vector3()] * 3, gripper=[1.0, 1.0, 0.0]))
    assert bridge.wait() == 0
    assert [(step[0], step[6]) for step in log('step')] == [(0.001, 1), (0.002, 1), (0.003, 0)]
    assert summary(brain.statuses[-1]) == (0, 0, 0, 3, True, True)


def test_an_image_that_got_lost_is_sent_again(brain, start, until, log):
    brain.answering = False
    bridge = start(NODE, dict(resend_after=0.2, max_steps=1))
    brain.wait_for_image(until, 3)
    first, second, third = brain.images[:3]
    assert to_nanoseconds(first.header.stamp) < to_nanoseconds(second.header.stamp)
    np.testing.assert_array_equal(to_rgb(first), to_rgb(third))
    assert len(brain.probe.heard['eef_pose']) == 1
    brain.act(second)
    assert bridge.wait() == 0
    assert len(log('step')) == 1


def test_no_action_in_time_is_a_crash_not_a_failure(brain, start):
    brain.answering = False
    bridge = start(NODE, dict(action_timeout=0.5, states="'0,1'"))
    assert bridge.wait() == 0
    assert [summary(s) for s in brain.statuses if s.done] == [
        (0, 0, 0, 0, False, True), (0, 1, 1, 0, False, True)]
    assert all(status.crashed == status.done for status in brain.statuses)
    assert 'no action answered an image within 0.5 s' in bridge.output
    assert '0 successes, 0 failures, 2 crashes' in bridge.output


def test_a_simulator_that_breaks_costs_one_episode(brain, start, log):
    bridge = start(NODE, dict(episodes="'0:0 1:0 1:1 2:0'"), FAKE_BREAK='1')
    assert bridge.wait() == 0
    assert '4 episodes, 2 successes, 0 failures, 2 crashes' in bridge.output
    assert [status.crashed for status in brain.statuses if status.done] == [
        False, True, True, False]
    assert log('make') == [['libero_object', task] for task in (0, 1, 1, 2)]


def test_episodes_wait_for_the_start_service(brain, start, until):
    bridge = start(NODE, dict(wait_for_start=True, repeats=2))
    bridge.says('~/start_episode')
    time.sleep(0.3)
    assert brain.images == []
    for n in (1, 2):
        answer = brain.probe.call(
            Trigger, 'libero_bridge_node/start_episode', Trigger.Request())
        assert answer.success
        until(lambda n=n: [s.done for s in brain.statuses].count(True) == n, 'the end')
        time.sleep(0.3)
        assert len(brain.images) == 5 * n
    assert bridge.wait() == 0


def test_real_time_steps_on_whatever_the_policy_does(brain, start, until, log):
    brain.answering = False
    bridge = start(NODE, dict(mode='realtime', rate=4.0))
    first = brain.wait_for_image(until, 1)
    brain.act(first, gripper=0.0)
    assert bridge.wait() == 0
    steps = log('step')
    assert len(steps) == 8
    moved = [i for i, step in enumerate(steps) if step[0]]
    assert len(moved) == 1  # one action, applied once
    assert all(step[:6] == [0] * 6 for i, step in enumerate(steps) if i not in moved)
    assert [step[6] for step in steps[:moved[0]]] == [1.0] * moved[0]  # open, as at the start
    assert [step[6] for step in steps[moved[0]:]] == [0.0] * (8 - moved[0])  # kept
    assert np.median(np.diff(brain.times)) == pytest.approx(0.25, abs=0.1)
    assert len({to_nanoseconds(image.header.stamp) for image in brain.images}) == 8


def test_a_step_that_takes_too_long_is_said(brain, start):
    bridge = start(NODE, dict(mode='realtime', rate=100.0, resolution=2048))
    assert bridge.wait() == 0
    assert 'slower than real time' in bridge.output


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_ends_cleanly_in_the_middle(brain, start, until, log, number):
    brain.answering = False
    bridge = start(NODE)
    brain.wait_for_image(until, 1)
    assert bridge.interrupt(number) == 0
    assert 'Traceback' not in bridge.output
    assert len(log('close')) == 1


@pytest.mark.parametrize('parameters, reason', [
    (dict(suite='kitchen'), "parameter suite is 'kitchen'; allowed: libero_spatial"),
    (dict(tasks=10), 'there is no task 10; there are 0 to 9'),
    (dict(states="'0-50'"), 'there is no state 50'),
    (dict(mode='sometimes'), 'allowed: lockstep, realtime'),
    (dict(rate=0.0), 'allowed: 0.1 to 100.0 Hz'),
    (dict(episodes='7'), 'parameter episodes must be a string'),
])
def test_bad_parameters_end_it_with_one_line_and_code_2(start, parameters, reason):
    bridge = start('specvla_ros.nodes.libero_bridge.node', parameters)
    assert bridge.wait() == 2
    fatal, = (line for line in bridge.output.splitlines() if '[FATAL]' in line)
    assert reason in fatal
    assert 'Traceback' not in bridge.output


def test_the_real_simulator(brain, start):
    """LIBERO itself, three steps upwards."""
    brain.delta = 0.0
    brain.act = lambda image: brain.publisher.publish(ActionDelta(
        image_stamp=image.header.stamp, translation=[Vector3(z=0.02)], rotation=[Vector3()],
        gripper=[1.0]))
    bridge = start('specvla_ros.nodes.libero_bridge.node', dict(max_steps=3, resolution=128))
    assert bridge.wait(300) == 0, bridge.output
    assert [summary(s)[3:] for s in brain.statuses][-1] == (3, False, True)
    assert brain.statuses[-1].instruction.startswith('pick up the alphabet soup')
    frames = [to_rgb(image) for image in brain.images]
    assert all(frame.shape == (128, 128, 3) and frame.std() > 20 for frame in frames)
    assert (frames[0] != frames[2]).any()
    heights = [pose.pose.position.z for pose in brain.probe.heard['eef_pose']]
    assert heights == sorted(heights)
    assert heights[2] - heights[0] > 0.005
    assert 'Traceback' not in bridge.output
