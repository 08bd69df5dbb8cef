"""The gripper as goals for ros2_control's gripper controllers, where `control_msgs` is there."""

from typing import Any

from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.task import Future

from specvla_ros.errors import SpecVLAError

_LOG_PERIOD = 5.0


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


class GripperGoals:
    """
    Sends a goal on `gripper_cmd` each time the gripper is to open or close.

    :param opened: position of the open gripper, in the units of its controller: m of a finger
    :param closed: position of the closed one
    :param effort: the most it may press with, N
    :raises SpecVLAError: `control_msgs` isn't installed
    """

    def __init__(self, node: Node, opened: float, closed: float, effort: float) -> None:
        self._node = node
        self._action = gripper_command()
        self._opened, self._closed, self._effort = opened, closed, effort
        self._wanted: float | None = None
        self._client = ActionClient(node, self._action, 'gripper_cmd')

    def put(self, state: float | None) -> None:
        """Go to a state, 0 (closed) or 1 (open); None: as before, if that was sent already."""
        self._wanted = self._wanted if state is None else state
        if self._wanted is None:
            return
        if not self._client.server_is_ready():
            self._node.get_logger().warning(
                'nobody serves gripper_cmd: the gripper is told once somebody does',
                throttle_duration_sec=_LOG_PERIOD)
            return
        goal = self._action.Goal()
        goal.command.position = self._opened if self._wanted else self._closed
        goal.command.max_effort = self._effort
        self._wanted = None
        # In the executor's thread: rclpy misses an answer that comes before its question is noted.
        self._node.executor.create_task(self._send, goal)

    def destroy(self) -> None:
        """Take the client away; the goal under way is the controller's to finish."""
        self._client.destroy()

    def _send(self, goal: Any) -> None:
        self._client.send_goal_async(goal).add_done_callback(self._hear)

    def _hear(self, future: Future) -> None:
        if not future.result().accepted:
            self._node.get_logger().error('gripper_cmd rejected the goal',
                                          throttle_duration_sec=_LOG_PERIOD)
