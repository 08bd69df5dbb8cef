"""`~/execute_instruction`: what a goal gives while it holds, and every way it can end."""
import math
import signal
import time

from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import pytest
from rclpy.action import ActionClient
from specvla_ros.action import ExecuteInstruction
from specvla_ros.msg import EpisodeStatus
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from specvla_ros.nodes import qos

NODE = 'fake_policy_node.py'
Reason = ExecuteInstruction.Result


class Client:
    """Somebody who sends goals."""

    def __init__(self, robot, until):
        self.robot, self.until, self.feedback = robot, until, []
        self.client = ActionClient(
            robot.probe.node, ExecuteInstruction, 'policy_node/execute_instruction')
        assert self.client.wait_for_server(120)

    def send(self, instruction='pick up', time_limit=0.0):
        goal = ExecuteInstruction.Goal(instruction=instruction, time_limit=time_limit)
        future = self.ask(lambda: self.client.send_goal_async(
            goal, feedback_callback=lambda message: self.feedback.append(message.feedback)))
        self.until(future.done, 'an answer to the goal')
        return future.result()

    def ask(self, question):
        """Ask in the executor's thread: rclpy may miss an answer that is there too soon."""
        task = self.robot.probe.node.executor.create_task(question)
        self.until(task.done, 'the question')
        return task.result()

    def act(self, count):
        """Show images until so many actions have come in all."""
        self.until(lambda: self.robot.see(1, 2, 3) and len(self.robot.actions) >= count,
                   f'{count} actions')

    def end_of(self, handle):
        """Wait for the end of a goal; return status and result."""
        future = self.ask(handle.get_result_async)
        self.until(lambda: self.robot.see(1, 2, 3) and future.done(), 'the end of the goal')
        return future.result().status, future.result().result

    def cancel(self, handle):
        """Cancel a goal; return status and result."""
        future = self.ask(handle.cancel_goal_async)
        self.until(future.done, 'the answer to the cancellation')
        return self.end_of(handle)

    def rests(self):
        """See that images are not acted on."""
        time.sleep(0.3)
        count = len(self.robot.actions)
        self.robot.watch(1, 2, 3, seconds=0.5)
        return len(self.robot.actions) == count


@pytest.fixture
def node(start):
    return start(NODE)


@pytest.fixture
def client(robot, node, until):
    robot.connect(until)
    client = Client(robot, until)
    yield client
    client.client.destroy()


def test_a_goal_is_followed_with_feedback_until_its_time_is_over(client):
    handle = client.send('pick up', time_limit=1.0)
    assert handle.accepted
    client.until(lambda: client.robot.see(1, 2, 3) and len(client.feedback) >= 3, 'feedback')
    assert handle.status == GoalStatus.STATUS_EXECUTING
    assert [feedback.actions for feedback in client.feedback[:3]] == [1, 2, 3]
    assert [feedback.sequence for feedback in client.feedback[:3]] == [0, 1, 2]
    assert client.feedback[0].acceptance_length == 3
    assert 0 < client.feedback[0].total_time < 60
    status, result = client.end_of(handle)
    assert (status, result.reason) == (GoalStatus.STATUS_ABORTED, Reason.TIME_LIMIT)
    assert result.message == 'the time limit is over'
    assert result.duration >= 1.0
    assert result.acceptance_length == 3
    assert client.rests()
    assert result.actions == len(client.robot.actions)


def test_a_goal_ends_when_it_is_cancelled_replaced_or_done(client):
    first = client.send('pick up the milk')
    client.act(2)
    second = client.send('pick up the soup')
    status, result = client.end_of(first)
    assert (status, result.reason) == (GoalStatus.STATUS_ABORTED, Reason.PREEMPTED)
    client.act(len(client.robot.actions) + 2)
    assert client.robot.actions[-1].token_ids[3] == len('pick up the soup')

    client.robot.say('open')
    assert client.end_of(second)[1].reason == Reason.PREEMPTED
    client.until(lambda: client.robot.see(1, 2, 3) and client.robot.actions and
                 client.robot.actions[-1].token_ids[3] == len('open'), 'the text is followed')

    third = client.send('pick up the tea')
    client.act(len(client.robot.actions) + 3)
    status, result = client.cancel(third)
    assert (status, result.reason) == (GoalStatus.STATUS_CANCELED, Reason.CANCELED)
    assert result.actions >= 1
    assert client.rests()

    judge = client.robot.probe.node.create_publisher(EpisodeStatus, 'episode', qos.LATCHED)
    client.robot.probe.wait_for_subscribers(judge)
    count = len(client.robot.actions)
    fourth = client.send('pick up the cup')
    client.act(count + 2)
    judge.publish(EpisodeStatus(instruction='pick up the tea', success=True))
    judge.publish(EpisodeStatus(instruction='pick up the cup', success=False))
    client.act(len(client.robot.actions) + 5)
    judge.publish(EpisodeStatus(instruction='pick up the cup', success=True))
    status, result = client.end_of(fourth)
    assert (status, result.reason) == (GoalStatus.STATUS_SUCCEEDED, Reason.SUCCESS)
    assert client.rests()


def test_the_emergency_stop_and_deactivation_end_a_goal(client):
    probe = client.robot.probe
    button = probe.node.create_publisher(Bool, 'emergency_stop', qos.LATCHED)
    probe.wait_for_subscribers(button, count=2)
    handle = client.send('pick up')
    client.act(2)
    button.publish(Bool(data=True))
    status, result = client.end_of(handle)
    assert (status, result.reason) == (GoalStatus.STATUS_ABORTED, Reason.EMERGENCY_STOP)
    assert not client.send('pick up').accepted
    assert probe.call(Trigger, 'policy_node/reset_emergency_stop', Trigger.Request()).success
    assert client.rests()  # the instruction was withdrawn

    handle = client.send('pick up')
    client.act(len(client.robot.actions) + 2)
    request = ChangeState.Request()
    request.transition.id = Transition.TRANSITION_DEACTIVATE
    assert probe.call(ChangeState, 'policy_node/change_state', request).success
    status, result = client.end_of(handle)
    assert (status, result.reason) == (GoalStatus.STATUS_ABORTED, Reason.DEACTIVATED)
    assert not client.send('pick up').accepted


def test_words_that_are_only_repeated_start_nothing_after_the_end_of_a_goal(client, flood):
    robot, probe = client.robot, client.robot.probe
    repeater = probe.node.create_publisher(String, 'instruction', 1)
    probe.wait_for_subscribers(repeater)
    flood(repeater, lambda: String(data='pick up'), period=0.1)
    client.act(2)
    handle = client.send('open')
    client.act(len(robot.actions) + 20)
    assert robot.actions[-1].token_ids[3] == len('open')
    assert client.cancel(handle)[1].reason == Reason.CANCELED
    assert client.rests()
    handle = client.send('pick up')
    client.act(len(robot.actions) + 2)
    assert client.cancel(handle)[1].reason == Reason.CANCELED
    assert client.rests()

    robot.say('pick up')  # the same, said by another one
    client.act(len(robot.actions) + 2)
    assert robot.actions[-1].token_ids[3] == len('pick up')
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
        repeater.publish(String(data='drop it'))  # newer than the latched one
        request = ChangeState.Request()
        request.transition.id = transition
        assert probe.call(ChangeState, 'policy_node/change_state', request).success
    robot.connect(client.until)
    client.act(len(robot.actions) + 2)
    assert robot.actions[-1].token_ids[3] == len('drop it')


def test_a_goal_that_means_nothing_is_rejected(client):
    assert not client.send('  ').accepted
    for time_limit in (-1.0, math.nan, math.inf):
        assert not client.send('pick up', time_limit).accepted


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_is_told_to_end_says_so_to_whoever_waits_for_a_goal(client, node, number):
    handle = client.send('pick up')
    client.act(2)
    future = client.ask(handle.get_result_async)
    assert node.interrupt(number) == 0
    client.until(future.done, 'the end of the goal')
    status, result = future.result().status, future.result().result
    assert (status, result.reason) == (GoalStatus.STATUS_ABORTED, Reason.SHUTDOWN)
    assert result.message == 'the process was told to end'
    assert result.actions == len(client.robot.actions)
    assert 'Traceback' not in node.output
