"""
Where the end effector is, by the topic `current_pose`.

A broken source must not take the walls of the workspace away. A position that is no number is
handed on, so that the envelope refuses every action; no target pose is made of it. If the source
falls silent, the walls stay where they were.
"""

from collections.abc import Callable
import math
import time

from geometry_msgs.msg import Pose, PoseStamped
import numpy as np
from rclpy.node import Node

from specvla_ros.nodes import qos
from specvla_ros.nodes.policy_node.silence import Silence
from specvla_ros.nodes.topics import Topics

_LOG_PERIOD = 5.0


class CurrentPose:
    """
    Subscribes `current_pose`.

    :param frame_id: the base frame of the actions; a pose in another one is not used
    :param patience: seconds after which no target is made of a pose any more
    :param hear: called with every position, float64 [3], m, finite or not
    """

    def __init__(self, node: Node, topics: Topics, frame_id: str, patience: float,
                 hear: Callable[[np.ndarray], None]) -> None:
        self._node, self._topics = node, topics
        self._logger, self._hear_position = node.get_logger(), hear
        self._silence: Silence | None = None  # a pose may be missing, but not any more once heard
        self._frame_id, self.patience = frame_id, patience
        self._known: tuple[Pose, float] | None = None
        topics.must_hear(PoseStamped, 'current_pose')  # without it the walls don't hold
        topics.subscribe(PoseStamped, 'current_pose', self._hear, qos.SENSOR_SUBSCRIBER,
                         'publish with durability, deadline and liveliness at their defaults')

    @property
    def pose(self) -> Pose | None:
        """The present pose; None if it is unknown, too old or no valid pose."""
        known = self._known
        if known is None or time.monotonic() - known[1] > self.patience:
            return None
        return known[0] if _is_pose(known[0]) else None

    @property
    def fault(self) -> str:
        """Which source fell silent; '' if nothing is wrong."""
        return '' if self._silence is None else self._silence.fault

    def _hear(self, message: PoseStamped) -> None:
        if message.header.frame_id != self._frame_id:
            self._logger.error(
                f'current_pose is in the frame {message.header.frame_id!r}, the actions are in '
                f'{self._frame_id!r}: it is not used. Publish it in that frame',
                throttle_duration_sec=_LOG_PERIOD)
            return
        if self._silence is None:
            self._silence = Silence(
                self._node, self._topics, 'current_pose (the walls hold by the last one and the '
                'steps since)', self._node.resolve_topic_name('current_pose'), PoseStamped)
        self._silence.note()
        self._known = message.pose, time.monotonic()
        self._hear_position(_position(message.pose))
        if not _is_pose(message.pose):
            self._logger.error(
                'current_pose is no pose: its position must be finite and its orientation a unit '
                'quaternion. No target_pose is made of it, and without a finite position there is '
                'no action', throttle_duration_sec=_LOG_PERIOD)


def _position(pose: Pose) -> np.ndarray:
    return np.array([pose.position.x, pose.position.y, pose.position.z])


def _is_pose(pose: Pose) -> bool:
    turn = pose.orientation
    length = math.hypot(turn.x, turn.y, turn.z, turn.w)
    return bool(np.isfinite(_position(pose)).all()) and abs(length - 1) < 1e-3  # NaN isn't
