"""`Actor` between topics and `Pilot`, with made-up topics in place of DDS."""
from collections import Counter
from dataclasses import replace
import math
import threading
import time
from types import SimpleNamespace

from geometry_msgs.msg import PoseStamped, TwistStamped
import numpy as np
import pytest
from rclpy.clock import Clock
from sensor_msgs.msg import Image
from specvla_ros.msg import ActionDelta, DecodeReport
from std_msgs.msg import Float32

from specvla_ros.components import Component
from specvla_ros.configuration import load_preset
from specvla_ros.data_sets import load_dataset
from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes.conversions import fill_image, to_nanoseconds
from specvla_ros.nodes.diagnostics import Statistics
from specvla_ros.nodes.main_thread import MainThread
from specvla_ros.nodes.policy_node import silence
from specvla_ros.nodes.policy_node.actor import Actor
from specvla_ros.nodes.policy_node.settings import pick, TOPIC_PARAMETERS, TopicSettings
from specvla_ros.safety import step_limits
from specvla_ros.safety_settings import SafetySettings

PERIOD = 0.05


class Log:

    def __init__(self):
        self.lines = []

    def info(self, text, **_):
        self.lines.append(text)

    warning = error = info


class FakeTopics:
    """Says what is heard to the subscribers at once, and keeps what is published."""

    def __init__(self):
        self.published, self.callbacks, self.looks = [], {}, []

    def publisher(self, kind, topic, profile):
        return SimpleNamespace(publish=self.published.append)

    def subscribe(self, kind, topic, callback, profile, way_out):
        self.callbacks[topic.strip('/')] = callback

    def subscribe_to_all(self, kind, topic, callback, is_latched=False):
        self.callbacks[topic] = callback

    def must_be_alone(self, topic):
        pass

    def must_hear(self, kind, topic):
        pass

    def sibling(self):
        return self

    def every(self, period, callback):
        self.looks.append(callback)

    def alarm(self, callback):
        return FakeAlarm(callback)

    def add(self, end):
        pass

    def destroy(self):
        pass


class FakeAlarm:

    def __init__(self, callback):
        self._callback, self._timer = callback, None

    def set(self, delay):
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(max(0.0, delay), self._callback)
        self._timer.daemon = True
        self._timer.start()


class FakePolicy:
    """Moves 1 mm along x for each step of a chunk; remembers what it was asked."""

    def __init__(self, chunk=1):
        self.dataset, self.decoder_config = load_dataset('libero_object'), load_preset('relaxed')
        self.chunk = self.execute_steps = chunk
        self.calls, self.executed, self.risk = [], [], 0.1

    def act(self, image, instruction, stamp=None, eef_position=None, limits=None,
            executed=None):
        self.executed.append(executed)
        self.calls.append((int(image[0, 0, 0]), instruction))
        self.eef_position, self.limits = eef_position, limits
        si = np.zeros((self.chunk, 7), np.float32)
        si[:, 0] = 1e-3 * np.arange(1, self.chunk + 1)
        if image[0, 0, 0] == 13:
            si[-1, 1] = np.nan
        trace = SimpleNamespace(target_passes=3, drafted=8, accepted=4, acceptance_lengths=[2, 4],
                                sources=['target'] * 7 * self.chunk, stage_ms={'verify': 5.0},
                                origins=['chosen'] * 7 * self.chunk, bins_off=[0] * 7 * self.chunk,
                                si_off=[0.0] * 7 * self.chunk, forbidden=0, decoder='', reason='',
                                risk=self.risk)
        return SimpleNamespace(
            tokens=tuple(range(7 * self.chunk)), normalized=si, si=si, trace=trace)

    def reset(self):
        self.calls.append('reset')


class Rig:
    """An actor and everything around it; without `main`, inference runs in a thread of its own."""

    def __init__(self, policy, topics=None, main=None, **settings):
        values = {parameter.name: parameter.default for parameter in TOPIC_PARAMETERS}
        self.log, self.topics, self.policy = Log(), topics or FakeTopics(), policy
        self.statistics, self.noted = Statistics(), []
        node = SimpleNamespace(
            get_clock=Clock, get_logger=lambda: self.log, resolve_topic_name=lambda name: name,
            count_publishers=lambda name: 1, get_publishers_info_by_topic=lambda name: [],
            get_topic_names_and_types=list, get_fully_qualified_name=lambda: '/policy_node')
        goals = SimpleNamespace(note=lambda *noted: self.noted.append(noted), end=lambda _: None)
        if main is None:
            main = MainThread()
            threading.Thread(target=main.run, daemon=True).start()
        self.actor = Actor(
            node, self.topics, main, policy, pick(TopicSettings, {**values, **settings}),
            SafetySettings.read(), self.statistics, goals)
        self.actor.follow('pick up')

    def see(self, red=1):
        message = Image()
        fill_image(message, np.full((16, 16, 3), red, np.uint8))
        now = time.time_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(now, 10**9)
        self.topics.callbacks['image'](message)
        return now

    def heard(self, kind):
        return [message for message in self.topics.published if isinstance(message, kind)]

    @property
    def actions(self):
        return self.heard(ActionDelta)


@pytest.fixture
def make_rig():
    rigs = []

    def make_rig(chunk=1, **settings):
        rigs.append(Rig(FakePolicy(chunk), **settings))
        return rigs[-1]

    yield make_rig
    for rig in rigs:
        rig.actor.close()


def test_images_of_200_hz_make_a_step_a_period_each_with_a_report(make_rig, until):
    rig = make_rig()
    begun = time.monotonic()
    while len(rig.actions) < 6:
        rig.see()
        time.sleep(0.005)
        assert time.monotonic() < begun + 60
    rig.actor.pause()  # what is being published is, when this returns
    stamps = [to_nanoseconds(action.header.stamp) for action in rig.actions]
    assert np.diff(stamps).min() > PERIOD * 1e9 - 1e5  # two clocks are compared
    assert len(rig.heard(DecodeReport)) == len(rig.noted) == len(rig.actions)
    assert not any('pacing' in line for line in rig.log.lines)
    report = rig.heard(DecodeReport)[-1]
    assert 0 < report.publish_time < report.total_time
    assert [action.sequence for action in rig.actions] == list(range(len(rig.actions)))
    assert len([call for call in rig.policy.calls if call != 'reset']) <= len(rig.actions) + 1


def test_in_lockstep_every_image_is_answered_at_once(make_rig, until):
    rig, stamps = make_rig(chunk=3, pacing='lockstep'), []
    for number in range(20):
        stamps.append(rig.see())
        until(lambda count=number + 1: len(rig.actions) == count, 'the answer')
    assert [to_nanoseconds(action.image_stamp) for action in rig.actions] == stamps
    assert {len(action.translation) for action in rig.actions} == {3}
    assert 'an arm needs pacing:=realtime' in rig.log.lines[0]


def test_a_chunk_is_published_step_by_step_with_one_report(make_rig, until):
    rig = make_rig(chunk=3)
    time.sleep(PERIOD)
    rig.see()
    until(lambda: len(rig.actions) == 3, 'the last step')
    assert [round(1e3 * action.translation[0].x) for action in rig.actions] == [1, 2, 3]
    assert [list(action.token_ids) for action in rig.actions] == [
        list(range(7 * k, 7 * k + 7)) for k in range(3)]
    assert len(rig.heard(DecodeReport)) == 1
    time.sleep(2 * PERIOD)
    assert len(rig.actions) == 3


def film(rig, seconds, rate=40):
    """Be a camera for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rig.see()
        time.sleep(1 / rate)


def test_four_of_eight_steps_are_executed_and_the_policy_is_told_how_many(make_rig):
    rig = make_rig(chunk=8, execute_steps=4, publish_twist=True)
    film(rig, 1.5)
    rig.actor.pause()
    steps = [(to_nanoseconds(action.image_stamp), action.first_step) for action in rig.actions]
    assert len(set(steps)) == len(steps) and steps == sorted(steps)
    assert {len(action.translation) for action in rig.actions} == {1}
    for action in rig.actions[:-1]:  # the last one says to stand still
        assert round(1e3 * action.translation[0].x) == action.first_step + 1
    twists = [twist.twist.linear.x for twist in rig.heard(TwistStamped)]
    assert twists[:-1] == pytest.approx(
        [action.translation[0].x / PERIOD for action in rig.actions[:-1]])
    answers = Counter(image for image, _ in steps[:-1])
    assert 3 <= np.median(list(answers.values())) <= 5
    told = [count for count in rig.policy.executed if count is not None]
    assert rig.policy.executed[0] is None and 3 <= np.median(told) <= 5


class GraspingPolicy(FakePolicy):
    """Closes the gripper from one step of its first action on, and for good."""

    def act(self, *args, **more):
        is_first = not self.executed
        action = super().act(*args, **more)
        action.si[:, 6] = np.arange(self.chunk) < 2 if is_first else 0.0
        return action


def test_targets_and_gripper_follow_each_step_and_a_seam_tells_the_gripper_nothing():
    rig = Rig(GraspingPolicy(chunk=8), execute_steps=4, publish_pose=True, publish_gripper=True)
    pose = PoseStamped()
    pose.header.frame_id, pose.pose.position.x, pose.pose.orientation.w = 'panda_link0', 0.4, 1.0
    try:
        for _ in range(10):
            rig.topics.callbacks['current_pose'](pose)  # it is known for some periods only
            film(rig, 0.1)
        rig.actor.pause()
        actions = [action for action in rig.actions if action.token_ids]
        targets, told = rig.heard(PoseStamped), [it.data for it in rig.heard(Float32)]
    finally:
        rig.actor.close()
    assert len({to_nanoseconds(action.image_stamp) for action in actions}) > 2  # several seams
    aims = {to_nanoseconds(target.header.stamp): target.pose.position.x for target in targets}
    steps = {to_nanoseconds(action.header.stamp): action.translation[0].x for action in actions}
    aimed = [stamp for stamp in steps if stamp in aims]
    assert len(aimed) > len(steps) / 2  # on a busy machine the pose may be too old for some
    assert [aims[stamp] - 0.4 for stamp in aimed] == pytest.approx(
        [steps[stamp] for stamp in aimed])
    grips = [action.gripper[0] for action in actions]
    assert told == [grip for before, grip in zip([None, *grips], grips) if grip != before]
    assert told[-1] == 0.0 and len(told) <= 2


class LoosePolicy(FakePolicy):
    """Says that only so many of the steps are as close as the first."""

    def __init__(self, close):
        super().__init__(chunk=8)
        rule = Component('bins', {'r': 9, 'per_step': 3})
        self.decoder_config = load_preset('relaxed').with_rule(rule)
        self.close, self.firm = close, []

    def act(self, *args, firm_steps, **more):
        self.firm.append(firm_steps)
        action = super().act(*args, **more)
        action.trace.firm_steps = self.close
        return action


@pytest.mark.parametrize('close', [None, 2])
def test_steps_accepted_less_closely_are_not_executed_however_late_the_next_answer_is(close):
    policy = LoosePolicy(close)
    rig = Rig(policy, execute_steps=4)
    try:
        film(rig, 0.6)
        time.sleep(4 * PERIOD)  # no further image, so no further answer
        numbers = [action.first_step for action in rig.actions if action.token_ids]
    finally:
        rig.actor.close()
    assert policy.firm[0] is None  # nothing is known of the machine yet
    # E = 4 and the steps missed, one or more: a busy machine misses more.
    assert all(firm >= 5 for firm in policy.firm[1:]) and len(policy.firm) > 1
    assert max(numbers) == 1 if close else 3 <= max(numbers) < 8


def test_in_lockstep_the_message_holds_what_is_to_be_executed_and_says_when(make_rig, until):
    rig = make_rig(chunk=8, execute_steps=3, latency_s=0.1, pacing='lockstep')
    for number in range(3):
        rig.see()
        until(lambda count=number + 1: len(rig.actions) == count, 'the answer')
    for action in rig.actions:
        assert (action.first_step, len(action.gripper), len(action.token_ids)) == (2, 3, 21)
        assert [round(1e3 * step.x) for step in action.translation] == [3, 4, 5]
    assert rig.policy.executed == [None, 3, 3]


def test_an_answer_that_is_over_when_it_comes_says_its_last_step_late(make_rig, until):
    rig = make_rig(chunk=2, latency_s=0.3, pacing='lockstep')
    rig.see()
    until(lambda: rig.actions, 'the answer')
    action, = rig.actions
    assert (action.first_step, len(action.gripper), list(action.token_ids)) == (
        6, 1, list(range(7, 14)))


@pytest.mark.parametrize('settings, message', [
    ({'execute_steps': 9}, 'execute_steps is 9, must be from 1 to 8'),
    ({'latency_s': 0.1}, 'latency_s is 0.1, must be 0 with pacing realtime')])
def test_what_can_not_be_executed_is_refused(settings, message):
    with pytest.raises(SpecVLAError, match=message):
        Rig(FakePolicy(8), **settings)


def test_a_stop_ends_a_chunk(make_rig, until):
    rig = make_rig(chunk=20)
    time.sleep(PERIOD)
    rig.see()
    until(lambda: len(rig.actions) >= 2, 'two steps')
    rig.actor.pause()
    count = len(rig.actions)
    time.sleep(3 * PERIOD)
    assert len(rig.actions) == count < 20


def test_what_is_refused_is_forgotten_counted_and_said_once(make_rig, until):
    rig = make_rig()
    time.sleep(PERIOD)
    rig.see(13)
    until(lambda: rig.statistics.read()[0]['refused'] == 1, 'a refusal')
    rig.see(2)
    until(lambda: rig.actions, 'an action')
    assert any('the action is not finite' in line for line in rig.log.lines)
    assert rig.policy.calls == [
        'reset', (13, 'pick up'), 'reset', (2, 'pick up')]


def test_what_was_refused_is_the_fault_until_there_is_an_action_or_nothing_to_act_on(
        make_rig, until):
    rig = make_rig()
    time.sleep(PERIOD)
    rig.see(13)
    until(lambda: rig.actor.fault, 'a fault')
    assert rig.actor.fault.startswith('no action: the action is not finite')
    rig.see(2)
    until(lambda: rig.actions, 'an action')
    assert rig.actor.fault == ''
    for end in (rig.actor.withdraw, rig.actor.pause):
        rig.actor.resume()
        rig.actor.follow('pick up')
        rig.see(13)
        until(lambda: rig.actor.fault, 'a fault')
        end()
        assert rig.actor.fault == ''


def test_a_risk_above_the_parameter_is_refused_and_the_fallback_holds(make_rig, until):
    rig = make_rig(fallback_above_risk=0.3)
    for number, risk in enumerate((0.31, math.nan), start=1):
        rig.policy.risk = risk
        time.sleep(PERIOD)
        rig.see()
        until(lambda number=number: rig.statistics.read()[0]['refused'] == number, 'a refusal')
        assert rig.actor.fault.startswith(
            f'no action: the risk of the action is {risk:.3f}, must be at most '
            'fallback_above_risk, 0.3: the target is unsure')
    assert rig.heard(DecodeReport) == []
    rig.policy.risk = 0.3
    rig.see(2)
    until(lambda: any(action.token_ids for action in rig.actions), 'an action')
    assert rig.actor.fault == ''
    assert rig.heard(DecodeReport)[0].risk == pytest.approx(0.3)


def test_without_a_limit_no_risk_is_refused(make_rig, until):
    rig = make_rig()
    rig.policy.risk = math.nan
    time.sleep(PERIOD)
    rig.see()
    until(lambda: rig.actions, 'an action')


def test_a_pose_that_falls_silent_is_a_fault_and_one_that_never_came_is_none(
        make_rig, monkeypatch):
    rig = make_rig()
    now = time.monotonic()
    monkeypatch.setattr(silence.time, 'monotonic', lambda: now)

    def look(seconds):
        nonlocal now
        now += seconds
        rig.actor._no_image.note()
        rig.topics.looks[-1]()
        return rig.actor.fault

    assert look(10.0) == ''
    pose = PoseStamped()
    pose.header.frame_id, pose.pose.orientation.w = 'panda_link0', 1.0
    rig.topics.callbacks['current_pose'](pose)
    assert look(4.0) == ''
    assert look(2.0).startswith('no current_pose (the walls hold by the last one and the steps ')
    rig.topics.callbacks['current_pose'](pose)
    assert look(1.0) == ''


def test_the_policy_is_told_where_the_arm_is_and_what_the_envelope_leaves(make_rig, until):
    rig = make_rig()
    rig.actor._pilot.hear_position(np.array([0.5, 0.1, 0.2]))
    time.sleep(PERIOD)
    rig.see()
    until(lambda: rig.actions, 'an action')
    safety = SafetySettings.read()
    assert rig.policy.eef_position == (0.5, 0.1, 0.2)
    assert rig.policy.limits == step_limits(safety, PERIOD, position_m=(0.5, 0.1, 0.2))
    rig.see()
    until(lambda: len(rig.actions) == 2, 'another')
    assert rig.policy.eef_position == pytest.approx((0.501, 0.1, 0.2))  # 1 mm along x
    assert rig.policy.limits.before == pytest.approx((1e-3, 0, 0, 0, 0, 0))


def test_without_the_guard_the_policy_is_told_no_limits(make_rig, until):
    rig = make_rig(guard=False)
    time.sleep(PERIOD)
    rig.see()
    until(lambda: rig.actions, 'an action')
    assert rig.policy.limits is None


class Interrupted(FakeTopics):
    """Raises what Ctrl-C raises, right before or after the nth message is published."""

    def __init__(self, number, is_after):
        super().__init__()
        self._number, self._is_after = number, is_after

    def publisher(self, kind, topic, profile):
        return SimpleNamespace(publish=self._publish)

    def _publish(self, message):
        self._number -= 1
        if self._number == 0 and not self._is_after:
            raise KeyboardInterrupt
        self.published.append(message)
        if self._number == 0:
            raise KeyboardInterrupt


def end(actor):
    """End it as the process does."""
    try:
        actor.pause()
    except KeyboardInterrupt:  # the second one
        pass
    actor.close()


@pytest.mark.parametrize('is_after', [False, True])
@pytest.mark.parametrize('number', range(1, 9))
def test_wherever_ctrl_c_comes_the_last_word_is_to_stand_still(number, is_after):
    """Five messages are published for an action: 1 to 5; then those that end it."""
    topics, calls = Interrupted(number, is_after), []
    rig = Rig(FakePolicy(), topics, SimpleNamespace(post=calls.append), pacing='lockstep',
              publish_twist=True, publish_pose=True, publish_gripper=True)
    rig.actor.set_safety(replace(SafetySettings.read(), fallback='zero'))
    pose = PoseStamped()
    pose.header.frame_id, pose.pose.position.x, pose.pose.orientation.w = 'panda_link0', 0.4, 1.0
    rig.topics.callbacks['current_pose'](pose)
    rig.see()
    act, = calls
    try:
        act()
    except KeyboardInterrupt:
        assert number <= 5
    else:
        assert number > 5
    end(rig.actor)
    assert rig.actions[-1].translation[0].x == 0 and not rig.actions[-1].token_ids
    sequence = [action.sequence for action in rig.actions]
    assert sequence == sorted(set(sequence))
    assert rig.heard(TwistStamped)[-1].twist.linear.x == 0
    assert rig.heard(PoseStamped)[-1].pose.position.x == 0.4
