"""Where objects are put: onto or into others, on a spot of a table, into a drawer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import itertools

import numpy as np

from specvla_ros.libero.experts.workspace import Vector, Workspace

_NEAR = 0.07  # m, horizontally: an object over its place that is let go falls into it
_TIGHT = 0.012  # m: the slack in a drawer, which opens hardly wider than a bowl
_NARROW = 0.014  # m: of a thing that fits in one way round only: walls hold it off the middle
_GAP = 0.008   # m, between what is put into a drawer and its front
_EDGE = 0.015  # m: so far from a region's edge things are put
_BESIDE = 0.015  # m, gap between an object put on a region and its neighbours there
_FINGERS = 0.055  # m: from the middle of what they let go to the outside of open fingers
_ALONG = 0.05  # m: half the height above a region at which LIBERO's `On` holds


@dataclass(frozen=True, slots=True)
class Destination:
    """
    A destination; lengths in m, in the world.

    find: returns the point [3] over which the object's origin goes. top: height of what the
    object has to clear. drop: how far above that it is let go. inside: the object falls in, so
    its own origin is aimed at, not the grasp's usual offset. received: heights of the object's
    origin above the point, from which on it counts as let go. slack: how far aside it may be when
    it is let go. along: horizontal direction [3] that its long side must have, to fit; None: any.
    """

    find: Callable[[], Vector]
    top: float
    drop: float
    inside: bool
    received: float = 0.01
    slack: float = 0.025
    along: Vector | None = None

    @property
    def middle(self) -> Vector:
        """The point [3] over which the object's origin goes, now."""
        return self.find()

    def receives(self, thing: Vector) -> bool:
        """Whether an object whose origin is at [3] is over the place: let go, it falls in."""
        middle = self.middle
        return bool(np.linalg.norm(thing[:2] - middle[:2]) < _NEAR
                    and thing[2] > middle[2] + self.received)


def place_of(
    scene: Workspace, name: str, destination: str, inside: bool, slot: int = 0, slots: int = 1,
) -> Destination:
    """
    Return where `name` is put for the goal `In` (inside) or `On` destination.

    slot, slots: which of how many places side by side, where several objects go there.
    """
    owner = scene.owner(destination)
    if scene.movable(destination) or scene.movable(owner):
        shift = _slot(scene, name, destination, inside, slot, slots)
        return Destination(lambda: scene.position(owner) + shift, scene.bounds(owner)[1][2],
                     0.0 if inside else 0.01, inside)
    low, high = scene.bounds(name)
    bottom = scene.position(name)[2] - low[2]
    if inside:
        top, front = _walls(scene, destination, (high - low) / 2)
        along = _fitting(scene, name, destination)
        return Destination(lambda: scene.position(destination) + front, top, -0.03, True,
                           -0.02 + bottom, _TIGHT if along is None else _NARROW, along)
    # What is on a region is up to 0.1 m along its axis, which leans where a rack's board does.
    shift = _slot(scene, name, destination, inside, slot, slots)
    shift += _ALONG * scene.region_axes(destination)[:, 2]
    top = scene.surface(scene.position(destination) + shift)

    def spot() -> Vector:
        middle = np.array([*(scene.position(destination) + shift)[:2], top])
        return middle if slots > 1 else middle + _way_to_room(
            scene, name, middle, scene.extent(destination), high - low)
    return Destination(spot, top, 0.01, True, 0.01 + bottom)


def _way_to_room(
    scene: Workspace, name: str, middle: Vector, region: Vector, size: Vector,
) -> Vector:
    """
    Return the way [3] from a region's middle to where a thing and the fingers have room on it.

    region: half the region's size, [3]; size: of the thing, [3]. Zero where there is room in the
    middle; where there is none at all, the way to where there is most.
    """
    half = size / 2
    across = int(np.argmin(size[:2]))  # the fingers open along the narrow side
    half[across] = max(half[across], _FINGERS)
    body = middle + np.array(list(itertools.product(
        np.linspace(-half[0], half[0], 5), np.linspace(-half[1], half[1], 5),
        np.linspace(0.01, size[2], 3))))
    room = np.maximum(region - _EDGE, 0)
    shares = sorted(itertools.product((0, -0.5, 0.5, -1, 1), repeat=2), key=np.linalg.norm)
    ways = [np.array([x * room[0], y * room[1], 0.0]) for x, y in shares]
    rooms = (min(scene.apart(body + way, name), _BESIDE) for way in ways)
    best, most = ways[0], -np.inf
    for way, found in zip(ways, rooms, strict=True):
        if found > most:
            best, most = way, found
        if most >= _BESIDE:
            break
    return best


def _walls(scene: Workspace, region: str, half: Vector) -> tuple[float, Vector]:
    """
    Return the height of a drawer's or compartment's walls, and where in it things go, [3].

    A drawer's back stays in its cabinet: things of half size [3] go to its front.
    """
    if not scene.jointed(region):
        return scene.bounds(scene.owner(region))[1][2], np.zeros(3)
    top = max(centre[2] + np.abs(axes[2]) @ size
              for centre, size, axes in scene.moving_boxes(region))
    outward = -scene.joint(region)[1]
    room = float(np.abs(outward) @ (scene.extent(region) - half)) - _GAP
    return top, max(room, 0.0) * outward


def _fitting(scene: Workspace, name: str, region: str) -> Vector | None:
    """Return the direction [3] of a compartment's long side, if a thing fits in only along it."""
    extent = scene.extent(region)[:2]
    if scene.jointed(region) or scene.sides(name)[1] < 2 * extent.min():
        return None
    return np.eye(3)[int(np.argmax(extent))]


def _slot(
    scene: Workspace, name: str, destination: str, inside: bool, slot: int, slots: int,
) -> Vector:
    """Return from the middle of a region to a slot of it, [3], along x."""
    shift = np.zeros(3)
    if slots > 1:
        room = scene.extent(destination)[0]
        if inside:  # what is laid over the edge falls out
            low, high = scene.bounds(name)
            room = max(room - (high - low)[0] / 2, 0.0)
        shift[0] = room * 0.75 * (2 * slot / (slots - 1) - 1)
    return shift
