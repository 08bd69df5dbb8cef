"""What experts read of the simulator. All lengths are m, in the simulator's world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specvla_ros.libero.lying import Lying

if TYPE_CHECKING:
    from specvla_ros.libero.environment import LiberoEnv

Vector = NDArray[np.float64]
_SIGNS = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).T.reshape(-1, 3)


class Workspace:
    """The state of a task's simulator, by the names of its BDDL file."""

    def __init__(self, env: LiberoEnv) -> None:
        self._env, self._sim = env, env.sim
        self._model, self._data = env.sim.sim.model._model, env.sim.sim.data._data
        self._geoms_of: dict[str, list[int]] = {}

    @property
    def goals(self) -> list[list[str]]:
        """The task's goal: `[['in', object, region], …]`, all of which must hold."""
        return self._sim.parsed_problem['goal_state']

    def satisfied(self, goal: Sequence[str]) -> bool:
        """Whether a predicate of the goal holds now."""
        return bool(self._sim._eval_predicate(goal))

    @property
    def eef(self) -> Vector:
        """Where the fingers meet, [3]."""
        return self._env.raw['robot0_eef_pos']

    @property
    def base(self) -> Vector:
        """Where the robot stands, [3]."""
        return self._data.body('robot0_base').xpos.copy()

    @property
    def hand(self) -> Vector:
        """The rotation matrix [3, 3] of the hand: its z axis points along the fingers."""
        site = self._sim.robots[0].eef_site_id
        return np.array(self._data.site_xmat[site]).reshape(3, 3)

    @property
    def width(self) -> float:
        """Distance of the fingers: 0.08 open, 0 shut."""
        qpos = self._env.raw['robot0_gripper_qpos']
        return qpos[0] - qpos[1]

    def holds(self, name: str) -> bool:
        """Whether both fingers touch an object."""
        geoms = list(self._sim.get_object(name).contact_geoms)
        return self._sim._check_grasp(gripper=self._sim.robots[0].gripper, object_geoms=geoms)

    def movable(self, name: str) -> bool:
        """Whether this is an object that can be carried, not a fixture or a region."""
        return name in self._sim.objects_dict

    @property
    def objects(self) -> list[str]:
        """Names of all objects that can be carried."""
        return list(self._sim.objects_dict)

    def owner(self, region: str) -> str:
        """Return the object or fixture that a region belongs to, or the table; itself if none."""
        site = self._sim.object_sites_dict.get(region)
        return getattr(site, 'parent_name', None) or region

    def lying(self, name: str, place: str) -> Lying:
        """Return how an object lies relative to another or a fixture, or to a region's body."""
        return Lying.on(self._sim, name, place)

    def in_hand(self, name: str) -> Lying:
        """Return how an object lies relative to the hand."""
        return Lying.in_hand(self._sim, name)

    def position(self, name: str) -> Vector:
        """Origin [3] of an object or fixture, or the middle of a region."""
        if name in self._sim.object_sites_dict:
            return self._data.site(name).xpos.copy()
        return self._data.xpos[self._sim.obj_body_id[name]].copy()

    def extent(self, region: str) -> Vector:
        """Half the size [3] of a region, along the axes of the world."""
        site = self._data.site(region)
        size = self._model.site_size[self._model.site(region).id]
        return np.abs(site.xmat.reshape(3, 3) @ size)

    def region_axes(self, region: str) -> Vector:
        """Rotation matrix [3, 3] of a region."""
        return self._data.site(region).xmat.reshape(3, 3).copy()

    def bounds(self, name: str) -> tuple[Vector, Vector]:
        """Return the lowest and highest corner [3] of an object's collision geoms."""
        box = np.concatenate([self._corners(geom) for geom in self._geoms(name)])
        return box.min(0), box.max(0)

    def sides(self, name: str) -> tuple[Vector, float, float]:
        """Return an object's longest horizontal direction [3], its length, and its thickness."""
        corners = np.concatenate([self._corners(geom) for geom in self._geoms(name)])[:, :2]
        _, _, axes = np.linalg.svd(corners - corners.mean(0), full_matrices=False)
        long, short = np.ptp(corners @ axes.T, axis=0)
        return np.append(axes[0], 0.0), float(long), float(short)

    def parts(self, name: str) -> list[tuple[Vector, Vector]]:
        """Return the lowest and highest corner [3] of each of an object's collision geoms."""
        corners = [self._corners(geom) for geom in self._geoms(name)]
        return [(box.min(0), box.max(0)) for box in corners]

    def speed(self, name: str) -> float:
        """How fast an object moves, m/s."""
        first = self._model.body_dofadr[self._sim.obj_body_id[name]]
        return float(np.linalg.norm(self._data.qvel[first:first + 3]))

    def clearance(self, points: Vector, ignored: str) -> float:
        """Least distance from points [n, 3] to all things but one; the robot counts as none."""
        return self._distance(points, self._things(ignored))

    def apart(self, points: Vector, ignored: str) -> float:
        """Least distance from points [n, 3] to all objects but one; fixtures count as none."""
        return self._distance(points, [geom for name in self.objects if name != ignored
                                       for geom in self._geoms(name)])

    def _distance(self, points: Vector, geoms: list[int]) -> float:
        if not geoms:
            return np.inf
        turns = self._data.geom_xmat[geoms].reshape(-1, 3, 3)
        away = points[:, None] - self._data.geom_xpos[geoms]
        local = np.einsum('nij,pni->pnj', turns, away)
        middle, half = self._model.geom_aabb[geoms, :3], self._model.geom_aabb[geoms, 3:]
        outside = np.abs(local - middle) - half
        return float(np.linalg.norm(np.maximum(outside, 0), axis=2).min())

    def highest(self, point: Vector, around: Vector, ignored: str) -> float:
        """Height of the highest thing but one within `around` [2] of a point; -inf: none."""
        geoms = self._things(ignored)
        turns = self._data.geom_xmat[geoms].reshape(-1, 3, 3)
        centre = self._data.geom_xpos[geoms] + np.einsum(
            'nij,nj->ni', turns, self._model.geom_aabb[geoms, :3])
        half = np.einsum('nij,nj->ni', np.abs(turns), self._model.geom_aabb[geoms, 3:])
        near = (np.abs(centre - point)[:, :2] < half[:, :2] + around).all(1)
        return float((centre + half)[near, 2].max(initial=-np.inf))

    def height_around(self, name: str, margin: float) -> float:
        """How far a fixture that an object stands in reaches above its foot, within a margin."""
        low, high = self.bounds(name)
        middle, walls = (low + high)[:2] / 2, 0.0
        for fixture in self._sim.fixtures_dict:
            if fixture not in self._sim.obj_body_id:
                continue
            corners = [self._corners(geom) for geom in self._geoms(fixture)]
            boxes = [(box.min(0), box.max(0)) for box in corners]
            below = any((first[:2] < middle).all() and (last[:2] > middle).all()
                        and last[2] < low[2] + 0.01 for first, last in boxes)
            near = [last[2] - low[2] for first, last in boxes
                    if (first[:2] < high[:2] + margin).all() and
                    (last[:2] > low[:2] - margin).all()]
            if below and near:
                walls = max(walls, *near)
        return float(walls)

    def surface(self, point: Vector, above: float = 0.25) -> float:
        """Height of the first collision geom below a point [3], looked for from `above` it."""
        import mujoco
        groups, hit = np.array([1, 0, 0, 0, 0, 0], np.uint8), np.zeros(1, np.int32)
        start = np.asarray(point, float) + (0, 0, above)
        depth = mujoco.mj_ray(self._model, self._data, start, np.array([0.0, 0.0, -1.0]), groups,
                              1, -1, hit)
        return float(start[2] - depth)

    def jointed(self, name: str) -> bool:
        """Whether a region or fixture moves by a joint, as a drawer does and a caddy doesn't."""
        return bool((self._sim.object_sites_dict.get(name) or self._sim.get_object(name)).joints)

    def joint(self, name: str) -> tuple[float, Vector, Vector]:
        """Return position (m or rad), axis [3] and anchor [3] of a region's or fixture's joint."""
        thing = self._sim.object_sites_dict.get(name) or self._sim.get_object(name)
        joint = self._model.joint(thing.joints[0])
        return (float(self._data.qpos[joint.qposadr[0]]), self._data.xaxis[joint.id].copy(),
                self._data.xanchor[joint.id].copy())

    def travel(self, name: str) -> Vector:
        """Return how far [3] a drawer's geoms have still to go until it is fully open."""
        thing = self._sim.object_sites_dict.get(name) or self._sim.get_object(name)
        joint = self._model.joint(thing.joints[0])
        place, axis, _ = self.joint(name)
        return (joint.range[0] - place) * axis  # LIBERO's drawers open towards negative values

    def moving_boxes(self, name: str) -> list[tuple[Vector, Vector, Vector]]:
        """Return (centre [3], half size [3], axes [3, 3]) of the geoms that a joint moves."""
        thing = self._sim.object_sites_dict.get(name) or self._sim.get_object(name)
        body = self._model.joint(thing.joints[0]).bodyid[0]
        geoms = np.flatnonzero((self._model.geom_group == 0) & (self._model.geom_bodyid == body))
        boxes = []
        for geom in geoms:
            axes = self._data.geom_xmat[geom].reshape(3, 3)
            centre = self._data.geom_xpos[geom] + axes @ self._model.geom_aabb[geom, :3]
            boxes.append((centre, self._model.geom_aabb[geom, 3:].copy(), axes.copy()))
        return boxes

    def _things(self, ignored: str) -> list[int]:
        """Return the geoms of all objects and fixtures but one."""
        return [geom for name in (*self._sim.objects_dict, *self._sim.fixtures_dict)
                if name in self._sim.obj_body_id and name != ignored
                for geom in self._geoms(name)]

    def _geoms(self, name: str) -> list[int]:
        """Return the geoms of an object's body and its parts: they never change."""
        if name not in self._geoms_of:
            self._geoms_of[name] = self._found_geoms(name)
        return self._geoms_of[name]

    def _found_geoms(self, name: str) -> list[int]:
        root, found = self._sim.obj_body_id[name], []
        for geom in np.flatnonzero(self._model.geom_group == 0):
            body = self._model.geom_bodyid[geom]
            while body not in (root, 0):
                body = self._model.body_parentid[body]
            if body == root:
                found.append(int(geom))
        return found

    def _corners(self, geom: int) -> Vector:
        centre, half = self._model.geom_aabb[geom, :3], self._model.geom_aabb[geom, 3:]
        rotation = self._data.geom_xmat[geom].reshape(3, 3)
        return self._data.geom_xpos[geom] + (centre + _SIGNS * half) @ rotation.T
