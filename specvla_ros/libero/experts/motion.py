"""What a skill wants the hand to do in one step, and how that becomes an action."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from specvla_ros.libero.environment import ROTATION_SCALE, TRANSLATION_SCALE
from specvla_ros.libero.experts.workspace import Vector

OPEN, CLOSED = 1.0, 0.0
GAIN = 1.5  # share of the translation error per step; saturates beyond 33 mm
FULL = TRANSLATION_SCALE / GAIN  # m: errors beyond it are answered at full speed
ROTATION_GAIN = 0.3
ROTATION_DEADBAND = 0.10  # rad: smaller errors are left alone: the label is exactly zero


@dataclass(frozen=True, slots=True)
class Motion:
    """
    A step of the hand.

    error: [3] m, how far the fingers are from where they should go. gripper: 1 = open, 0 = closed.
    turn: rotation matrix [3, 3], from the hand's nominal orientation to the one wanted.
    """

    error: Vector
    gripper: float
    turn: Vector = field(default_factory=lambda: np.eye(3))

    def action(self, hand: Vector, nominal: Vector) -> Vector:
        """Return the SI action [7], for rotation matrices [3, 3] of the hand, now and nominal."""
        action = np.zeros(7)
        action[:3] = np.clip(GAIN * self.error, -TRANSLATION_SCALE, TRANSLATION_SCALE)
        twist = rotation_vector(self.turn @ nominal @ hand.T)
        if np.linalg.norm(twist) >= ROTATION_DEADBAND:
            action[3:6] = np.clip(ROTATION_GAIN * twist, -ROTATION_SCALE, ROTATION_SCALE)
        action[6] = self.gripper
        return action


def rotation_vector(matrix: Vector) -> Vector:
    """Return axis times angle [3], rad, of a rotation matrix [3, 3]."""
    import cv2
    return np.asarray(cv2.Rodrigues(matrix)[0], float).ravel()


def rotation(axis: Vector, angle: float) -> Vector:
    """Return the rotation matrix [3, 3] of a unit axis [3] and an angle in rad."""
    import cv2
    return np.asarray(cv2.Rodrigues(np.asarray(axis, float) * angle)[0], float)


def about_z(angle: float) -> Vector:
    """Return the rotation matrix [3, 3] about the vertical, rad."""
    return rotation(np.array([0.0, 0.0, 1.0]), angle)
