"""`policy_node` as a lifecycle manager sees it: transitions, and what holds in each state."""
from pathlib import Path
import time

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
import pytest

from specvla_ros.config_folder import config_folder

NODE = 'fake_policy_node.py'
MB = 100


@pytest.fixture
def go(probe):
    """Give a function that asks for a transition and says whether it was made."""
    def go(transition):
        request = ChangeState.Request()
        request.transition.id = getattr(Transition, f'TRANSITION_{transition.upper()}')
        return probe.call(ChangeState, 'policy_node/change_state', request).success
    return go


@pytest.fixture
def state(probe):
    """Give a function that returns the node's state."""
    return lambda: probe.call(
        GetState, 'policy_node/get_state', GetState.Request()).current_state.label


@pytest.fixture
def set_checkpoint(probe):
    """Give a function that sets the parameter, and returns the answer."""
    return lambda value: probe.set_parameters(checkpoint=value)


def test_acts_only_while_active(robot, start, until, wait_for_act, go, state):
    start(NODE, dict(autostart='false'), FAKE_ACT_S='0.5')
    assert state() == 'unconfigured'
    assert go('configure')
    assert not robot.probe.node.count_publishers('action')
    assert go('activate')
    robot.connect(until)
    robot.say('pick up')
    robot.see(1, 2, 3)
    robot.wait_for_actions(1)
    robot.see(2, 2, 3)
    time.sleep(0.1)  # the second inference is under way
    assert go('deactivate')
    count = len(robot.actions)
    robot.watch(3, 2, 3, seconds=1)
    assert (len(robot.actions), state()) == (count, 'inactive')
    until(lambda: not robot.probe.node.count_publishers('action'), 'the topic is gone')
    assert go('activate')
    robot.connect(until)
    robot.see(4, 2, 3)  # the instruction was latched
    robot.wait_for_actions(count + 1)
    assert [action.sequence for action in robot.actions[count:]] == [0]
    assert go('active_shutdown')
    assert state() == 'finalized'


@pytest.mark.parametrize('wrong, reason', [
    ('/no/such', ['could not configure: /no/such: no such folder']),
    ('broken', ['could not configure: Traceback', 'RuntimeError: a bug']),
])
def test_what_went_wrong_is_said_and_can_be_set_right(
        start, go, state, set_checkpoint, wrong, reason):
    node = start(NODE, dict(autostart='false', checkpoint=wrong))
    assert not go('configure')
    for text in reason:
        node.says(text)
    assert state() == 'unconfigured'
    assert set_checkpoint('').successful
    assert go('configure')
    refused = set_checkpoint('/no/such')
    assert not refused.successful and 'clean it up first' in refused.reason
    assert go('activate')


def test_an_activation_that_fails_says_why_leaves_nothing_behind_and_can_be_tried_again(
        robot, start, until, go, state, tmp_path):
    envelope = tmp_path / 'envelope.yaml'
    good = (config_folder() / 'safety.yaml').read_text()
    envelope.write_text(good)
    node = start(NODE, dict(autostart='false', safety=envelope))
    assert go('configure')
    envelope.write_text(good.replace('fallback: none', 'fallback: jump'))
    assert not go('activate')
    node.says(f'could not activate: {envelope}: ')
    node.says("fallback is 'jump', must be one of none, hold, zero")
    assert state() == 'inactive'
    assert not robot.probe.node.count_publishers('action')
    envelope.write_text(good)
    assert go('activate')
    robot.connect(until)
    robot.say('pick up')
    robot.see(1, 2, 3)
    robot.wait_for_actions(1)


def test_a_transition_that_there_is_not_is_refused_and_harms_nothing(start, go, state):
    node = start(NODE)
    assert not go('configure')  # it started by itself
    node.says(f'no transition {Transition.TRANSITION_CONFIGURE} from the present state')
    assert state() == 'active'


def resident_mb(pid):
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    return pages * 4096 / 1e6


def test_cleaning_up_gives_the_memory_back_also_after_acting(robot, start, until, go, state):
    node = start(NODE, FAKE_MB=str(MB))
    robot.connect(until)
    robot.say('pick up')
    robot.see(1, 2, 3)
    robot.wait_for_actions(1)
    assert state() == 'active'
    full = resident_mb(node.popen.pid)
    assert go('deactivate') and go('cleanup')
    assert resident_mb(node.popen.pid) < full - 0.9 * MB
    assert go('configure') and go('activate')


def test_ends_cleanly_while_a_transition_loads(probe, start, until):
    node = start(NODE, dict(autostart='false'), FAKE_LOAD_S='60')
    client = probe.node.create_client(ChangeState, 'policy_node/change_state')
    assert client.wait_for_service(120)
    request = ChangeState.Request()
    request.transition.id = Transition.TRANSITION_CONFIGURE
    client.call_async(request)
    time.sleep(0.5)
    started = time.monotonic()
    assert node.interrupt() == 0
    assert time.monotonic() - started < 10
    assert 'Traceback' not in node.output


def test_ends_cleanly_while_a_change_of_decoder_loads(robot, start, until, tmp_path):
    node = start(NODE, FAKE_DECODER_S='3')
    robot.connect(until)
    log = tmp_path / 'fake.log'
    robot.probe.begin_to_set_parameters(decoder='ar')
    until(lambda: log.exists() and 'load a decoder' in log.read_text(), 'a load under way')
    assert node.interrupt() == 0
    assert 'Traceback' not in node.output
