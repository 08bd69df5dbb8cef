"""What the node follows of topic and goals, active or not; on a node that is made up."""
import time
from types import SimpleNamespace

import pytest
from std_msgs.msg import String

from specvla_ros.nodes.policy_node.instruction_subscription import InstructionSubscription
from specvla_ros.nodes.topics import Origin


class Robot:
    """Somebody who speaks on the topic, and the log."""

    def __init__(self):
        self.log, self.replaced, self.now = [], 0, 10**18
        node = SimpleNamespace(
            get_logger=lambda: SimpleNamespace(warning=lambda text, **_: self.log.append(text)),
            resolve_topic_name=lambda name: f'/{name}',
            get_publishers_info_by_topic=lambda topic: [
                SimpleNamespace(endpoint_gid=gid) for gid in (b'boss', b'other')])
        topics = SimpleNamespace(subscribe_to_all=self._subscribe, every=self._every)
        self.instruction = InstructionSubscription(node, topics, self._replace)

    def _subscribe(self, kind, topic, callback, is_latched):
        assert (kind, topic, is_latched) == (String, 'instruction', True)
        self._hear = callback

    def _every(self, period, callback):
        self.listen = callback

    def _replace(self):
        self.replaced += 1

    def say(self, text, number):
        self.now += 1
        for is_kept in (False, True, False):
            self._hear(String(data=text), Origin(self.now, number, is_kept))


class Follower:
    """Keeps what it is told."""

    def __init__(self):
        self.told = []

    def follow(self, instruction):
        self.told.append(instruction)

    def withdraw(self):
        self.told.append(None)


@pytest.fixture
def robot():
    return Robot()


def test_the_newest_word_holds_over_a_deactivation(robot):
    first, second, third = Follower(), Follower(), Follower()
    robot.instruction.set_follower(first)
    assert first.told == []
    robot.say('pick up', 1)
    robot.say(' open ', 2)
    robot.instruction.set_follower(None)
    robot.instruction.set_follower(second)
    robot.instruction.set_follower(None)
    robot.say('close', 3)
    robot.instruction.set_follower(third)
    assert (first.told, second.told, third.told) == (['pick up', 'open'], ['open'], ['close'])
    assert robot.replaced == 3


def test_what_was_withdrawn_stays_so_over_a_deactivation(robot):
    first, second = Follower(), Follower()
    robot.instruction.set_follower(first)
    robot.say('pick up', 7)
    robot.instruction.follow('open')
    robot.instruction.set_follower(None)
    robot.instruction.withdraw()
    robot.say('pick up', 8)
    robot.instruction.set_follower(second)
    assert first.told == ['pick up', 'open']
    assert second.told == ['']


def test_a_text_that_is_only_repeated_is_ignored_with_one_line(robot):
    follower = Follower()
    robot.instruction.set_follower(follower)
    robot.say('pick up', 7)
    robot.instruction.follow('open')
    robot.instruction.withdraw()
    for number in range(8, 30):
        robot.say('pick up', number)
    assert follower.told == ['pick up', 'open', None]
    assert robot.replaced == 1
    line, = robot.log
    assert line.startswith("/instruction: 'pick up' is not followed: it was said before")
    robot.say('put down', 30)
    assert follower.told[3:] == ['put down']


def test_what_could_not_be_heard_while_a_callback_took_long_was_no_pause(robot, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, 'monotonic', lambda: clock.now)
    robot = Robot()
    follower = Follower()
    robot.instruction.set_follower(follower)
    robot.say('pick up', 7)
    robot.instruction.withdraw()
    clock.now = 30.0  # a checkpoint was loaded; the words of the first seconds are lost
    robot.listen()
    for number in range(200, 300):
        robot.say('pick up', number)
    assert follower.told == ['pick up', None]
    for _ in range(10):
        clock.now += 0.5
        robot.listen()
    robot.say('pick up', 300)  # after a pause in which it would have been heard
    assert follower.told == ['pick up', None, 'pick up']


def test_an_empty_text_withdraws(robot):
    follower = Follower()
    robot.instruction.set_follower(follower)
    robot.say('pick up', 1)
    robot.say('  ', 2)
    assert follower.told == ['pick up', '']
    assert 'the instruction is empty' in robot.log[0]


def test_a_kept_text_that_is_older_than_what_holds_is_ignored_with_one_line(robot):
    follower = Follower()
    robot.instruction.set_follower(follower)
    robot.say('pick up', 7)
    for _ in range(3):
        robot._hear(String(data='old'), Origin(robot.now - 5, 1, True))
    assert follower.told == ['pick up']
    line, = robot.log
    assert line.startswith("/instruction: 'old' is not followed: by its publisher's clock it was")
