"""Cancels goals of an action by their ids, whether its server has answered them or not."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
import uuid

from action_msgs.msg import GoalInfo
from action_msgs.srv import CancelGoal
from rclpy.node import Node
from rclpy.task import Future

_LOG_PERIOD = 5.0
_MOST_TRIES = 60  # with looks 0.5 s apart 30 s; DDS gives up a server that was killed within 20 s


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
    Cancels goals, each by its id, and asks again at each look until the server has confirmed it.

    What a server says before it has discovered this node is lost: its answer to a goal (so a goal
    without an answer may be under way), and its answer to a cancel. Hence the service
    `_action/cancel_goal`, which every action server has
    (https://design.ros2.org/articles/actions.html): rclpy cancels accepted goals only.

    The executor's thread calls all of this.

    :param name: of the action, in full
    :param report: is told which goals may still be under way after 60 looks
    """

    def __init__(self, node: Node, name: str, report: Callable[[str], None]) -> None:
        self._node, self._logger, self._report = node, node.get_logger(), report
        self._name = name
        self._tries: dict[SentGoal, int] = {}  # of goals that aren't confirmed
        self._unknown: set[SentGoal] = set()
        self._client = node.create_client(CancelGoal, f'{name}/_action/cancel_goal')

    def is_ready(self) -> bool:
        """Whether a server can be asked to cancel."""
        return self._client.service_is_ready()

    def cancel(self, goal: SentGoal) -> None:
        """Cancel a goal, if need be at each of the next 60 looks."""
        goal.is_stopped = True
        self._tries[goal] = 0
        self._unknown.discard(goal)
        self._ask(goal)

    def look(self) -> None:
        """Ask again for what isn't confirmed; while there is no server, wait for one."""
        if not self.is_ready():
            return
        for goal in list(self._tries):
            if goal.is_over or self._tries[goal] == _MOST_TRIES:
                self._leave(goal)
            else:
                self._ask(goal)

    def destroy(self) -> None:
        """Take the client away."""
        self._tries.clear()
        self._node.destroy_client(self._client)

    def _ask(self, goal: SentGoal) -> None:
        if self._tries[goal] > 1 and goal not in self._unknown:
            self._logger.warning(
                f'{self._name} has not confirmed that the gripper stops: it is told again',
                throttle_duration_sec=_LOG_PERIOD)
        self._tries[goal] += 1
        request = CancelGoal.Request()
        request.goal_info = goal.info  # its time is 0: this goal and no other
        self._client.call_async(request).add_done_callback(partial(self._hear, goal))

    def _hear(self, goal: SentGoal, future: Future) -> None:
        if goal not in self._tries:
            return
        answer = future.result()
        is_unknown = answer.return_code == CancelGoal.Response.ERROR_UNKNOWN_GOAL_ID
        if is_unknown and not goal.is_accepted:
            self._unknown.add(goal)  # it may still be on its way: a cancel can overtake it
        elif (is_unknown or answer.goals_canceling  # only this goal was asked for
              or answer.return_code == CancelGoal.Response.ERROR_GOAL_TERMINATED):
            goal.is_over = True
            self._leave(goal)

    def _leave(self, goal: SentGoal) -> None:
        del self._tries[goal]
        if not goal.is_over and goal not in self._unknown:
            self._report(f'{self._name} has not confirmed in {_MOST_TRIES} tries that the gripper '
                         'stops: it may still open')
        self._unknown.discard(goal)
