"""The skill of pushing an object over the table. Lengths in m."""

from __future__ import annotations

import numpy as np

from specvla_ros.libero.experts.motion import CLOSED, Motion
from specvla_ros.libero.experts.workspace import Vector, Workspace

_INNER = 0.005      # from a plate's middle to the fingers: over its foot, or it tips
_PRESSED = 0.012    # of the fingers' aim below the rim's top: they press on the plate's floor
_AHEAD = 0.045      # fingers further ahead of that have slipped
_HOVER = 0.10
_UP = np.array([0.0, 0.0, 1.0])


class PushTo:
    """Draw a plate to a region, with closed fingers inside its rim on the leading side."""

    def __init__(self, scene: Workspace, name: str, destination: str) -> None:
        self._scene, self.name, self.destination = scene, name, destination
        low, high = scene.bounds(name)
        self._top = high[2] - scene.position(name)[2]

    @property
    def held(self) -> bool:
        """Never: the hand only pushes."""
        return False

    @property
    def subject(self) -> Vector:
        """Middle of the plate, [3]."""
        return self._scene.position(self.name)

    grip = subject

    @property
    def target(self) -> Vector:
        """Middle of the region, [3]."""
        return self._scene.position(self.destination)

    def act(self, nominal: Vector) -> Motion:
        """Return the motion for the present state; nominal is not needed."""
        plate, eef = self._scene.position(self.name), self._scene.eef
        way = (self._scene.position(self.destination) - plate)[:2]
        ahead = np.append(way / max(float(np.linalg.norm(way)), 1e-6), 0)
        error = plate + _INNER * ahead + (self._top - _PRESSED) * _UP - eef
        radius = np.linalg.norm(error[:2])
        lead = error @ ahead
        aside = np.linalg.norm(error[:2] - lead * ahead[:2])
        if aside < 0.025 and -_AHEAD < lead < 0.025 and abs(error[2]) < 0.02:
            drag = min(0.03, float(np.linalg.norm(way)) + 0.01)
            return Motion(error + (drag - lead) * ahead, CLOSED)
        error[2] += _HOVER * np.clip((radius - 0.012) / 0.05, 0, 1)
        return Motion(error, CLOSED)
