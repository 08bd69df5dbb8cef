"""Where the end effector is, as far as anybody says so."""

import time

from geometry_msgs.msg import Pose, PoseStamped
import numpy as np
from rclpy.node import Node

from specvla_ros.nodes import qos
from specvla_ros.nodes.topics import Topics

_LOG_PERIOD = 5.0


class CurrentPose:
    """
    Subscribes `current_pose`.

    :param frame_id: the base frame of the actions; a pose in another one is not used
    :param patience: seconds after which a pose says nothing about the present
    """

    def __init__(self, node: Node, topics: Topics, frame_id: str, patience: float) -> None:
        self._logger = node.get_logger()
        self._frame_id, self.patience = frame_id, patience
        self._known: tuple[Pose, float] | None = None
        topics.subscribe(PoseStamped, 'current_pose', self._hear, qos.SENSOR_SUBSCRIBER,
                         'publish with durability, deadline and liveliness at their defaults')

    @property
    def pose(self) -> Pose | None:
        """The present pose; None if it is unknown."""
        known = self._known
        if known is None or time.monotonic() - known[1] > self.patience:
            return None
        return known[0]

    def _hear(self, message: PoseStamped) -> None:
        if message.header.frame_id != self._frame_id:
            self._logger.error(
                f'current_pose is in the frame {message.header.frame_id!r}, the actions are in '
                f'{self._frame_id!r}: it is not used. Publish it in that frame',
                throttle_duration_sec=_LOG_PERIOD)
        elif not abs(_length(message.pose) - 1) < 1e-3:  # nor is NaN
            self._logger.error('the orientation of current_pose is no unit quaternion: it is not '
                               'used', throttle_duration_sec=_LOG_PERIOD)
        else:
            self._known = message.pose, time.monotonic()


def position_of(pose: Pose) -> np.ndarray:
    """Return the position, float64 [3], m."""
    return np.array([pose.position.x, pose.position.y, pose.position.z])


def _length(pose: Pose) -> float:
    turn = pose.orientation
    return float(np.linalg.norm([turn.x, turn.y, turn.z, turn.w]))
