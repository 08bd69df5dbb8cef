"""The gripper as goals. `control_msgs` is no wheel: a stand-in has its names, not its types."""
import os
import sys
from types import ModuleType, SimpleNamespace

import pytest

from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes import gripper_goals
from specvla_ros.nodes.gripper_goals import GripperGoals

NODE = 'fake_policy_node.py'


class Goal:
    """As control_msgs/action/GripperCommand.Goal: command has position and max_effort."""

    def __init__(self):
        self.command = SimpleNamespace(position=0.0, max_effort=0.0)


class Client:
    """An action client that keeps what is sent."""

    ready, accepts = True, True

    def __init__(self, node, action, name):
        self.action, self.name, self.sent = action, name, []

    def server_is_ready(self):
        return self.ready

    def send_goal_async(self, goal):
        self.sent.append((goal.command.position, goal.command.max_effort))
        answer = SimpleNamespace(accepted=self.accepts)
        return SimpleNamespace(add_done_callback=lambda hear: hear(
            SimpleNamespace(result=lambda: answer)))


@pytest.fixture
def logged():
    return []


@pytest.fixture
def goals(monkeypatch, logged):
    module = ModuleType('control_msgs.action')
    module.GripperCommand = SimpleNamespace(Goal=Goal)
    monkeypatch.setitem(sys.modules, 'control_msgs', ModuleType('control_msgs'))
    monkeypatch.setitem(sys.modules, 'control_msgs.action', module)
    monkeypatch.setattr(gripper_goals, 'ActionClient', Client)
    logger = SimpleNamespace(warning=lambda text, **_: logged.append(text),
                             error=lambda text, **_: logged.append(text))
    node = SimpleNamespace(
        get_logger=lambda: logger,
        executor=SimpleNamespace(create_task=lambda task, *arguments: task(*arguments)))
    return GripperGoals(node, opened=0.04, closed=0.0, effort=20.0)


def test_each_change_is_one_goal(goals, logged):
    for state in (None, 1.0, None, None, 0.0, None):
        goals.put(state)
    assert goals._client.name == 'gripper_cmd'
    assert goals._client.sent == [(0.04, 20.0), (0.0, 20.0)]
    assert logged == []


def test_what_nobody_heard_is_said_once_somebody_does(goals, logged):
    goals._client.ready = False
    goals.put(1.0)
    goals.put(0.0)
    assert goals._client.sent == []
    goals._client.ready = True
    goals.put(None)
    goals.put(None)
    assert goals._client.sent == [(0.0, 20.0)]
    assert 'nobody serves gripper_cmd' in logged[0]


def test_a_rejection_is_logged(goals, logged):
    goals._client.accepts = False
    goals.put(1.0)
    assert logged == ['gripper_cmd rejected the goal']


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
