"""`policy_node` as others see it: a process, its topics, its parameters and its exit code."""
import array
import signal
import time

import pytest
from rcl_interfaces.srv import DescribeParameters, ListParameters
from specvla_ros.msg import ActionDelta, DecodeReport
from std_msgs.msg import String

from specvla_ros.nodes.policy_node.node import PARAMETERS

NODE = 'fake_policy_node.py'


def seen(action):
    """Return the colour of the image acted on and the length of the instruction."""
    return tuple(action.token_ids[:3]), action.token_ids[3]


def test_acts_once_there_are_an_image_and_an_instruction(robot, start, until):
    start(NODE)
    robot.connect(until)
    robot.see(1, 2, 3)
    time.sleep(0.5)
    assert robot.actions == []
    robot.say('pick up')
    robot.wait_for_actions(1)  # on the image that was there already
    stamp = robot.see(4, 5, 6).header.stamp
    action = robot.wait_for_actions(2)[1]
    assert seen(action) == ((4, 5, 6), len('pick up'))
    assert action.image_stamp == stamp
    assert action.header.frame_id == 'panda_link0'
    assert action.step_period == 0.05
    assert action.translation[0].x == pytest.approx(4e-4)
    assert action.gripper[0] == ActionDelta.GRIPPER_OPEN
    assert action.normalized[0] == pytest.approx(2e-4)


def test_reports_what_the_action_cost(robot, start, until):
    start(NODE)
    robot.connect(until)
    robot.say('pick up')
    stamp = robot.see(1, 2, 3).header.stamp
    report, = robot.probe.wait_for('decode_report', 1)
    assert (report.image_stamp, report.sequence) == (stamp, 0)
    assert (report.decoder, report.drafter, report.rule, report.threshold) == (
        'relaxed', 'eagle', 'bins', 9)
    assert (report.target_passes, report.drafted, report.accepted) == (3, 8, 4)
    assert list(report.acceptance_histogram) == [0, 0, 1, 0, 1]
    assert report.acceptance_length == 3
    assert len(report.token_sources) == 7
    assert report.verify_time == pytest.approx(5e-3)
    assert 0 < report.publish_time < report.total_time
    assert 0 < report.queue_age < 60


def test_gets_an_instruction_said_before_it_was_there(robot, start, until):
    robot.say('pick up')
    start(NODE)
    robot.connect(until)
    robot.see(1, 2, 3)
    assert seen(robot.wait_for_actions(1)[0]) == ((1, 2, 3), len('pick up'))


def test_hears_publishers_that_do_not_latch(robot, start, until):
    """`ros2 topic pub` is volatile unless told otherwise."""
    start(NODE)
    robot.connect(until)
    boss = robot.probe.node.create_publisher(String, 'instruction', 1)
    robot.probe.wait_for_subscribers(boss)
    boss.publish(String(data='open'))
    until(lambda: robot.see(1, 2, 3) and robot.actions, 'an action')
    assert seen(robot.actions[0]) == ((1, 2, 3), len('open'))


def test_acts_only_on_the_newest_image(robot, start, until, wait_for_act):
    start(NODE, FAKE_ACT_S='2')
    robot.connect(until)
    robot.say('pick up')
    robot.see(0, 0, 0)
    wait_for_act()
    for i in range(1, 21):
        robot.see(i, 0, 0)
        time.sleep(0.005)
    robot.wait_for_actions(2)
    time.sleep(2.5)
    assert [seen(action)[0][0] for action in robot.actions] == [0, 20]
    assert [action.sequence for action in robot.actions] == [0, 1]


def test_never_acts_twice_on_an_image(robot, start, until):
    start(NODE)
    robot.connect(until)
    robot.say('pick up')
    image = robot.see(1, 2, 3)
    robot.wait_for_actions(1)
    for _ in range(3):
        robot.camera.publish(image)
        robot.say('pick up')
        time.sleep(0.1)
    time.sleep(0.4)
    assert len(robot.actions) == 1


def test_acts_on_every_image_of_a_camera_that_gives_no_stamps(robot, start, until):
    start(NODE)
    robot.connect(until)
    robot.say('pick up')
    for i in range(3):
        robot.see(i, 0, 0, stamp=0)
        robot.wait_for_actions(i + 1)
    assert [seen(action)[0][0] for action in robot.actions] == [0, 1, 2]


def test_a_new_instruction_refuses_the_action_under_way(
        robot, start, until, wait_for_act, tmp_path):
    start(NODE, FAKE_ACT_S='1')
    robot.connect(until)
    robot.say('pick up')
    robot.see(1, 2, 3)
    wait_for_act()
    robot.say('put down')
    action, = robot.wait_for_actions(1)
    assert seen(action) == ((1, 2, 3), len('put down'))
    time.sleep(1.5)
    assert len(robot.actions) == 1
    # What a drafter has learnt is forgotten with the instruction.
    assert (tmp_path / 'fake.log').read_text().splitlines()[-4:] == [
        'reset', 'act [1, 2, 3] pick up', 'reset', 'act [1, 2, 3] put down']


@pytest.mark.parametrize('break_it, reason', [
    (dict(encoding='32FC1'), "image encoding '32FC1' cannot be turned into RGB"),
    (dict(encoding='nonsense'), "image encoding 'nonsense' cannot be turned into RGB"),
    (dict(height=17), 'needs rows of at least 48 bytes'),
    (dict(step=47), 'needs rows of at least 48 bytes'),
    (dict(width=0), 'the image is empty'),
    (dict(data=array.array('B', [9])), 'got step 48 and 1 bytes'),
])
def test_refuses_a_bad_image_with_one_line(robot, start, until, break_it, reason):
    node = start(NODE)
    robot.connect(until)
    robot.say('pick up')
    for i in range(5):
        image = robot.make_image((i, 0, 0))
        for name, value in break_it.items():
            setattr(image, name, value)
        robot.camera.publish(image)
        time.sleep(0.05)
    node.says(reason)
    robot.see(7, 0, 0)
    robot.wait_for_actions(1)
    assert [seen(action)[0][0] for action in robot.actions] == [7]
    assert node.output.count('no action') == 1
    assert 'Traceback' not in node.output


@pytest.mark.parametrize('text', ['', '  \n', 'x' * 10_000])
def test_refuses_a_bad_instruction(robot, start, until, text):
    node = start(NODE)
    robot.connect(until)
    robot.say('pick up')
    robot.see(1, 0, 0)
    robot.wait_for_actions(1)
    robot.say(text)
    time.sleep(0.3)
    for i in range(2, 6):
        robot.see(i, 0, 0)
        time.sleep(0.05)
    node.says('the instruction is')
    assert len(robot.actions) == 1
    robot.say('put down')
    robot.see(9, 0, 0)
    until(lambda: seen(robot.actions[-1]) == ((9, 0, 0), len('put down')), 'it acts again')


def test_refuses_to_publish_what_is_not_finite(robot, start, until):
    node = start(NODE)
    robot.connect(until)
    robot.say('pick up')
    # A camera goes on sending; a single image may get lost on a busy machine.
    until(lambda: robot.see(1, 2, 13) and 'the action is not finite' in node.output, 'a refusal')
    assert robot.actions == []


def test_the_decoder_changes_between_two_actions(robot, start, until, wait_for_act):
    start(NODE, FAKE_ACT_S='1')
    robot.connect(until)
    robot.say('pick up')
    robot.see(0, 0, 0)
    wait_for_act()
    assert robot.probe.set_parameters(decoder='ar').successful
    robot.see(1, 0, 0)
    reports = robot.probe.wait_for('decode_report', 2)
    assert [report.decoder for report in reports] == ['relaxed', 'ar']
    assert (reports[1].rule, reports[1].threshold) == ('strict', DecodeReport.NO_THRESHOLD)
    assert robot.probe.set_parameters(decoder='relaxed', threshold=4).successful
    robot.see(2, 0, 0)
    assert robot.probe.wait_for('decode_report', 3)[2].threshold == 4


@pytest.mark.parametrize('change, reason', [
    (dict(decoder='sloppy'), "decoder is 'sloppy', must be one of"),
    (dict(decoder='strict', threshold=4), 'the rule strict of the decoder strict has none'),
    (dict(threshold=1000), 'range'),
    (dict(device='cuda'), 'read-only'),
])
def test_a_change_that_cannot_be_is_refused_and_nothing_changes(
        robot, start, until, change, reason):
    start(NODE)
    robot.connect(until)
    answer = robot.probe.set_parameters(**change)
    assert not answer.successful
    assert reason in answer.reason
    robot.say('pick up')
    robot.see(1, 0, 0)
    report, = robot.probe.wait_for('decode_report', 1)
    assert (report.decoder, report.threshold) == ('relaxed', 9)


def test_every_parameter_describes_itself(probe, start):
    start(NODE)
    listed = probe.call(ListParameters, 'policy_node/list_parameters', ListParameters.Request())
    names = {parameter.name for parameter in PARAMETERS}
    assert names <= set(listed.result.names)
    described = probe.call(DescribeParameters, 'policy_node/describe_parameters',
                           DescribeParameters.Request(names=sorted(names)))
    for descriptor in described.descriptors:
        assert len(descriptor.description) > 10
        assert descriptor.read_only == (descriptor.name == 'autostart')
        assert ('while the node is unconfigured' in descriptor.additional_constraints) == (
            descriptor.name not in ('autostart', 'decoder', 'safety', 'threshold'))
    threshold = next(d for d in described.descriptors if d.name == 'threshold')
    assert '[bins]' in threshold.description
    assert threshold.integer_range[0].to_value == 255


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_ends_cleanly_while_it_acts(robot, start, until, wait_for_act, number):
    node = start(NODE, FAKE_ACT_S='30')
    robot.connect(until)
    robot.say('pick up')
    robot.see(1, 2, 3)
    wait_for_act()
    started = time.monotonic()
    assert node.interrupt(number) == 0
    assert time.monotonic() - started < 10
    assert 'Traceback' not in node.output


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_ends_cleanly_while_it_waits_and_while_it_loads(probe, start, until, number):
    waiting, loading = start(NODE), start(NODE, FAKE_LOAD_S='60')
    until(lambda: probe.node.count_publishers('action'), 'the node')
    until(lambda: probe.node.get_node_names().count('policy_node') == 2, 'both nodes')
    for node in (waiting, loading):
        assert node.interrupt(number) == 0
        assert 'Traceback' not in node.output


@pytest.mark.parametrize('parameters, reason', [
    (dict(checkpoint='/no/such/folder'), '/no/such/folder'),
    (dict(decoder='sloppy'), "decoder is 'sloppy', must be one of"),
    (dict(decoder='ar', threshold=3), 'threshold is 3'),
    (dict(threshold=1000), 'allowed: 0 to 255 bins'),
    (dict(threads='many'), 'parameter threads must be a whole number'),
    (dict(dtype='int3'), "parameter dtype is 'int3'; allowed: auto, float32"),
    (dict(quantization='int3'), "parameter quantization is 'int3'; allowed: none, int8, int4"),
    (dict(device='abacus'), 'abacus'),
])
def test_bad_parameters_end_it_with_one_line_and_code_2(start, parameters, reason):
    node = start('specvla_ros.nodes.policy_node.node', parameters)
    assert node.wait() == 2
    fatal, = (line for line in node.output.splitlines() if '[FATAL]' in line)
    assert reason in fatal
    assert 'Traceback' not in node.output


def test_a_misspelt_parameter_is_named(robot, start, until):
    node = start(NODE, dict(decodre='ar'))
    node.says("there is no parameter 'decodre'")
