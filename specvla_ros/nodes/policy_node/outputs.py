"""The outputs for controllers besides `action`; each can be switched on alone."""

from typing import Any

from geometry_msgs.msg import Pose, PoseStamped, TwistStamped
import numpy as np
from rclpy.node import Node
from std_msgs.msg import Float32, Header

from specvla_ros.data_sets import DatasetConfig
from specvla_ros.nodes import qos
from specvla_ros.nodes.policy_node.commands import GripperSwitch, target_pose_of, twist_of
from specvla_ros.nodes.policy_node.gripper_goals import GripperGoals
from specvla_ros.nodes.policy_node.settings import TopicSettings
from specvla_ros.nodes.topics import Topics

_LOG_PERIOD = 5.0
_STILL = np.zeros(7)


class Outputs:
    """
    Publishes `delta_twist_cmds`, `target_pose`, `gripper_command`, and gripper goals.

    They follow each control step as it is published. In lockstep, where an action is one message
    with several of them, they carry the first.
    """

    def __init__(self, node: Node, topics: Topics, settings: TopicSettings,
                 dataset: DatasetConfig) -> None:
        self._logger = node.get_logger()
        self._dataset = dataset
        self._target: Pose | None = None
        self._gripper = GripperSwitch(settings.gripper_hysteresis)
        self._twists = self._targets = self._grippers = self._goals = None
        if settings.publish_twist:
            topics.must_be_alone('delta_twist_cmds')
            self._twists = topics.publisher(TwistStamped, 'delta_twist_cmds', qos.STREAM)
        if settings.publish_pose:
            topics.must_be_alone('target_pose')
            self._targets = topics.publisher(PoseStamped, 'target_pose', qos.STREAM)
        if settings.publish_gripper:
            topics.must_be_alone('gripper_command')
            self._grippers = topics.publisher(Float32, 'gripper_command', qos.LATCHED)
        if settings.send_gripper_goals:
            self._goals = GripperGoals(
                node, topics, settings.gripper_action, settings.gripper_open_position,
                settings.gripper_closed_position, settings.gripper_max_effort)

    def publish(self, delta: np.ndarray, stamp: Any, pose: Pose | None) -> None:
        """
        Publish a control step.

        :param delta: float64 [7]: m, rad, gripper
        :param stamp: time of publishing
        :param pose: where the end effector is; None: unknown
        """
        self._publish_twist(delta, stamp)
        if self._targets is not None:
            if pose is None:
                self._logger.warning('no target_pose: nothing on current_pose says where the end '
                                     'effector is', throttle_duration_sec=_LOG_PERIOD)
            else:
                self._publish_target(target_pose_of(pose, delta), stamp)
        state = self._gripper.put(float(delta[6]))
        if self._grippers is not None and state is not None:
            self._grippers.publish(Float32(data=state))
        if self._goals is not None:
            self._goals.put(state)

    def stand_still(self, stamp: Any, pose: Pose | None, keeps_target: bool) -> None:
        """Publish what keeps the arm where it is or, if it `keeps_target`, at its last target."""
        self._publish_twist(_STILL, stamp)
        target = self._target if keeps_target or pose is None else pose
        if self._targets is not None and target is not None:
            self._publish_target(target, stamp)

    def hold_gripper(self) -> None:
        """Tell the gripper nothing more until the next action; see `GripperGoals.hold`."""
        if self._goals is not None:
            self._goals.hold()

    def wait_until_held(self) -> None:
        """Give the gripper a second to confirm `hold_gripper`; not in the executor's thread."""
        if self._goals is not None:
            self._goals.wait_until_held()

    @property
    def fault(self) -> str:
        """What became of gripper goals; '' where nothing is wrong."""
        return '' if self._goals is None else self._goals.fault

    def _publish_twist(self, delta: np.ndarray, stamp: Any) -> None:
        if self._twists is not None:
            self._twists.publish(TwistStamped(
                header=self._header(stamp), twist=twist_of(delta, self._dataset.period_s)))

    def _publish_target(self, target: Pose, stamp: Any) -> None:
        self._target = target
        self._targets.publish(PoseStamped(header=self._header(stamp), pose=target))

    def _header(self, stamp: Any) -> Header:
        return Header(stamp=stamp, frame_id=self._dataset.frame_id)
