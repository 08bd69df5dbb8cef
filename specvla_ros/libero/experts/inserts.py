"""The skill of putting a thing through a door: level, by its handle. Lengths in m."""

from __future__ import annotations

import itertools
import math

import numpy as np

from specvla_ros.libero.experts.motion import (
    about_z,
    CLOSED,
    FULL,
    Motion,
    OPEN,
    rotation,
    rotation_vector,
)
from specvla_ros.libero.experts.workspace import Vector, Workspace

_TILT = math.radians(70)   # of the fingers from straight down: the palm stays outside, over them
_HOVER = 0.09        # distance from the handle, along the hand, at which it lines up
_RADIUS = 0.012
_DEEP = 0.004        # of the fingers' aim beyond the bar
_OPEN, _AIR = 0.075, 0.008  # fingers further apart hold nothing yet, closer ones closed on air
_TURNED = 0.15       # rad
_RISE = 0.008        # while the fingers close: never still
_LIFT = 0.02         # height over its support at which it is carried fast
_OVER = 0.015        # over the floor it is carried, and let go below
_SILL = 0.03         # so far before the door it must be high enough
_IN = 0.008          # of the handle's end behind the shut door
_SLACK, _NEARLY = 0.012, 0.02  # aside, and of the depth: the door pushes it further
_ROOM = 0.02
_ASIDE = tuple(shift / 100 for shift in range(-8, 9))  # from the region's middle: where to look
_HAND, _PALM = 0.105, (0.04, 0.10)  # half of its width, and where it is along the fingers
_FACING = 0.8        # cosine between a handle and the door that it can be put in by
_STICKS_OUT = 1.5    # times as far from the middle as most of the thing: no rim of a bowl
_THICK = 0.05        # a handle that fingers go around, with room
_UP = np.array([0.0, 0.0, 1.0])


def goes_in_by_handle(scene: Workspace, name: str, region: str) -> bool:
    """Whether a thing has a handle on the side of the door of the case that a region is in."""
    owner = scene.owner(region)
    if scene.movable(owner) or scene.jointed(region) or not scene.jointed(owner):
        return False  # a basket, a drawer, a caddy
    outward, body = Case(scene, region).outward, _body(scene, name)
    low, high = _handle(scene, name)
    away = (low + high)[:2] / 2 - body
    usual = np.median([np.linalg.norm((first + last)[:2] / 2 - body)
                       for first, last in scene.parts(name)])
    across = np.abs(np.cross(outward, _UP)) @ (high - low)
    return bool(np.linalg.norm(away) > _STICKS_OUT * usual and across < _THICK
                and away @ outward[:2] > _FACING * np.linalg.norm(away))


def _handle(scene: Workspace, name: str) -> tuple[Vector, Vector]:
    """Return the corners [3] of the part that is furthest from an object's body."""
    body = _body(scene, name)
    return max(scene.parts(name), key=lambda box: np.linalg.norm(
        (box[0] + box[1])[:2] / 2 - body))


def _body(scene: Workspace, name: str) -> Vector:
    """Return the middle [2] of most of an object's parts: its handle's are few."""
    return np.median([(low + high)[:2] / 2 for low, high in scene.parts(name)], axis=0)


class Case:
    """What a skill knows of a case with a door on a vertical hinge, a microwave."""

    def __init__(self, scene: Workspace, region: str) -> None:
        owner = scene.owner(region)
        angle, axis, hinge = scene.joint(owner)
        centre, half, axes = max(scene.moving_boxes(owner), key=lambda box: box[1].max())
        back = rotation(axis, -angle)  # to where the door is when it is shut
        middle = scene.position(region)
        normal = (back @ axes)[:, int(np.argmin(half))]
        shut = hinge + back @ (centre - hinge)
        self.outward = normal * np.sign((shut - middle) @ normal)
        self.face = float(shut @ self.outward) - half.min()  # where the inside begins
        self.floor = scene.surface(middle, above=0.0)
        self.middle = middle


class Insert:
    """Take `name` by the handle, carry it through the door of a region's case, let go."""

    def __init__(self, scene: Workspace, name: str, region: str) -> None:
        self._scene, self.name, self._case = scene, name, Case(scene, region)
        self._aim = self._find_aim()
        self._rest = scene.bounds(name)[0][2]

    @property
    def held(self) -> bool:
        """Whether both fingers touch the object."""
        return self._scene.holds(self.name)

    @property
    def grip(self) -> Vector:
        """Middle of the handle's bar, [3]."""
        low, high = _handle(self._scene, self.name)
        return (low + high) / 2

    @property
    def subject(self) -> Vector:
        """Where the object is, [3]."""
        return self._scene.position(self.name)

    @property
    def target(self) -> Vector:
        """Where the object should go, [3]."""
        return self._aim

    @property
    def turn(self) -> Vector:
        """The hand's turn [3, 3]: nearly level, fingers beside each other."""
        out = self._case.outward
        yaw = math.atan(-out[0] / out[1]) if abs(out[1]) > 1e-6 else math.pi / 2
        return rotation(np.cross(_UP, out), _TILT) @ about_z(yaw + math.pi / 2)

    @property
    def back(self) -> Vector:
        """Unit vector [3] from the fingers to the hand."""
        return self._case.outward * math.sin(_TILT) + _UP * math.cos(_TILT)

    def act(self, nominal: Vector) -> Motion:
        """Return the motion for the present state; nominal [3, 3]: the hand's first rotation."""
        if self.held:
            return self._carry()
        error = self.grip - _DEEP * self.back - self._scene.eef
        distance, width = np.linalg.norm(error), self._scene.width
        angle = np.linalg.norm(rotation_vector(self.turn @ nominal @ self._scene.hand.T))
        astray = float(np.clip((angle - _TURNED) / 0.3, 0, 1))
        if _AIR < width and (distance < _RADIUS and astray < 0.5
                             or width < _OPEN and distance < 0.03):
            return Motion(error + _RISE * _UP, CLOSED, self.turn)
        along = error @ self.back
        across = error - along * self.back
        radius = np.linalg.norm(across)
        out = _HOVER * max(np.clip((radius - 0.008) / 0.04, 0, 1), astray)
        return Motion(across + (along + out) * self.back, OPEN, self.turn)

    def _carry(self) -> Motion:
        """Lift, go before the door, in, down, let go."""
        low, high = self._scene.bounds(self.name)
        error = self._aim - self._scene.position(self.name)
        inward = -self._case.outward
        left = float(error @ inward)
        aside = error - left * inward - error[2] * _UP
        low_by = self._case.floor + _OVER - low[2]
        if left < _NEARLY and np.linalg.norm(aside) < _SLACK:
            down = self._case.floor - low[2]
            return Motion(np.array([*error[:2], down]), OPEN if down > -_OVER else CLOSED,
                          self.turn)
        # Before the door until it is high enough and in line.
        ready = 1 - np.clip(max(low_by / 0.02, (np.linalg.norm(aside) - 0.008) / 0.03), 0, 1)
        go = min(left, max(self._before(low, high), ready * left))
        # As if the fingers still closed until it is off its support, then faster the higher it is.
        self._rest = min(self._rest, low[2])
        lifted = np.clip((low[2] - self._rest) / _LIFT, 0, 1)
        velocity = np.clip(go * inward + aside + low_by * _UP, -FULL, FULL)
        return Motion(lifted * velocity + (1 - lifted) * _RISE * _UP, CLOSED, self.turn)

    def _before(self, low: Vector, high: Vector) -> float:
        """Return how far the object may go on before it is in the door."""
        inward = -self._case.outward
        front = (low + high) / 2 @ inward + np.abs(inward) @ (high - low) / 2
        return float(-self._case.face - _SILL - front)

    def _find_aim(self) -> Vector:
        """Return where the object's origin goes, [3]: where there is room to both sides."""
        low, high = self._scene.bounds(self.name)
        position, out = self._scene.position(self.name), self._case.outward
        end = (low + high) / 2 @ out + np.abs(out) @ (high - low) / 2 - position @ out
        aside = np.cross(out, _UP)
        foot = self._case.floor + position[2] - low[2] + 0.002
        aim = (self._case.face - _IN - end) * out + \
            (self._case.middle @ aside) * aside + foot * _UP
        hand = self.grip - position + np.array([
            along * self.back + side * _HAND * aside for along in _PALM for side in (-1, 0, 1)])
        corners = np.array(list(itertools.product(*zip(low, high, strict=True)))) - position
        points = aim + _OVER * _UP + np.concatenate([corners, hand])

        def room(shift: float) -> float:
            return min(self._scene.clearance(points + shift * aside, self.name), _ROOM)
        return aim + max(sorted(_ASIDE, key=abs), key=room) * aside
