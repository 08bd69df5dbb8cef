"""A control step as the messages that controllers take; needs no rclpy."""

from geometry_msgs.msg import Pose, Quaternion, Twist, Vector3
import numpy as np

_OPEN, _CLOSED = 1.0, 0.0


def twist_of(delta: np.ndarray, period: float) -> Twist:
    """
    Return the velocity that makes a control step, [7] (m, rad), in `period` seconds: m/s, rad/s.

    The period is the one of the training data, not the time an inference takes.
    """
    linear, angular = (delta[:3] / period).tolist(), (delta[3:6] / period).tolist()
    return Twist(linear=_vector(linear), angular=_vector(angular))


def target_pose_of(pose: Pose, delta: np.ndarray) -> Pose:
    """Return where a control step, [7] (m, rad), leads from a pose: p + dp, R(dr) R."""
    target = Pose()
    place = target.position
    place.x, place.y, place.z = (
        old + change for old, change in zip(
            (pose.position.x, pose.position.y, pose.position.z), delta[:3].tolist(), strict=True))
    target.orientation = _product(_quaternion(delta[3:6]), pose.orientation)
    return target


class GripperSwitch:
    """
    Switches open or closed with hysteresis: a policy that wavers makes no fingers rattle.

    :param hysteresis: width of the band around one half in which the state stays as it is
    """

    def __init__(self, hysteresis: float) -> None:
        self._low, self._high = 0.5 - hysteresis / 2, 0.5 + hysteresis / 2
        self._state: float | None = None

    def put(self, value: float) -> float | None:
        """Take a gripper value, 0 (closed) to 1 (open); return the new state if it changes."""
        if self._state is None:
            wanted = _OPEN if value >= 0.5 else _CLOSED
        elif self._low <= value <= self._high:
            return None
        else:
            wanted = _OPEN if value > self._high else _CLOSED
        if wanted == self._state:
            return None
        self._state = wanted
        return wanted


def _vector(values: list[float]) -> Vector3:
    x, y, z = values
    return Vector3(x=x, y=y, z=z)


def _quaternion(rotation: np.ndarray) -> Quaternion:
    """Return a rotation vector (rad) as a unit quaternion."""
    half = float(np.linalg.norm(rotation)) / 2
    # sin(a) / a by numpy's sinc(a / pi): exact at 0 as well
    x, y, z = (0.5 * np.sinc(half / np.pi) * rotation).tolist()
    return Quaternion(x=x, y=y, z=z, w=float(np.cos(half)))


def _product(a: Quaternion, b: Quaternion) -> Quaternion:
    """Return the rotation `b`, then `a`, of length one."""
    u, v = np.array([a.x, a.y, a.z]), np.array([b.x, b.y, b.z])
    w = a.w * b.w - u @ v
    vector = a.w * v + b.w * u + np.cross(u, v)
    x, y, z, w = (np.append(vector, w) / np.linalg.norm(np.append(vector, w))).tolist()
    return Quaternion(x=x, y=y, z=z, w=w)
