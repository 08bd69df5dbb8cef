"""What `policy_node` never lets through: stop, stale images, clocks set back, too much motion."""
from pathlib import Path
import signal
import time

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TwistStamped
import numpy as np
import pytest
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
import yaml

from specvla_ros.config_folder import config_folder
from specvla_ros.nodes import qos
from specvla_ros.nodes.conversions import to_nanoseconds

NODE = 'fake_policy_node.py'
PERIOD = 0.05


@pytest.fixture
def envelope(tmp_path):
    """Give a function that makes a safety file: the default with changes; it returns its path."""
    def envelope(name='envelope', **changes):
        content = yaml.safe_load((config_folder() / 'safety.yaml').read_text())
        path = Path(tmp_path / f'{name}.yaml')
        path.write_text(yaml.safe_dump({**content, **changes}))
        return str(path)
    return envelope


@pytest.fixture
def button(probe):
    """Give the publisher of the emergency stop."""
    return probe.node.create_publisher(Bool, 'emergency_stop', qos.LATCHED)


@pytest.fixture
def reset(probe):
    """Give a function that calls the service that ends the emergency stop."""
    return lambda: probe.call(Trigger, 'policy_node/reset_emergency_stop', Trigger.Request())


def test_the_emergency_stop_latches_until_it_is_reset(robot, start, until, button, reset):
    node = start(NODE)
    robot.connect(until)
    robot.probe.wait_for_subscribers(button, count=2)
    assert not reset().success
    robot.say('pick up')
    until(lambda: robot.see(1, 2, 3) and len(robot.actions) > 2, 'it acts')
    button.publish(Bool(data=True))
    robot.watch(1, 2, 3, seconds=0.5)
    node.says('EMERGENCY STOP')
    count = len(robot.actions)
    button.publish(Bool(data=False))
    robot.watch(1, 2, 3, seconds=0.5)
    assert len(robot.actions) == count
    assert reset().success
    until(lambda: robot.see(1, 2, 3) and len(robot.actions) > count, 'it acts again')


def test_an_emergency_stop_said_before_it_came_up_counts_and_the_arm_is_told_once_to_stand_still(
        robot, start, until, button, reset, envelope):
    button.publish(Bool(data=True))
    node = start(NODE, dict(safety=envelope(fallback='zero', deadline_periods=1200),
                            publish_twist='true'))
    twists = robot.probe.heard['delta_twist_cmds']
    robot.probe.hear(TwistStamped, 'delta_twist_cmds', qos.STREAM)
    node.says('EMERGENCY STOP')
    robot.connect(until)
    robot.say('pick up')
    robot.watch(100, 2, 3, seconds=0.3)
    assert robot.actions == []
    button.publish(Bool(data=False))  # else the latched stop would meet the next node as well
    assert reset().success
    robot.see(100, 2, 3)
    robot.wait_for_actions(1)
    button.publish(Bool(data=True))
    acted, still = robot.wait_for_actions(2)
    assert (acted.limited, still.limited) == (False, True)
    assert (still.translation[0].x, len(still.token_ids)) == (0, 0)
    assert still.gripper == acted.gripper
    until(lambda: len(twists) == 2, 'two velocities')
    assert [twist.twist.linear.x for twist in twists] == [pytest.approx(0.01 / PERIOD), 0]
    time.sleep(0.3)
    assert len(robot.actions) == 2


def test_limits_refuses_and_says_so_in_the_diagnostics(robot, start, until, envelope):
    node = start(NODE, dict(safety=envelope(step_translation_m=0.01)))
    robot.probe.hear(DiagnosticArray, '/diagnostics', qos.STREAM)
    robot.connect(until)
    robot.say('pick up')
    robot.see(50, 2, 3)
    free, = robot.wait_for_actions(1)
    robot.see(200, 2, 3)
    limited = robot.wait_for_actions(2)[1]
    robot.see(200, 2, 13)  # not finite
    assert (free.limited, limited.limited) == (False, True)
    assert free.translation[0].x == pytest.approx(0.005)
    assert limited.translation[0].x == pytest.approx(0.01)
    assert limited.normalized[0] == pytest.approx(0.01)  # what the model wanted, halved
    node.says('the action was limited by step_translation_m')
    node.says('the action is not finite')

    def values():
        status = robot.probe.heard['/diagnostics'][-1].status[0]
        return {pair.key: pair.value for pair in status.values}

    until(lambda: robot.probe.heard['/diagnostics'] and values()['refused'] == '1', 'diagnostics')
    assert (values()['actions'], values()['limited']) == ('2', '1')
    assert float(values()['memory [MB]']) > 10
    assert float(values()['input age [s]']) < 60
    lengths = [s.values for m in robot.probe.heard['/diagnostics'] for s in m.status]
    assert '3.00' in {pair.value for pairs in lengths for pair in pairs
                      if pair.key.startswith('acceptance length')}


def test_does_not_act_on_a_stale_image_nor_on_one_from_a_clock_set_back(robot, start, until):
    node = start(NODE, dict(max_image_age='30.0'))
    robot.connect(until)
    robot.say('pick up')
    now = time.time_ns()
    robot.see(1, 2, 3, stamp=now - 100 * 10**9)
    node.says('the image is 10')
    robot.see(2, 2, 3, stamp=now + 100 * 10**9)
    time.sleep(0.3)
    robot.see(3, 2, 3)
    node.says('the clock of the camera was set back by ')
    assert robot.actions == []
    robot.see(4, 2, 3)
    action, = robot.wait_for_actions(1)
    assert action.token_ids[0] == 4


def test_a_lost_camera_is_noticed_and_the_arm_told_to_stand_still(robot, start, until, envelope):
    node = start(NODE, dict(safety=envelope(fallback='hold', deadline_periods=6)))
    robot.probe.hear(DiagnosticArray, '/diagnostics', qos.STREAM)
    robot.connect(until)
    robot.say('pick up')
    robot.see(100, 2, 3)
    robot.wait_for_actions(4)
    node.says('no image for more than 0.3 s (deadline_periods 6); fallback: hold')
    until(lambda: 'no image for more than 0.3 s (deadline_periods 6)' in [
        message.status[0].message for message in robot.probe.heard['/diagnostics']], 'a warning')
    values = robot.probe.heard['/diagnostics'][-1].status[0].values
    assert ('deadline misses', '1') in [(pair.key, pair.value) for pair in values]
    assert [action.translation[0].x for action in robot.actions[1:4]] == [0, 0, 0]
    assert [action.sequence for action in robot.actions[:4]] == [0, 1, 2, 3]
    robot.see(100, 2, 3)
    until(lambda: sum(action.translation[0].x > 0 for action in robot.actions) == 2, 'it goes on')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_arm_is_told_to_stand_still_when_the_process_ends(
        robot, start, until, envelope, number):
    node = start(NODE, dict(safety=envelope(fallback='zero', deadline_periods=1200)))
    robot.connect(until)
    robot.say('pick up')
    robot.see(100, 2, 3)
    robot.wait_for_actions(1)
    assert node.interrupt(number) == 0
    assert [action.translation[0].x for action in robot.wait_for_actions(2)] == [
        pytest.approx(0.01), 0]


def test_a_node_outlives_its_terminal_under_nohup(robot, start, until):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a process begins with its parent's
    try:
        node = start(NODE)
    finally:
        signal.signal(signal.SIGHUP, before)
    robot.connect(until)
    node.popen.send_signal(signal.SIGHUP)
    robot.say('pick up')
    robot.see(100, 2, 3)
    robot.wait_for_actions(1)
    assert node.interrupt() == 0


def test_a_camera_of_60_hz_makes_no_more_steps_a_second_than_the_data_set_has(
        robot, start, until, flood):
    start(NODE, dict(safety='safety_arm'), FAKE_ACT_S='0.015')
    robot.connect(until)
    robot.say('pick up')
    reds = iter(range(10**6))
    flood(robot.camera, lambda: robot.make_image((200 + next(reds) % 50, 2, 3)), 1 / 60)
    actions = robot.wait_for_actions(60)[:60]
    published = np.array([to_nanoseconds(action.header.stamp) * 1e-9 for action in actions])
    assert np.diff(published).min() > PERIOD - 1e-4  # two clocks are compared
    assert np.median(np.diff(published)) < 1.5 * PERIOD
    way = sum(action.translation[0].x for action in actions[:-1])
    assert way / (published[-1] - published[0]) < 0.4 * (1 + 1e-3)  # speed_m_s
    assert len({to_nanoseconds(action.image_stamp) for action in actions}) == 60


def step_of(action):
    return round(action.translation[0].x, 9), round(action.rotation[0].x, 9)


def test_the_envelope_changes_between_two_actions(robot, start, until, envelope):
    steps = {'narrow': (0.001, 0.01), 'wide': (0.002, 0.02)}
    files = {name: envelope(name, step_translation_m=translation, step_rotation_rad=rotation)
             for name, (translation, rotation) in steps.items()}
    start(NODE, dict(safety=files['wide']), FAKE_TURN='0.1')
    robot.connect(until)
    robot.say('pick up')
    until(lambda: robot.see(100, 2, 3) and robot.actions, 'it acts')
    for name in ('narrow', 'wide') * 4:
        change = robot.probe.begin_to_set_parameters(safety=files[name])
        until(lambda done=change.done: robot.see(100, 2, 3) and done(), 'the answer')
        assert change.result().result.successful
        time.sleep(0.1)  # what was published before the answer has arrived by then as well
        count = len(robot.actions)
        until(lambda most=count + 3: robot.see(100, 2, 3) and len(robot.actions) >= most, 'more')
        assert {step_of(action) for action in robot.actions[count:]} == {steps[name]}
    assert {step_of(action) for action in robot.actions} == set(steps.values())


def test_an_envelope_that_cannot_be_read_changes_nothing(robot, start, until, envelope):
    start(NODE, dict(safety=envelope(step_translation_m=0.001)))
    robot.connect(until)
    robot.say('pick up')
    answer = robot.probe.set_parameters(safety=envelope('wrong', fallback='jump'))
    assert not answer.successful
    assert "fallback is 'jump', must be one of none, hold, zero" in answer.reason
    robot.see(100, 2, 3)
    assert robot.wait_for_actions(1)[0].translation[0].x == pytest.approx(0.001)
