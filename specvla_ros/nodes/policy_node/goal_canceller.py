"""Cancels goals of an action by their ids, whether its server has answered them or not."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
import threading
import uuid

from action_msgs.msg import GoalInfo
from action_msgs.srv import CancelGoal
from rclpy.node import Node
from rclpy.task import Future

from specvla_ros.nodes.topics import Topics

_LOG_PERIOD = 5.0
_LOOK_PERIOD = 0.5  # s between two tries
_MOST_TRIES = 60  # 30 s; DDS gives up a server that was killed within 20 s


def _new_info() -> GoalInfo:
    info = GoalInfo()
    info.goal_id.uuid = list(uuid.uuid4().bytes)
    return info


@dataclass(slots=True, eq=False)
class SentGoal:
    """
    A goal with an id of our own, so that it can be cancelled before it is answered.

    is_over: its server doesn't carry it out, or not any more.
    """

    info: GoalInfo = field(default_factory=_new_info)
    is_accepted: bool = False
    is_stopped: bool = False  # it is to be cancelled, or was
    is_over: bool = False


class GoalCanceller:
    """
    Cancels goals, each by its id, and asks again every 0.5 s until the server has confirmed it.

    What a server says before it has discovered this node is lost: its answer to a goal (so a goal
    without an answer may be under way), and its answer to a cancel. Hence the service
    `_action/cancel_goal`, which every action server has
    (https://design.ros2.org/articles/actions.html): rclpy cancels accepted goals only.

    Any thread may call it.

    :param topics: whose callbacks it belongs to; it goes on after these have ended, see `retire`
    :param name: of the action, in full
    :param report: is told, after 60 tries, that a goal may still be under way
    """

    def __init__(self, node: Node, topics: Topics, name: str,
                 report: Callable[[str], None]) -> None:
        self._node, self._logger, self._report = node, node.get_logger(), report
        self._name, self._lock = name, threading.Condition()
        self._asked: dict[SentGoal, list[Future]] = {}  # of goals that aren't confirmed
        self._unknown: set[SentGoal] = set()
        self._is_retired = False
        self._client = node.create_client(CancelGoal, f'{name}/_action/cancel_goal')
        self._own = topics.sibling()
        self._own.every(_LOOK_PERIOD, self._look)

    def is_ready(self) -> bool:
        """Whether a server can be asked to cancel."""
        return self._client.service_is_ready()

    def is_cancelling(self, goal: SentGoal) -> bool:
        """Whether the server is still asked to cancel a goal."""
        return goal in self._asked

    def cancel(self, goal: SentGoal) -> None:
        """Cancel a goal, if need be by 60 tries from now on."""
        with self._lock:
            goal.is_stopped = True
            self._forget(goal)  # of one just accepted: it may be unknown in an earlier answer
            self._asked[goal] = []
            self._ask(goal)

    def wait(self, seconds: float) -> None:
        """Wait until all goals are confirmed, so long at most; not in the executor's thread."""
        with self._lock:
            self._lock.wait_for(lambda: not self._asked, seconds)

    def retire(self) -> None:
        """Take the client away, but not before all goals are confirmed or were tried enough."""
        with self._lock:
            self._is_retired = True
            self._end_if_done()

    def _look(self) -> None:
        """Ask again for what isn't confirmed; while there is no server, wait for one."""
        with self._lock:
            if self._asked and self.is_ready():
                for goal in list(self._asked):
                    if goal.is_over:
                        self._forget(goal)
                    elif len(self._asked[goal]) == _MOST_TRIES:
                        self._give_up(goal)
                    else:
                        self._ask(goal)
            self._end_if_done()

    def _ask(self, goal: SentGoal) -> None:
        if len(self._asked[goal]) > 1 and goal not in self._unknown:
            self._logger.warning(
                f'{self._name} has not confirmed that the gripper stops: it is told again',
                throttle_duration_sec=_LOG_PERIOD)
        request = CancelGoal.Request()
        request.goal_info = goal.info  # its time is 0: this goal and no other
        future = self._client.call_async(request)
        self._asked[goal].append(future)
        future.add_done_callback(partial(self._hear, goal))

    def _hear(self, goal: SentGoal, future: Future) -> None:
        with self._lock:
            if goal not in self._asked:
                return
            answer = future.result()
            is_unknown = answer.return_code == CancelGoal.Response.ERROR_UNKNOWN_GOAL_ID
            if is_unknown and not goal.is_accepted:
                self._unknown.add(goal)  # it may still be on its way: a cancel can overtake it
            elif (is_unknown or answer.goals_canceling  # only this goal was asked for
                  or answer.return_code == CancelGoal.Response.ERROR_GOAL_TERMINATED):
                goal.is_over = True
                self._forget(goal)

    def _give_up(self, goal: SentGoal) -> None:
        if goal in self._unknown:
            goal.is_over = True  # it never came
        else:
            self._report(f'{self._name} has not confirmed in {_MOST_TRIES} tries that the gripper '
                         'stops: it may still open')
        self._forget(goal)

    def _forget(self, goal: SentGoal) -> None:
        for future in self._asked.pop(goal, ()):
            self._client.remove_pending_request(future)  # rclpy keeps it until it is answered
        self._unknown.discard(goal)
        self._lock.notify_all()

    def _end_if_done(self) -> None:
        if self._is_retired and not self._asked:
            self._own.destroy()
            self._node.destroy_client(self._client)
