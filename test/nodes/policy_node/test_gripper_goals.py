"""The gripper as goals. `control_msgs` is no wheel: a stand-in has its names, not its types."""
import os
from pathlib import Path
import sys
import threading
import time
from types import ModuleType, SimpleNamespace

from action_msgs.msg import GoalStatus
from action_msgs.srv import CancelGoal
import pytest
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes import qos
from specvla_ros.nodes.policy_node import gripper_goals
from specvla_ros.nodes.policy_node.gripper_goals import full_action_name, GripperGoals

NODE = 'fake_policy_node.py'
STAND_IN = Path(__file__).parents[1] / 'stand_in'
OPENED, CLOSED = (0.04, 20.0), (0.0, 20.0)
NAME = '/left/gripper_cmd'


class Goal:
    """As control_msgs/action/GripperCommand.Goal: command has position and max_effort."""

    def __init__(self):
        self.command = SimpleNamespace(position=0.0, max_effort=0.0)


class Future:
    """What the test answers when it likes."""

    def __init__(self):
        self.hear = None

    def add_done_callback(self, hear):
        self.hear = hear

    def answer(self, value):
        self.hear(SimpleNamespace(result=lambda: value))


class Handle:
    """
    A goal at the controller, and what it says of it.

    status: as the status topic has it. results: one for each time that the result was asked for.
    """

    def __init__(self, accepted=True):
        self.accepted, self.status, self.results = accepted, GoalStatus.STATUS_EXECUTING, []

    def get_result_async(self):
        self.results.append(Future())
        return self.results[-1]

    def ends(self, status, stalled=False, asked=0):
        """End, and answer one of the questions for the result."""
        self.status = status or self.status
        self.results[asked].answer(SimpleNamespace(
            status=status, result=SimpleNamespace(stalled=stalled, position=0.01)))


class Controller:
    """An action client, the controller behind it, the graph and the clock."""

    def __init__(self, node, action, name):
        self.name, self.sent, self.ids, self.answers = name, [], [], []
        self.accepts, self.is_destroyed = True, False

    def server_is_ready(self):
        return True  # also for one that was killed

    def send_goal_async(self, goal, goal_uuid):
        assert not self.is_destroyed
        self.ids.append(bytes(goal_uuid.uuid))
        self.sent.append((goal.command.position, goal.command.max_effort))
        self.answers.append(Future())
        return self.answers[-1]

    def answer(self):
        handle = Handle(self.accepts)
        self.answers[-1].answer(handle)
        return handle

    def destroy(self):
        self.is_destroyed = True


class Timers:
    """What `Topics` is to the goals: a timer twice a second."""

    def __init__(self, world):
        self._looks = []
        world.timers.append(self._looks)
        self.sibling = lambda: Timers(world)

    def add(self, end):
        pass

    def every(self, period, look):
        assert period == 0.5
        self._looks.append(look)

    def destroy(self):
        self._looks.clear()


class CancelService:
    """
    The controller's `cancel_goal`: which goals it was asked to cancel, and what it says.

    lost: so many of the next requests, or their answers, get lost; code: of its answers; cancels:
    it does what it is asked for; is_there: it was not destroyed.
    """

    def __init__(self, world):
        self._world, self.asked, self.lost, self.is_there = world, [], 0, True
        self.code, self.cancels = CancelGoal.Response.ERROR_NONE, True

    def service_is_ready(self):
        return bool(self._world.servers)

    def call_async(self, request):
        assert self.is_there
        assert (request.goal_info.stamp.sec, request.goal_info.stamp.nanosec) == (0, 0)
        self.asked.append(bytes(request.goal_info.goal_id.uuid))
        future, self.lost = Future(), self.lost - 1
        if self.lost < 0:
            answer = CancelGoal.Response(return_code=self.code)
            if self.code == answer.ERROR_NONE and self.cancels:
                answer.goals_canceling = [request.goal_info]
            self._world.tasks.append((lambda: future.hear and future.answer(answer), ()))
        return future

    def remove_pending_request(self, future):
        future.hear = None


@pytest.fixture
def world(monkeypatch):
    """Give what is around the goals: the log, the servers, the executor's tasks, the time."""
    world = SimpleNamespace(log=[], servers=['first'], tasks=[], now=100.0, timers=[])
    monkeypatch.setattr(gripper_goals.time, 'monotonic', lambda: world.now)
    world.cancel = CancelService(world)
    return world


@pytest.fixture
def goals(monkeypatch, world):
    module = ModuleType('control_msgs.action')
    module.GripperCommand = SimpleNamespace(Goal=Goal)
    monkeypatch.setitem(sys.modules, 'control_msgs', ModuleType('control_msgs'))
    monkeypatch.setitem(sys.modules, 'control_msgs.action', module)
    monkeypatch.setattr(gripper_goals, 'ActionClient', Controller)

    def note(text, **_):
        world.log.append(text)

    def servers_of(topic):
        assert topic == NAME + '/_action/status'
        return [SimpleNamespace(endpoint_gid=name.encode()) for name in world.servers]

    def create_client(kind, name):
        assert (kind, name) == (CancelGoal, NAME + '/_action/cancel_goal')
        return world.cancel

    def destroy_client(client):
        client.is_there = False

    node = SimpleNamespace(
        create_client=create_client, destroy_client=destroy_client,
        get_logger=lambda: SimpleNamespace(warning=note, error=note, info=note),
        get_name=lambda: 'policy_node', get_namespace=lambda: '/left',
        resolve_topic_name=lambda name: name, get_publishers_info_by_topic=servers_of,
        executor=SimpleNamespace(
            create_task=lambda task, *arguments: world.tasks.append((task, arguments))))
    return GripperGoals(node, Timers(world), 'gripper_cmd', opened=0.04, closed=0.0, effort=20.0)


@pytest.fixture
def client(goals):
    return goals._client


def begin_to_open(goals, client, run):
    """Let a goal to open be sent and accepted."""
    goals.put(1.0)
    run()
    client.answer()



@pytest.fixture
def run(world, goals):
    """Give a function that lets time pass: tasks run, and the look comes twice a second."""
    def run(seconds=0.0):
        end = world.now + seconds
        while True:
            while world.tasks:
                task, arguments = world.tasks.pop(0)
                task(*arguments)
            if world.now >= end:
                return
            world.now += 0.5
            for look in [look for looks in world.timers for look in looks]:
                look()
    return run


def test_each_change_is_one_goal(goals, client, run, world):
    for state in (None, 1.0, None, None, 0.0, None):
        goals.put(state)
        run(2.0)
        if client.sent:
            client.answer()
    assert client.name == 'gripper_cmd'
    assert client.sent == [OPENED, CLOSED]
    assert world.log == []


def test_the_gripper_is_told_once_a_server_comes(goals, client, run, world):
    world.servers = []
    goals.put(1.0)
    goals.put(0.0)
    run(3.0)
    assert client.sent == []
    assert goals.fault == f'no node serves {NAME}'
    world.servers = ['first']
    run(1.0)  # without another action
    client.answer()
    goals.put(None)
    run(5.0)
    assert client.sent == [CLOSED]
    assert f'no node serves {NAME}' in world.log[0]
    assert goals.fault == ''


@pytest.mark.parametrize('killed', [True, False])
def test_a_server_that_was_started_again_is_told_the_present_state(
        goals, client, run, world, killed):
    goals.put(0.0)
    run()
    client.answer().ends(GoalStatus.STATUS_SUCCEEDED)
    run(5.0)
    assert client.sent == [CLOSED]
    # one that was killed is still in the graph for a while
    world.servers = ['first', 'second'] if killed else ['second']
    run(1.0)
    client.answer()
    world.servers = ['second']
    run(5.0)
    assert client.sent == [CLOSED, CLOSED]
    assert world.log == [f'{NAME} has a new server: the gripper is told its state again']


def test_a_goal_that_a_killed_server_never_answers_is_repeated_and_told_to_the_next(
        goals, client, run, world):
    goals.put(0.0)
    run()
    client.answer()
    goals.put(1.0)
    run(30.0)
    assert client.sent == [CLOSED, OPENED, OPENED, OPENED]
    assert sum('gave no answer to the goal within 2 s' in line for line in world.log) == 3
    assert 'given up until the gripper is to change' in world.log[-1]
    assert goals.fault == f'{NAME} gave no answer to the goal within 2 s'
    world.servers = ['first', 'second']
    run(1.0)
    client.answer()
    assert client.sent[4:] == [OPENED]
    assert goals.fault == ''


@pytest.mark.parametrize('end', ['rejected', 'aborted'])
def test_a_goal_that_is_rejected_or_aborted_is_sent_three_times_in_all(
        goals, client, run, world, end):
    client.accepts = end == 'aborted'
    goals.put(1.0)
    run()
    for _ in range(3):
        handle = client.answer()
        if client.accepts:
            handle.ends(GoalStatus.STATUS_ABORTED)
        goals.put(None)
        run(1.5)
    run(10.0)
    assert client.sent == [OPENED] * 3
    assert [f'{NAME} {end} the goal ({times} of 3 times)' in line
            for times, line in enumerate(world.log, start=1)] == [True] * 3
    assert goals.fault == f'{NAME} {end} the goal'
    goals.put(0.0)
    run()
    client.accepts = True
    client.answer().ends(GoalStatus.STATUS_SUCCEEDED)
    assert client.sent[3:] == [CLOSED]
    assert goals.fault == ''


def test_fingers_that_stall_hold_something_and_are_not_told_again(goals, client, run, world):
    goals.put(0.0)
    run()
    client.answer().ends(GoalStatus.STATUS_ABORTED, stalled=True)
    run(10.0)
    assert (client.sent, goals.fault) == ([CLOSED], '')
    assert 'stalled at 0.01' in world.log[0]


def test_a_goal_that_another_client_cancelled_is_not_sent_again(goals, client, run, world):
    goals.put(0.0)
    run()
    client.answer().ends(GoalStatus.STATUS_CANCELED)
    run(10.0)
    assert client.sent == [CLOSED]
    assert goals.fault == f'{NAME}: another client cancelled the goal'


def test_the_end_of_a_goal_that_was_replaced_says_nothing(goals, client, run, world):
    goals.put(0.0)
    run()
    old = client.answer()
    begin_to_open(goals, client, run)
    old.ends(GoalStatus.STATUS_ABORTED)
    run(10.0)
    assert client.sent == [CLOSED, OPENED]
    assert world.log == []


@pytest.mark.parametrize('stalled', [False, True])
def test_the_end_of_a_goal_is_asked_for_again_where_the_answer_was_lost(
        goals, client, run, world, stalled):
    goals.put(0.0)
    run()
    closing = client.answer()
    run(10.0)
    assert len(closing.results) == 1  # it is under way
    closing.status = GoalStatus.STATUS_ABORTED
    run(0.5)
    assert len(closing.results) == 2
    closing.ends(GoalStatus.STATUS_ABORTED, stalled, asked=1)
    closing.ends(GoalStatus.STATUS_ABORTED, stalled, asked=0)  # it was late, not lost
    run(1.5)
    assert client.sent == [CLOSED] * (1 if stalled else 2)
    assert len(world.log) == 1 and len(closing.results) == 2
    assert ('stalled at 0.01' if stalled else 'aborted the goal (1 of 3') in world.log[0]


@pytest.mark.parametrize('status', ['SUCCEEDED', 'ABORTED', 'CANCELED'])
@pytest.mark.parametrize('forgotten', [False, True])
def test_a_goal_whose_end_is_never_answered_ends_as_its_status_says(
        goals, client, run, world, status, forgotten):
    goals.put(1.0)
    run()
    opening = client.answer()
    opening.status = getattr(GoalStatus, f'STATUS_{status}')
    if forgotten:  # the server keeps results for some seconds
        run(2.5)
        opening.ends(GoalStatus.STATUS_UNKNOWN, asked=1)
    run(10.0)
    assert len(opening.results) == (2 if forgotten else 3)
    assert client.sent[:2] == [OPENED] * (2 if status == 'ABORTED' else 1)
    assert world.log[:1] == {
        'SUCCEEDED': [], 'ABORTED': [f'{NAME} aborted the goal (1 of 3 times): it is sent again'],
        'CANCELED': [f'{NAME}: another client cancelled the goal; it is not sent again']}[status]
    assert len(world.log) == 1 or status != 'CANCELED'
    goals.hold()  # there is nothing left to be stopped
    run()
    assert client.ids[0] not in world.cancel.asked


def test_an_emergency_stop_cancels_opening_and_the_next_action_tells_it_again(
        goals, client, run, world):
    goals.put(1.0)
    run()
    opening = client.answer()
    goals.hold()
    run(10.0)
    assert (world.cancel.asked, client.sent) == (client.ids, [OPENED])
    opening.ends(GoalStatus.STATUS_CANCELED)
    world.servers = ['second']  # nothing is told to a new server either
    run(10.0)
    assert client.sent == [OPENED]
    goals.put(None)
    run()
    assert client.sent == [OPENED, OPENED]


def test_an_emergency_stop_lets_closed_fingers_press(goals, client, run, world):
    goals.put(0.0)
    run()
    client.answer()
    goals.hold()
    run(10.0)
    goals.put(None)
    run(10.0)
    assert (world.cancel.asked, client.sent) == ([], [CLOSED])


def test_an_emergency_stop_leaves_an_opened_gripper_alone(goals, client, run, world):
    goals.put(1.0)
    run()
    client.answer().ends(GoalStatus.STATUS_SUCCEEDED)
    goals.hold()
    goals.put(None)
    run(10.0)
    assert (world.cancel.asked, client.sent) == ([], [OPENED])


def test_an_emergency_stop_cancels_a_goal_whose_answer_was_lost(goals, client, run, world):
    """A server that has just come up answers before it has discovered who asks."""
    goals.put(1.0)
    run(1.0)
    goals.hold()
    run(10.0)
    assert world.cancel.asked == client.ids and len(client.ids) == 1


@pytest.mark.parametrize('given_up', [False, True])
def test_an_emergency_stop_cancels_every_goal_to_open_that_was_not_answered(
        goals, client, run, world, given_up):
    goals.put(1.0)
    run(30.0 if given_up else 4.0)
    assert client.sent == [OPENED] * (3 if given_up else 2)
    goals.hold()
    run(10.0)
    assert sorted(world.cancel.asked) == sorted(client.ids)
    goals.put(None)
    run()
    assert client.sent[len(world.cancel.asked):] == [OPENED]  # told again, also if given up


def test_an_emergency_stop_cancels_opening_that_goes_on_as_closing_was_rejected(
        goals, client, run, world):
    begin_to_open(goals, client, run)
    client.accepts = False
    goals.put(0.0)
    run()
    client.answer()
    goals.hold()
    run(10.0)
    assert world.cancel.asked == client.ids[:1]


def test_a_goal_that_was_rejected_is_not_cancelled(goals, client, run, world):
    client.accepts = False
    begin_to_open(goals, client, run)
    goals.hold()
    run(10.0)
    assert world.cancel.asked == []


def test_a_cancel_that_is_lost_is_repeated_until_it_is_confirmed(goals, client, run, world):
    begin_to_open(goals, client, run)
    world.cancel.lost = 4
    goals.hold()
    goals.put(0.0)  # the next action ends the hold, not the cancelling
    run(10.0)
    assert world.cancel.asked == client.ids[:1] * 5
    assert sum('has not confirmed that the gripper stops' in line for line in world.log) == 3


def test_a_cancel_that_is_never_confirmed_ends_and_says_so(goals, client, run, world):
    begin_to_open(goals, client, run)
    world.cancel.cancels = False
    goals.hold()
    run(60.0)
    assert world.cancel.asked == client.ids * 60
    assert goals.fault == (f'{NAME} has not confirmed in 60 tries that the gripper stops: it may '
                           'still open')
    assert goals.fault in world.log[-1]
    goals.put(None)
    run()
    client.answer()
    assert goals.fault == ''


def test_a_cancel_that_overtakes_its_goal_is_repeated(goals, client, run, world):
    goals.put(1.0)
    run(0.5)
    world.cancel.code = CancelGoal.Response.ERROR_UNKNOWN_GOAL_ID
    goals.hold()
    run(1.0)
    world.cancel.code = CancelGoal.Response.ERROR_NONE
    run(10.0)
    assert world.cancel.asked == client.ids * 4
    assert len(world.log) == 1  # that it is told to stop


def test_a_goal_that_never_came_is_no_fault(goals, client, run, world):
    goals.put(1.0)
    run(0.5)
    world.cancel.code = CancelGoal.Response.ERROR_UNKNOWN_GOAL_ID
    goals.hold()
    run(60.0)
    assert world.cancel.asked == client.ids * 60
    assert (len(world.log), goals.fault) == (1, '')


@pytest.mark.parametrize('code', ['ERROR_UNKNOWN_GOAL_ID', 'ERROR_GOAL_TERMINATED'])
def test_a_goal_that_is_over_is_cancelled_once(goals, client, run, world, code):
    begin_to_open(goals, client, run)
    world.cancel.code = getattr(CancelGoal.Response, code)
    goals.hold()
    run(10.0)
    assert world.cancel.asked == client.ids


def test_nothing_is_cancelled_while_no_server_is_there(goals, client, run, world):
    begin_to_open(goals, client, run)
    world.cancel.lost = 1000
    goals.hold()
    run(1.0)
    assert world.cancel.asked == client.ids * 3
    world.servers = []
    run(60.0)
    assert world.cancel.asked == client.ids * 3
    world.servers, world.cancel.lost = ['first'], 0  # the network was gone, not the server
    run(10.0)
    assert world.cancel.asked == client.ids * 4


def test_a_goal_that_ends_is_cancelled_no_more(goals, client, run, world):
    goals.put(1.0)
    run()
    opening = client.answer()
    world.cancel.lost = 1000
    goals.hold()
    run(1.0)
    opening.ends(GoalStatus.STATUS_CANCELED)
    run(10.0)
    assert world.cancel.asked == client.ids * 3


def test_a_goal_that_is_answered_after_the_emergency_stop_is_cancelled_again(
        goals, client, run, world):
    goals.put(1.0)
    run()
    goals.hold()
    run()
    assert world.cancel.asked == client.ids
    client.answer()
    run()
    assert world.cancel.asked == client.ids * 2


def test_a_goal_on_its_way_at_the_emergency_stop_is_not_sent(goals, client, run):
    for state in (1.0, 0.0):
        goals.put(state)
        goals.hold()
        run(10.0)
    assert client.sent == []
    goals.put(None)
    run()
    assert client.sent == [CLOSED]


def test_an_answer_that_is_older_than_the_goal_confirms_nothing(goals, client, run, world):
    goals.put(1.0)
    run()
    world.cancel.code = CancelGoal.Response.ERROR_UNKNOWN_GOAL_ID
    goals.hold()  # this cancel overtakes the goal
    world.cancel.code, world.cancel.lost = CancelGoal.Response.ERROR_NONE, 2
    client.answer()
    run(10.0)
    assert world.cancel.asked == client.ids * 4


def test_another_stop_cancels_again_what_the_first_one_could_not(goals, client, run, world):
    begin_to_open(goals, client, run)
    world.cancel.cancels = False
    goals.hold()
    run(10.0)
    goals.hold()  # this one changes nothing: the first one still is at it
    run(50.0)
    assert world.cancel.asked == client.ids * 60
    world.cancel.cancels = True
    goals.hold()
    run(10.0)
    goals.hold()
    assert world.cancel.asked == client.ids * 61
    assert sum('is told to stop opening' in line for line in world.log) == 2


@pytest.mark.parametrize('lost', [0, 3])
def test_a_stop_is_a_stop_also_when_the_node_is_deactivated_right_after_it(
        goals, client, run, world, lost):
    begin_to_open(goals, client, run)
    world.cancel.lost = lost
    goals.hold()
    goals.put(0.0)
    goals.destroy()
    assert world.cancel.is_there
    run(10.0)
    assert client.sent == [OPENED]
    assert world.cancel.asked == client.ids * (lost + 1)
    assert not world.cancel.is_there


def test_a_cancel_that_a_deactivated_node_can_not_bring_home_is_told_of_and_ends(
        goals, client, run, world):
    begin_to_open(goals, client, run)
    world.cancel.cancels = False
    goals.hold()
    goals.destroy()
    run(60.0)
    assert 'has not confirmed in 60 tries that the gripper stops' in world.log[-1]
    assert len(world.cancel.asked) == 60 and not world.cancel.is_there


def test_deactivation_alone_leaves_the_gripper_to_its_controller(goals, client, run, world):
    begin_to_open(goals, client, run)
    goals.destroy()
    goals.hold()
    run(10.0)
    assert (client.sent, world.cancel.asked) == ([OPENED], [])
    assert not world.cancel.is_there


def test_a_process_ends_once_the_cancel_is_confirmed(goals, client, run, world, monkeypatch):
    monkeypatch.setattr(gripper_goals, '_LAST_WORDS', 60.0)
    begin_to_open(goals, client, run)
    goals.wait_until_held()  # nothing is cancelled
    goals.hold()
    waiting = threading.Thread(target=goals.wait_until_held)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    run()
    waiting.join(60.0)
    assert not waiting.is_alive()


@pytest.mark.parametrize('name', ['', '/my hand', 'a//b', '1st', '/gripper/'])
def test_a_name_that_is_none_is_refused(name):
    node = SimpleNamespace(get_name=lambda: 'policy_node', get_namespace=lambda: '/')
    with pytest.raises(SpecVLAError, match='gripper_action is .*like gripper_cmd or /'):
        full_action_name(node, name)


def test_without_control_msgs_it_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, 'control_msgs', None)
    with pytest.raises(SpecVLAError, match='control_msgs is not installed: .*publish_gripper'):
        gripper_goals.gripper_command()


def test_the_node_says_so_before_it_loads(start, tmp_path):
    # a module that cannot be imported stands before any real one
    (tmp_path / 'control_msgs.py').write_text('raise ImportError')
    path = os.pathsep.join([str(tmp_path), os.environ.get('PYTHONPATH', '')])
    node = start(NODE, dict(send_gripper_goals='true'), PYTHONPATH=path)
    assert node.wait() == 2
    assert 'control_msgs is not installed' in node.output


def test_a_controller_that_was_killed_is_told_again_and_a_stop_cancels_opening(
        robot, probe, start, until):
    path = os.pathsep.join([str(STAND_IN), os.environ.get('PYTHONPATH', '')])
    node = start(NODE, dict(send_gripper_goals='true', gripper_action='/hand/gripper_cmd'),
                 PYTHONPATH=path)
    button = probe.node.create_publisher(Bool, 'emergency_stop', qos.LATCHED)
    robot.connect(until)
    probe.wait_for_subscribers(button)
    robot.say('pick up')
    robot.see(1, 1, 3)  # open
    node.says('no node serves /hand/gripper_cmd')
    for kills in (True, False):
        hand = start('fake_gripper_node.py', PYTHONPATH=path)
        hand.says('go to 0.04 with 20.0')
        if kills:
            hand.kill()
    button.publish(Bool(data=True))
    node.says('EMERGENCY STOP')
    told = hand.output.count('go to')  # more than once if an answer of the new hand's was lost
    until(lambda: hand.output.count('stay here') == told, 'no finger that opens')
    assert probe.call(Trigger, 'policy_node/reset_emergency_stop', Trigger.Request()).success
    time.sleep(1.5)  # the look at the server
    assert hand.output.count('go to') == told
    until(lambda: robot.see(1, 1, 3) and hand.output.count('go to') > told, 'told again')
    assert hand.interrupt() == 0  # while its fingers move
