"""How a thing lies on, in or between others, to lay it so again where those are elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Lying:
    """
    An object's place relative to a body of the simulator.

    body: its number, 0 for the world. place: [3] m along the body's axes; turn: rotation matrix
    [3, 3] from the object's axes to the body's.
    """

    thing: str
    body: int
    place: NDArray[np.float64]
    turn: NDArray[np.float64]

    @classmethod
    def on(cls, scene: Any, thing: str, other: str) -> Lying:
        """
        Return how an object lies relative to another, a fixture or a region; else in the world.

        Relative to a region that is relative to what moves with it: a drawer, not its cabinet.
        """
        model = scene.sim.model
        site = other in scene.object_sites_dict
        return cls._of(scene, thing, int(model.site_bodyid[model.site_name2id(other)]) if site
                       else scene.obj_body_id.get(other, 0))

    @classmethod
    def in_hand(cls, scene: Any, thing: str) -> Lying:
        """Return how an object lies relative to the hand."""
        return cls._of(scene, thing, int(scene.sim.model.site_bodyid[scene.robots[0].eef_site_id]))

    @classmethod
    def _of(cls, scene: Any, thing: str, body: int) -> Lying:
        data, own = scene.sim.data, scene.obj_body_id[thing]
        axes = data.xmat[body].reshape(3, 3)
        return cls(thing, body, axes.T @ (data.xpos[own] - data.xpos[body]),
                   axes.T @ data.xmat[own].reshape(3, 3))

    def lay(self, scene: Any) -> None:
        """Lay the object so, relative to where the body is now; nothing else moves."""
        import mujoco
        model, data = scene.sim.model, scene.sim.data
        axes = data.xmat[self.body].reshape(3, 3)
        first = model.jnt_qposadr[model.body_jntadr[scene.obj_body_id[self.thing]]]
        data.qpos[first:first + 3] = data.xpos[self.body] + axes @ self.place
        turn = np.empty(4)
        mujoco.mju_mat2Quat(turn, (axes @ self.turn).ravel())
        data.qpos[first + 3:first + 7] = turn
        scene.sim.forward()
