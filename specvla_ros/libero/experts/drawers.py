"""The skills of opening and closing a drawer by its handle. Lengths in m."""

from __future__ import annotations

import math

import numpy as np

from specvla_ros.libero.experts.motion import (
    about_z,
    CLOSED,
    Motion,
    OPEN,
    rotation,
    rotation_vector,
)
from specvla_ros.libero.experts.workspace import Vector, Workspace

# A hand that points straight down would hit the handle above; pointing level, the table.
_PULL_TILT, _PUSH_TILT = math.radians(82), math.radians(25)
_HOVER = 0.09        # distance from the handle, along the hand, at which it lines up
_CLOSE_RADIUS = 0.012
_SHUT_ON_BAR = 0.03  # fingers closer than this hold the bar
_SHUT_ON_AIR = 0.012
_OPENED = 0.070      # fingers further apart than this are open
_AWAY = 0.09         # distance from the handle from which fingers open again
_DEEP = 0.010        # of the bar's middle behind the point where the fingers meet
_EASE = 0.008        # so far they give way while they close
_TURNED = 0.15       # rad
# A hand further than this from its turn (rad) is turned the other way round, half a turn apart: on
# the longer way Panda's wrist came to its end. More than 90 degrees, so that a hand in the middle
# between the two doesn't go to and fro.
_OTHER_WAY = math.radians(115)
_UP = np.array([0.0, 0.0, 1.0])


class Drawer:
    """What both skills know of the drawer: its handle and the way it opens."""

    tilt, sideways = _PULL_TILT, 0.0

    def __init__(self, scene: Workspace, name: str) -> None:
        self._scene, self.name = scene, name
        self._outward = -scene.joint(name)[1]  # LIBERO's drawers open towards negative values

    @property
    def handle(self) -> Vector:
        """Middle of the handle's bar, [3]: of all its boxes the one furthest out."""
        boxes = self._scene.moving_boxes(self.name)
        return max((centre for centre, _, _ in boxes), key=lambda centre: centre @ self._outward)

    @property
    def held(self) -> bool:
        """Never: a handle is let go whenever another step is due."""
        return False

    grip = subject = handle

    @property
    def target(self) -> Vector:
        """Middle of the drawer, [3]."""
        return self._scene.position(self.name)

    @property
    def turn(self) -> Vector:
        """The hand's turn [3, 3]: it points at the drawer, tilted down."""
        out = self._outward
        yaw = math.atan(-out[0] / out[1]) if abs(out[1]) > 1e-6 else math.pi / 2
        return rotation(np.cross(_UP, out), self.tilt) @ about_z(yaw + self.sideways)

    @property
    def back(self) -> Vector:
        """Unit vector [3] from the handle to the hand."""
        return self._outward * math.sin(self.tilt) + _UP * math.cos(self.tilt)

    def astray(self, nominal: Vector) -> float:
        """How far the hand is from its turn, 0 to 1."""
        return float(np.clip((self._angle(nominal) - _TURNED) / 0.3, 0, 1))

    def _angle(self, nominal: Vector) -> float:
        """Return the angle between the hand and its turn, rad."""
        return float(np.linalg.norm(rotation_vector(self.turn @ nominal @ self._scene.hand.T)))


class OpenDrawer(Drawer):
    """Take the handle's bar between the fingers and pull."""

    def act(self, nominal: Vector) -> Motion:
        """Return the motion for the present state; nominal [3, 3]: the hand's first rotation."""
        error = self.handle - _DEEP * self.back - self._scene.eef
        distance, width = np.linalg.norm(error), self._scene.width
        if _SHUT_ON_AIR < width < _SHUT_ON_BAR and distance < 0.03:
            along = error @ self._outward
            return Motion(error - along * self._outward + 0.03 * self._outward, CLOSED, self.turn)
        astray = self.astray(nominal)
        if distance < _CLOSE_RADIUS + 0.004 and astray < 0.5 or \
                _SHUT_ON_AIR < width < 0.075 and distance < 0.03:
            # Outwards meanwhile: a finger that hung behind the cabinet's edge never closed.
            return Motion(error + _EASE * self.back, CLOSED, self.turn)
        along = error @ self.back
        across = error - along * self.back
        if width < _OPENED:
            # They slipped off. One picture doesn't tell a policy whether fingers beside a handle
            # open or close, so they go on as if they pulled, and open where there is none.
            opens = distance > _AWAY
            return Motion((along + _AWAY + 0.03) * self.back, OPEN if opens else CLOSED, self.turn)
        radius = np.linalg.norm(across)
        out = _HOVER * max(np.clip((radius - 0.008) / 0.04, 0, 1), astray)
        return Motion(across + (along + out) * self.back, OPEN, self.turn)


class CloseDrawer(Drawer):
    """Push the handle with closed fingers."""

    tilt, sideways = _PUSH_TILT, math.pi / 2

    def act(self, nominal: Vector) -> Motion:
        """Return the motion for the present state; nominal [3, 3]: the hand's first rotation."""
        # Closed fingers push as well either way round.
        turn = self.turn if self._angle(nominal) < _OTHER_WAY else self.turn @ about_z(math.pi)
        error = self.handle - self._scene.eef
        ahead = -float(error @ self._outward)  # so far the fingers are in front of the handle
        across = error + ahead * self._outward
        radius = np.linalg.norm(across)
        if radius < 0.025 and ahead > -0.01:
            return Motion(across - 0.04 * self._outward, CLOSED, turn)
        # Over the handle, out, and down in front of it.
        over = 0.12 * np.clip((0.07 - ahead) / 0.03, 0, 1)
        return Motion(across + (_HOVER - ahead) * self._outward + over * _UP, CLOSED, turn)
