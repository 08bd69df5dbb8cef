"""The gripper as goals for ros2_control's gripper controllers, where `control_msgs` is there."""

from collections import deque
from dataclasses import dataclass, field
import threading
import time
from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.exceptions import InvalidTopicNameException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.qos import qos_profile_services_default
from rclpy.task import Future
from rclpy.validate_full_topic_name import validate_full_topic_name

from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes.policy_node.goal_canceller import GoalCanceller, SentGoal
from specvla_ros.nodes.topics import Topics

_LOG_PERIOD = 5.0
_LOOK_PERIOD = 0.5  # s between two looks at the server
_PATIENCE = 2.0  # s for an answer: a server that was killed gives none
_RETRY_AFTER = 1.0  # s
_LAST_WORDS = 1.0  # s: two more tries, then the process may end
_MOST_TRIES = 3
_OPEN = 1.0
_ENDS = (GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_CANCELED, GoalStatus.STATUS_ABORTED)


def gripper_command() -> Any:
    """
    Return the action type `control_msgs/action/GripperCommand`.

    :raises SpecVLAError: `control_msgs` isn't installed
    """
    try:
        from control_msgs.action import GripperCommand
    except ImportError as error:
        raise SpecVLAError(
            'parameter send_gripper_goals is true, but control_msgs is not installed: install it '
            '(apt install ros-jazzy-control-msgs), or use publish_gripper') from error
    return GripperCommand


def full_action_name(node: Node, name: str) -> str:
    """
    Return the name of an action with the node's namespace; Jazzy doesn't remap it (ros2#1312).

    :raises SpecVLAError: it is no name
    """
    try:
        full = expand_topic_name(name, node.get_name(), node.get_namespace())
        validate_full_topic_name(full)
    except (ValueError, InvalidTopicNameException) as error:
        raise SpecVLAError(
            f'parameter gripper_action is {name!r}, which is no name of an action: it must be '
            'like gripper_cmd or /gripper_controller/gripper_cmd') from error
    return full


@dataclass(slots=True, eq=False, kw_only=True)
class _Goal(SentGoal):
    """
    A goal to go to a state, 0 (closed) or 1 (open).

    asked: s, when its server was last asked, for the goal or for its result. asks: how many times
    it was asked for the result.
    """

    state: float
    asked: float = field(default_factory=time.monotonic)
    asks: int = 0
    handle: Any = None  # rclpy's, of an accepted goal; its status is up to date while we keep it

    @property
    def has_ended(self) -> bool:
        """Whether its server said on the status topic that it doesn't carry it out any more."""
        return self.handle is not None and self.handle.status in _ENDS


class GripperGoals:
    """
    Sends a goal each time the gripper is to open or close, and follows how it ends.

    A goal that is rejected, aborted or not answered is sent again, three times in all; to a server
    that was started again the present state is told again. A goal that stalls isn't repeated:
    fingers that close on something stall. Where the answer that says how a goal ended is lost, it
    is asked for again, three times in all; then the goal's status alone counts.

    `put` may be called from another thread than the executor's, which calls all else.

    :param topics: what the looking at the server ends with
    :param name: of the action
    :param opened: position of the open gripper, in the units of its controller: m of a finger
    :param closed: position of the closed one
    :param effort: the most it may press with, N
    :raises SpecVLAError: `control_msgs` isn't installed, or the name is none
    """

    def __init__(self, node: Node, topics: Topics, name: str, opened: float, closed: float,
                 effort: float) -> None:
        self._node, self._logger = node, node.get_logger()
        self._action = gripper_command()
        self._opened, self._closed, self._effort = opened, closed, effort
        self._name = full_action_name(node, name)
        self._status_topic = node.resolve_topic_name(f'{self._name}/_action/status')
        self._lock = threading.RLock()
        self._wanted: float | None = None
        self._goal: _Goal | None = None  # the last one, unless it came to nothing
        # Those that a server may be carrying out: it keeps no more of them unread.
        self._opening: deque[_Goal] = deque(maxlen=qos_profile_services_default.depth)
        self._tries, self._not_before = 0, 0.0
        self._servers: frozenset[bytes] = frozenset()
        self._is_held = self._is_destroyed = False
        self.fault = ''
        self._client = ActionClient(node, self._action, name)
        self._canceller = GoalCanceller(node, topics, self._name, self._report)
        topics.add(self)
        topics.every(_LOOK_PERIOD, self.look)

    def put(self, state: float | None) -> None:
        """Go to a state, 0 (closed) or 1 (open); None: as before. Ends a `hold`."""
        with self._lock:
            self._is_held = False
            if state is not None and state != self._wanted:
                self._wanted, self._tries, self._not_before = state, 0, 0.0
            self._tell()

    def hold(self) -> None:
        """
        Let the fingers keep what they hold, and tell them nothing until the next `put`.

        Opening is cancelled, also where no goal to open was answered, and until the controller
        has confirmed it: ros2_control's then stay where they are. Closing is left to its
        controller: cancelled, one of them would press no more, and drop what it holds.
        """
        with self._lock:
            self._is_held = True
            if self._goal is not None and self._goal.state == _OPEN and not self._goal.is_over:
                self._goal, self._tries = None, 0  # told again with the next action
            opening = [goal for goal in self._opening
                       if not (goal.is_over or self._canceller.is_cancelling(goal))]
            if opening and not self._is_destroyed:
                self._tries = 0
                self._logger.warning(f'{self._name}: the gripper is told to stop opening')
                for goal in opening:
                    self._canceller.cancel(goal)

    def wait_until_held(self) -> None:
        """Give the controller a second to confirm a `hold`; not in the executor's thread."""
        self._canceller.wait(_LAST_WORDS)

    def look(self) -> None:
        """Look for the server; tell it the present state if it is new or missed the last goal."""
        with self._lock:
            goal = self._goal
            if goal is not None and time.monotonic() - goal.asked > _PATIENCE:
                if not goal.is_accepted:
                    self._fail(f'gave no answer to the goal within {_PATIENCE:g} s')
                elif goal.has_ended and not goal.is_over:
                    self._ask_again(goal)
            self._tell()

    def destroy(self) -> None:
        """
        Take the client away; the goal under way is the controller's to finish.

        What a `hold` cancels is cancelled all the same, until the controller has confirmed it.
        """
        with self._lock:
            self._is_destroyed, self._goal = True, None
            self._client.destroy()
            self._canceller.retire()

    def _tell(self) -> None:
        self._see_servers()
        is_told = self._goal is not None and self._goal.state == self._wanted
        if (self._is_held or self._wanted is None or is_told or self._tries == _MOST_TRIES
                or time.monotonic() < self._not_before):
            return
        if not (self._servers and self._client.server_is_ready() and self._canceller.is_ready()):
            self.fault = f'no node serves {self._name}'
            self._logger.warning(f'{self.fault}: the gripper is told once a node does',
                                 throttle_duration_sec=_LOG_PERIOD)
            return
        self._tries += 1
        self._goal = _Goal(state=self._wanted)
        # In the executor's thread: rclpy misses an answer that comes before its question is noted.
        self._node.executor.create_task(self._send, self._goal)

    def _see_servers(self) -> None:
        """Forget what the server was told, if there is a new one: `server_is_ready` can't tell."""
        servers = frozenset(
            bytes(end.endpoint_gid)
            for end in self._node.get_publishers_info_by_topic(self._status_topic))
        if servers - self._servers:
            if self._goal is not None:
                self._logger.warning(
                    f'{self._name} has a new server: the gripper is told its state again')
            self._goal, self._tries, self._not_before = None, 0, 0.0
        self._servers = servers

    def _send(self, goal: _Goal) -> None:
        with self._lock:
            if goal is not self._goal or self._is_destroyed:
                return
            if self._is_held:
                self._goal, self._tries = None, 0
                return
            request = self._action.Goal()
            request.command.position = self._opened if goal.state == _OPEN else self._closed
            request.command.max_effort = self._effort
            goal.asked = time.monotonic()
            if goal.state == _OPEN:
                self._opening.append(goal)
            future = self._client.send_goal_async(request, goal_uuid=goal.info.goal_id)
        future.add_done_callback(lambda future: self._answered(goal, future))

    def _answered(self, goal: _Goal, future: Future) -> None:
        with self._lock:
            handle = future.result()
            if self._is_destroyed:
                return
            if not handle.accepted:
                goal.is_over = True
                if goal is self._goal:
                    self._fail('rejected the goal')
                return
            goal.is_accepted, goal.is_over, self.fault = True, False, ''
            goal.handle = handle
            self._ask_how_it_ends(goal)
            if goal.is_stopped:
                self._canceller.cancel(goal)

    def _report(self, fault: str) -> None:
        self.fault = fault
        self._logger.error(f'{fault}; use the button on your robot')

    def _ask_how_it_ends(self, goal: _Goal) -> None:
        goal.asked, goal.asks = time.monotonic(), goal.asks + 1
        goal.handle.get_result_async().add_done_callback(
            lambda future: self._ended(goal, future.result()))

    def _ask_again(self, goal: _Goal) -> None:
        """Ask once more how a goal ended; at last go by what its status says."""
        if goal.asks < _MOST_TRIES:
            self._ask_how_it_ends(goal)
        else:
            self._ended(goal, None)

    def _ended(self, goal: _Goal, answer: Any) -> None:
        """Take in how a goal ended; answer: to the question for its result, None = lost."""
        with self._lock:
            was_known, goal.is_over = goal.is_over, True
            if was_known or goal is not self._goal:  # replaced or cancelled, or a second answer
                return
            said = GoalStatus.STATUS_UNKNOWN if answer is None else answer.status
            # A server that has forgotten the result by now answers that the status is unknown.
            status = goal.handle.status if said == GoalStatus.STATUS_UNKNOWN else said
            if status == GoalStatus.STATUS_CANCELED:
                self.fault = f'{self._name}: another client cancelled the goal'
                self._logger.error(f'{self.fault}; it is not sent again')
            elif status == GoalStatus.STATUS_ABORTED and answer and answer.result.stalled:
                self._logger.info(f'{self._name}: the gripper stalled at '
                                  f'{answer.result.position:g}: it holds something')
            elif status == GoalStatus.STATUS_ABORTED:
                self._fail('aborted the goal')

    def _fail(self, what: str) -> None:
        """Log what became of the goal, and have it sent again unless it was tried enough."""
        self._goal, self._not_before = None, time.monotonic() + _RETRY_AFTER
        self.fault = f'{self._name} {what}'
        way_on = ('it is sent again' if self._tries < _MOST_TRIES else
                  'given up until the gripper is to change or the server is started again')
        self._logger.error(f'{self.fault} ({self._tries} of {_MOST_TRIES} times): {way_on}')
