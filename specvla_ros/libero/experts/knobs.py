"""The skill of turning a stove's knob. Lengths in m."""

from __future__ import annotations

import numpy as np

from specvla_ros.libero.experts.motion import about_z, CLOSED, Motion, OPEN, rotation_vector
from specvla_ros.libero.experts.workspace import Vector, Workspace

_HEIGHT = 0.035      # of the fingers above the knob's axis origin: the blade reaches to 0.05
_LEAD = 0.6          # rad: how far the hand turns ahead of the knob
_HELD = 0.05         # fingers closer than this hold the blade, which is 0.024 thick
_HOVER = 0.10


class TurnKnob:
    """Take the blade between the fingers and turn it."""

    def __init__(self, scene: Workspace, name: str, on: bool) -> None:
        self._scene, self.name, self._sign = scene, name, 1 if on else -1

    @property
    def held(self) -> bool:
        """Never: a knob is let go whenever another step is due."""
        return False

    @property
    def grip(self) -> Vector:
        """Where the fingers meet around the blade, [3]."""
        return self._scene.joint(self.name)[2] + (-0.005, 0.0, _HEIGHT)

    subject = target = grip  # a knob stays where it is

    def act(self, nominal: Vector) -> Motion:
        """Return the motion for the present state; nominal [3, 3]: the hand's first rotation."""
        angle, width = self._scene.joint(self.name)[0], self._scene.width
        error = self.grip - self._scene.eef
        radius = np.linalg.norm(error[:2])
        aligned = about_z(angle)
        if width < _HELD and np.linalg.norm(error) < 0.03:
            return Motion(error, CLOSED, about_z(angle + self._sign * _LEAD))
        astray = np.linalg.norm(rotation_vector(aligned @ nominal @ self._scene.hand.T)) - 0.15
        if radius < 0.012 and abs(error[2]) < 0.012 and astray < 0.15 or \
                width < 0.075 and np.linalg.norm(error) < 0.03:
            return Motion(error, CLOSED, aligned)
        error[2] += _HOVER * max(np.clip((radius - 0.010) / 0.05, 0, 1),
                                 np.clip(astray / 0.3, 0, 1)) - 0.004
        return Motion(error, OPEN, aligned)
