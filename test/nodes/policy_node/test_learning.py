"""`adapt` on the node: when there is time, what the log says, and a real node that learns."""
import math
import re
import time

from diagnostic_msgs.msg import DiagnosticArray
import pytest

from specvla_ros.nodes.policy_node.learning_parameters import (
    LEARNING_PARAMETERS,
    LearningSettings,
)
from specvla_ros.nodes.policy_node.pilot import Pilot
from specvla_ros.nodes.policy_node.settings import pick
from specvla_ros.nodes.qos import STREAM
from specvla_ros.safety_settings import SafetySettings

NODE = 'specvla_ros.nodes.policy_node.node'
PERIOD = 0.05


def settings(**changes):
    values = {it.name: it.default for it in LEARNING_PARAMETERS}
    return pick(LearningSettings, values | changes)


def test_it_is_off_by_default_and_bounded():
    assert settings().online is None
    online = settings(adapt=True).online
    assert (online.learner.actions, online.learner.window) == (2000, 200)
    assert (online.idle.threads, online.idle.share, online.out) == (1, 0.5, None)


def test_a_window_longer_than_what_is_kept_is_refused():
    with pytest.raises(ValueError, match='a window of 200 actions, of 100 that are kept'):
        settings(adapt=True, adapt_actions=100).online  # noqa: B018


class Arm:
    def move(self, steps):
        return self.now()

    def stand_still(self, gripper, keeps_target):
        pass


def test_there_is_no_time_from_an_image_that_may_be_acted_on_until_its_answer():
    now, arm = [10.0], Arm()
    arm.now = lambda: now[0]
    pilot = Pilot(None, SafetySettings.read(), PERIOD, 0.0, 'realtime', arm, arm.now,
                  lambda: int(now[0] * 1e9))
    assert pilot.idle_s == math.inf  # no camera yet
    pilot.follow('pick up')
    now[0] = 11.0
    pilot.see('image', int(11e9))
    assert pilot.may_take and pilot.idle_s == 0.0  # pending
    inference = pilot.take()
    assert pilot.idle_s == 0.0  # under way
    now[0] = 11.02
    pilot.give_up(inference)
    assert pilot.idle_s == pytest.approx(0.03)  # until the camera's next image is expected
    now[0] = 11.2
    assert pilot.idle_s == math.inf  # the camera is late: nothing is to be done


@pytest.mark.alone
def test_a_real_node_learns_and_says_so_until_it_is_cleaned_up(robot, start, until, tmp_path):
    robot.probe.hear(DiagnosticArray, '/diagnostics', STREAM)
    node = start(NODE, dict(decoder='glance', adapt='true', adapt_window='20',
                            adapt_actions='100', adapt_share='1.0', threads='1'))
    robot.connect(until)
    robot.say('pick up the milk and place it in the basket')

    def kept():
        robot.see(len(robot.actions) % 200, 50, 90, size=64)
        time.sleep(0.2)  # a slow machine has no time left between images that come at once
        values = [{item.key: item.value for item in status.values}
                  for message in robot.probe.heard['/diagnostics'] for status in message.status]
        said = values[-1].get('learning', '') if values else ''
        counts = [int(number) for number in re.findall(r'(\d+) (?:action|step)', said)]
        return len(counts) == 2 and counts[0] > 0 and counts[1] > 1

    until(lambda: kept(), 'actions that are learned from')
    answer = robot.probe.set_parameters(adapt=False)
    assert not answer.successful and 'read-only while the node is configured' in answer.reason
    robot.probe.set_parameters(decoder='glance_relaxed')
    robot.see(1, 2, 3, size=64)
    until(lambda: robot.see(4, 5, 6, size=64) and
          'adapt: nothing is learned: decoder glance_relaxed is relaxed' in node.output, 'why')
    assert node.interrupt() == 0
