"""The skills of opening and closing a door on a vertical hinge, a microwave's. Lengths in m."""

from __future__ import annotations

import math

import numpy as np

from specvla_ros.libero.experts.motion import about_z, CLOSED, Motion, OPEN, rotation_vector
from specvla_ros.libero.experts.workspace import Vector, Workspace

_RADIUS = 0.19      # from the hinge to where the door is pushed: short of the handle
_BELOW_TOP = 0.02
_HOVER = 0.10
_AJAR = 0.5         # rad: open so far there is room for the fingers behind the door
_NEAR = 0.012       # of the fingers to the handle's bar, at which they close
_AT_BAR = 0.03      # closing fingers are no further from it
_SHUT_ON_AIR, _SHUT_ON_BAR = 0.012, 0.04  # closed fingers are as far apart as the bar is thick
_LET_GO = 0.06
_TURNED = 0.15      # rad
_SKEWED = math.radians(60)  # middle of the angles by which the hand turns
_PULL, _EASE = 0.03, 0.008
_UP = np.array([0.0, 0.0, 1.0])


class Door:
    """What both skills know of a door; LIBERO's shut towards positive angles, 0 is shut."""

    standoff, sign = 0.07, 1

    def __init__(self, scene: Workspace, name: str) -> None:
        self._scene, self.name = scene, name

    @property
    def held(self) -> bool:
        """Never: a door is let go whenever another step is due."""
        return False

    @property
    def subject(self) -> Vector:
        """Middle of the door, [3]."""
        return self._door[0]

    grip = subject  # of both skills: the one must not back out of where the other pushes

    @property
    def target(self) -> Vector:
        """The hinge, [3]."""
        return self._scene.joint(self.name)[2]

    @property
    def _door(self) -> tuple[Vector, Vector, Vector]:
        """The door's largest box: centre [3], half size [3], axes [3, 3]."""
        return max(self._scene.moving_boxes(self.name), key=lambda box: box[1].max())

    def _directions(self) -> tuple[Vector, Vector]:
        """Return unit vectors [3]: from the hinge along the door, and the way it shuts."""
        _, axis, hinge = self._scene.joint(self.name)
        along = (self._door[0] - hinge) * (1, 1, 0)
        along /= np.linalg.norm(along)
        return along, np.cross(axis, along)

    def _push(self) -> Motion:
        """Push the door with closed fingers: to shut it from outside, to open it from inside."""
        centre, half, axes = self._door
        top = centre[2] + np.abs(axes[2]) @ half
        along, shutting = self._directions()
        onward = self.sign * shutting
        eef = self._scene.eef - self._scene.joint(self.name)[2]
        reach, side, height = eef @ along, eef @ onward, self._scene.eef[2]
        low = top - _BELOW_TOP
        straight = (_RADIUS - reach) * along + (low - height) * _UP
        if abs(_RADIUS - reach) < 0.05 and -0.13 < side < 0 and height < low + 0.015:
            return Motion(straight + 0.04 * onward, CLOSED)
        error = (_RADIUS - reach) * along + (-self.standoff - side) * onward
        radius = np.linalg.norm(error)
        error = error + (low + _HOVER * np.clip((radius - 0.02) / 0.04, 0, 1) - height) * _UP
        if height < top + 0.05 and side > -0.04 and radius > 0.06:  # over the door first
            error = error * (0.1, 0.1, 1) + 0.05 * _UP
        return Motion(error, CLOSED)


class CloseDoor(Door):
    """Push the door shut from outside."""

    def act(self, nominal: Vector) -> Motion:
        """Return the motion for the present state; nominal is not needed."""
        return self._push()


class OpenDoor(Door):
    """Pull the door by its handle until it is ajar, then push it open from inside."""

    standoff, sign = 0.045, -1

    @property
    def handle(self) -> Vector:
        """Where the fingers take the handle's upright bar, [3]: near its top."""
        _, shutting = self._directions()
        centre, half, axes = max(self._scene.moving_boxes(self.name),
                                 key=lambda box: -float(box[0] @ shutting))
        return centre + (np.abs(axes[2]) @ half - _BELOW_TOP) * _UP

    @property
    def turn(self) -> Vector:
        """The hand's turn [3, 3]: the fingers open along the door."""
        along, _ = self._directions()
        angle = math.atan2(along[1], along[0]) + math.pi / 2
        return about_z(math.remainder(angle - _SKEWED, math.pi) + _SKEWED)

    def act(self, nominal: Vector) -> Motion:
        """Return the motion for the present state; nominal [3, 3]: the hand's first rotation."""
        error, width = self.handle - self._scene.eef, self._scene.width
        distance = np.linalg.norm(error)
        if -self._scene.joint(self.name)[0] > _AJAR:
            if distance < _LET_GO and width > _SHUT_ON_AIR:
                return Motion(_HOVER * _UP, OPEN, self.turn)
            return self._push()
        opening = -self._directions()[1]
        if _SHUT_ON_AIR < width < _SHUT_ON_BAR and distance < _AT_BAR:
            return Motion(error - (error @ opening) * opening + _PULL * opening, CLOSED, self.turn)
        angle = np.linalg.norm(rotation_vector(self.turn @ nominal @ self._scene.hand.T))
        astray = float(np.clip((angle - _TURNED) / 0.3, 0, 1))
        if distance < _NEAR and astray < 0.5 or \
                _SHUT_ON_AIR < width < 0.075 and distance < _AT_BAR:
            return Motion(error + _EASE * opening, CLOSED, self.turn)
        radius = np.linalg.norm(error[:2])
        over = _HOVER * max(np.clip((radius - 0.008) / 0.04, 0, 1), astray)
        return Motion(error + over * _UP, OPEN, self.turn)
