"""Find objects that an opening drawer would cover, and a free spot for them. Lengths in m."""

from __future__ import annotations

import itertools

import numpy as np

from specvla_ros.libero.experts.places import Destination
from specvla_ros.libero.experts.workspace import Vector, Workspace

_COVERED = 0.03      # nearer to where the drawer comes to, the hand finds no room
_ASIDE = 0.06        # so far from there it is put
_ROOM = 0.045        # from other things
_CARRIED = 0.06      # so high it is carried at least
_REACH = 0.70        # from the robot's foot: stretched out further, the hand can't turn level
_SLACK = 0.015       # that it may stand beside its spot
_STEP, _FURTHEST = 0.02, 0.30
_HAND_ABOVE = 0.10   # of an object's top: the hand needs the same room up to there


def covered(scene: Workspace, thing: str, drawer: str) -> bool:
    """Whether an object stands where a drawer comes to as it opens, or below that."""
    low, high = scene.bounds(thing)
    first, last = _sweep(scene, drawer)
    return bool(low[2] < last[2] and _gap(low, high, first, last) < _COVERED)


def aside_of(scene: Workspace, thing: str, drawer: str) -> Destination:
    """Return a spot beside the way of a drawer; the present one if none is within reach."""
    low, high = scene.bounds(thing)
    position = scene.position(thing)
    shift = _way_aside(scene, thing, drawer)
    top = scene.surface(position + shift)
    spot = np.array([*(position + shift)[:2], top])
    return Destination(lambda: spot, top, 0.01, True, 0.01 + position[2] - low[2], _SLACK)


def _way_aside(scene: Workspace, thing: str, drawer: str) -> Vector:
    """
    Return the way [3] to a spot where the object and a hand above it have room.

    Of all such spots that from which the whole way, on to the drawer, is shortest; where no spot
    has room enough, that with most.
    """
    position, (low, high) = scene.position(thing), scene.bounds(thing)
    first, last = _sweep(scene, drawer)
    onward = scene.position(drawer) + scene.travel(drawer) - position
    grid = np.arange(-_FURTHEST, _FURTHEST + _STEP / 2, _STEP)
    ways = [way for way in (np.array([x, y, 0.0]) for x in grid for y in grid)
            if _gap(low + way, high + way, first, last) >= _ASIDE
            and np.linalg.norm((position + way - scene.base)[:2]) < _REACH]
    body = np.array(list(itertools.product(
        np.linspace(low[0], high[0], 3), np.linspace(low[1], high[1], 3),
        (low[2] + 0.01, high[2], high[2] + _HAND_ABOVE))))

    def room(way: Vector) -> float:
        points = np.concatenate([body + way, _between(body, way)])
        return min(scene.clearance(points, thing), _ROOM)

    ways.sort(key=lambda way: float(np.linalg.norm(way) + np.linalg.norm((onward - way)[:2])))
    free = next((way for way in ways if room(way) >= _ROOM), None)
    return max(ways, key=room, default=np.zeros(3)) if free is None else free


def _between(body: Vector, shift: Vector) -> Vector:
    """Return where points [n, 3] come by as they are carried by a shift, [3 n, 3]."""
    return np.concatenate([body + share * shift + (0, 0, _CARRIED) for share in (0.3, 0.5, 0.8)])


def _sweep(scene: Workspace, drawer: str) -> tuple[Vector, Vector]:
    """Return the lowest and highest corner [3] of all places that a drawer comes to."""
    corners = [centre + sign * (np.abs(axes) @ half) + way
               for centre, half, axes in scene.moving_boxes(drawer)
               for sign in (-1, 1) for way in (np.zeros(3), scene.travel(drawer))]
    return np.min(corners, 0), np.max(corners, 0)


def _gap(low: Vector, high: Vector, first: Vector, last: Vector) -> float:
    """Horizontal distance of two boxes, given by their corners [3]; 0 where they overlap."""
    apart = np.maximum(np.maximum(first - high, low - last), 0)
    return float(np.linalg.norm(apart[:2]))
