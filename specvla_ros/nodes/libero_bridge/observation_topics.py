"""What a simulated robot's sensors say, as ROS topics."""

from typing import TYPE_CHECKING

from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header

from specvla_ros.nodes import qos
from specvla_ros.nodes.conversions import fill_image, to_nanoseconds

if TYPE_CHECKING:
    from specvla_ros.libero.environment import Observation

JOINT_NAMES = (*(f'panda_joint{i}' for i in range(1, 8)),
               'panda_finger_joint1', 'panda_finger_joint2')


class ObservationTopics:
    """
    Publishes `image`, `joint_states` and `eef_pose`.

    :param pose_frame: frame of the end-effector pose; image_frame: of the camera image
    """

    def __init__(self, node: Node, pose_frame: str, image_frame: str) -> None:
        self._clock = node.get_clock()
        self._pose_frame, self._image_frame = pose_frame, image_frame
        self._images = node.create_publisher(Image, 'image', qos.CAMERA_PUBLISHER)
        self._joints = node.create_publisher(JointState, 'joint_states', qos.STREAM)
        self._poses = node.create_publisher(PoseStamped, 'eef_pose', qos.STREAM)

    @property
    def n_viewers(self) -> int:
        """How many subscribers the image has."""
        return self._images.get_subscription_count()

    def publish(self, observation: 'Observation') -> int:
        """
        Publish everything under one stamp, the time of publishing; return it (ns).

        The image comes last: a policy that has it has the pose for the walls of its workspace.
        """
        stamp = self._clock.now().to_msg()
        finger = observation.gripper_width / 2
        self._joints.publish(JointState(
            header=Header(stamp=stamp), name=JOINT_NAMES,
            position=[*observation.joint_positions.tolist(), finger, finger]))
        pose = PoseStamped(header=Header(stamp=stamp, frame_id=self._pose_frame))
        place, turn = pose.pose.position, pose.pose.orientation
        place.x, place.y, place.z = observation.eef_position.tolist()
        turn.x, turn.y, turn.z, turn.w = observation.eef_quaternion.tolist()
        self._poses.publish(pose)
        self._publish_image(observation, stamp)
        return to_nanoseconds(stamp)

    def resend_image(self, observation: 'Observation') -> int:
        """Publish the image alone, under a new stamp; return it (ns)."""
        stamp = self._clock.now().to_msg()
        self._publish_image(observation, stamp)
        return to_nanoseconds(stamp)

    def _publish_image(self, observation: 'Observation', stamp: Time) -> None:
        message = Image()
        fill_image(message, observation.image)
        message.header.frame_id = self._image_frame
        message.header.stamp = stamp
        self._images.publish(message)
