"""An instruction as an action goal: with a time limit, feedback, and word of how it ended."""

from collections.abc import Callable
from dataclasses import dataclass, field
import math
import threading
import time

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import GoalEvent, ServerGoalHandle
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node

from specvla_ros.action import ExecuteInstruction
from specvla_ros.errors import counted
from specvla_ros.msg import DecodeReport
from specvla_ros.nodes.messages import acceptance_lengths_of
from specvla_ros.nodes.policy_node.instruction_subscription import Follower
from specvla_ros.nodes.topics import Topics

Reason = ExecuteInstruction.Result
_IN_WORDS = {
    Reason.CANCELED: 'cancelled',
    Reason.PREEMPTED: 'another instruction took its place',
    Reason.TIME_LIMIT: 'the time limit is over',
    Reason.EMERGENCY_STOP: 'emergency stop',
    Reason.DEACTIVATED: 'the node was deactivated',
    Reason.SUCCESS: 'the task is done',
    Reason.SHUTDOWN: 'the process was told to end',
}
_PATIENCE = 1.0  # s for an executor that may have died


@dataclass(slots=True)
class _Goal:
    handle: ServerGoalHandle
    instruction: str
    started: float = field(default_factory=time.monotonic)
    actions: int = 0
    lengths: list[int] = field(default_factory=list)

    def result(self, reason: int) -> ExecuteInstruction.Result:
        return ExecuteInstruction.Result(
            reason=reason, message=_IN_WORDS[reason], actions=self.actions,
            acceptance_length=_mean(self.lengths), duration=time.monotonic() - self.started)


class InstructionGoals:
    """
    Serves the action `~/execute_instruction`: one goal at a time, a new one replaces the old one.

    Goals begin and end in callbacks, `note` may be called from another thread.

    :param refusal: why no goal can be accepted at present; '' where it can
    :param follower: is told what holds
    """

    def __init__(self, node: Node, group: CallbackGroup, refusal: Callable[[], str],
                 follower: Follower) -> None:
        self._node, self._logger, self._refusal = node, node.get_logger(), refusal
        self._is_over = False
        self._follower = follower
        self._goal: _Goal | None = None
        self._results: dict[bytes, ExecuteInstruction.Result] = {}
        self._lock = threading.Lock()
        self._time_limit = Topics(node, group)
        self._server = ActionServer(
            node, ExecuteInstruction, '~/execute_instruction', self._tell_end,
            callback_group=group, goal_callback=self._consider,
            handle_accepted_callback=self._begin, cancel_callback=self._cancel)

    def note(self, instruction: str, report: DecodeReport) -> None:
        """Count an action that was published, and give feedback."""
        lengths = acceptance_lengths_of(report)
        with self._lock:
            goal = self._goal
            if goal is None or goal.instruction != instruction:
                return
            goal.actions += 1
            goal.lengths += lengths
            goal.handle.publish_feedback(ExecuteInstruction.Feedback(
                actions=goal.actions, sequence=report.sequence,
                acceptance_length=_mean(lengths), total_time=report.total_time))

    def succeed(self, instruction: str) -> None:
        """End the goal, if it is this instruction's: the task is done, an `EpisodeStatus` says."""
        goal = self._goal
        if goal is not None and goal.instruction == instruction:
            self.stop(Reason.SUCCESS)

    def stop(self, reason: int) -> None:
        """Withdraw the goal's instruction and end it, if there is one."""
        if self._goal is not None:
            self._follower.withdraw()
            self.end(reason)

    def end(self, reason: int) -> None:
        """End the goal, if there is one, whose instruction holds no more."""
        self._finish(self._replace(None), reason)

    def shut_down(self) -> None:
        """
        End the goal, accept none any more, and wait until the client has been sent the result.

        For the thread that ends the process, while the executor's still runs.
        """
        told = threading.Event()
        self._node.executor.create_task(self._shut_down, told)
        told.wait(_PATIENCE)

    def _shut_down(self, told: threading.Event) -> None:
        self._is_over, goal = True, self._goal
        if goal is None:
            told.set()
            return
        self.stop(Reason.SHUTDOWN)
        # Asked for after the client did, so it comes after the client's answer.
        self._server._result_futures[bytes(goal.handle.goal_id.uuid)].add_done_callback(
            lambda _: told.set())

    def _consider(self, goal: ExecuteInstruction.Goal) -> GoalResponse:
        reason = _IN_WORDS[Reason.SHUTDOWN] if self._is_over else self._refusal()
        if not reason and not goal.instruction.strip():
            reason = 'the instruction is empty'
        if not reason and not 0 <= goal.time_limit < math.inf:
            reason = f'time_limit is {goal.time_limit:g}, must be a number of seconds, 0 for none'
        if not reason:
            return GoalResponse.ACCEPT
        self._logger.warning(f'rejected a goal: {reason}')
        return GoalResponse.REJECT

    def _begin(self, handle: ServerGoalHandle) -> None:
        # `execute` would call back at once, for a result. An execute callback that waits for the
        # end would hold the executor's only thread or, as a coroutine, its callback group.
        handle._update_state(GoalEvent.EXECUTE)
        goal = _Goal(handle, handle.request.instruction.strip())
        before = self._replace(goal)
        if handle.request.time_limit:
            self._time_limit.every(handle.request.time_limit,
                                   lambda: self.stop(Reason.TIME_LIMIT))
        self._follower.follow(goal.instruction)
        self._finish(before, Reason.PREEMPTED)

    def _cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        goal = self._goal
        if goal is None or goal.handle != handle:  # it is ending already
            return CancelResponse.REJECT
        self.stop(Reason.CANCELED)
        return CancelResponse.ACCEPT

    def _replace(self, goal: _Goal | None) -> _Goal | None:
        """Make another goal the present one; return the one before."""
        self._time_limit.destroy()
        with self._lock:
            before, self._goal = self._goal, goal
        return before

    def _finish(self, goal: _Goal | None, reason: int) -> None:
        """Have the end of a goal told, after the callback under way."""
        if goal is None:
            return
        self._logger.info(f'the goal ended after {counted(goal.actions, "action")}: '
                          f'{_IN_WORDS[reason]}')
        self._results[bytes(goal.handle.goal_id.uuid)] = goal.result(reason)
        self._server.notify_execute(goal.handle, self._tell_end)

    def _tell_end(self, handle: ServerGoalHandle) -> ExecuteInstruction.Result:
        result = self._results.pop(bytes(handle.goal_id.uuid))
        if handle.is_cancel_requested:
            handle.canceled()
        elif result.reason == Reason.SUCCESS:
            handle.succeed()
        else:
            handle.abort()
        return result


def _mean(lengths: list[int]) -> float:
    return sum(lengths) / len(lengths) if lengths else math.nan
