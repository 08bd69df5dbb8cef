"""Where an object is taken: by its rim, from the top, or by a body too wide one way round."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from specvla_ros.libero.experts.motion import about_z
from specvla_ros.libero.experts.workspace import Vector, Workspace

# Inside measures of the gripper, m.
HELD_WIDTH = 0.075    # fingers further apart than this hold nothing
SHUT_WIDTH = 0.015    # nor do those closer together: they closed on air
NECK_WIDTH = 0.008    # the same for a bottle: its neck is 15 mm thick
KNOB_WIDTH = 0.006    # for a lid's knob, 10 mm thick
RIM_WIDTH = 0.004     # the same where they straddle a rim
RIM_CLOSED = 0.025    # a rim is held this far apart: until then they stay at its depth
MUG_CLOSED = 0.055    # the boxes of a mug's wall that fingers touch are up to 0.045 m thick
_FINGER = (0.030, 0.042, 0.050)  # from a rim outwards, where the outer finger is
_FINGER_UP = (0.0, 0.03)  # and how high: a drawer's handle may be beside it
_FINGER_ROOM = 0.008  # what the finger needs around that
_HAND, _HAND_UP = (-0.075, -0.035, 0, 0.035, 0.075), (0.06, 0.10)  # points within it, aside and up
_HAND_HALF = 0.034    # half of its thickness
_MARGIN = 0.008       # more room than that is no better
_CLOSE_BELOW, _FLAT_CLOSE_BELOW = 0.012, 0.006
# So far below the rim a mug and a bowl are taken. A bowl's is deep: a policy's fingers closed a
# centimetre or two higher than the expert's, and slipped off. In a drawer it is hardly reached.
_MUG_DEPTH, _BOWL_DEPTH = 0.020, 0.028
_BOWL_CLOSE_BELOW, _WALLED_CLOSE_BELOW = 0.002, 0.007
# How fast fingers that have closed rise. A bowl that is pulled fast out of a drawer tips, and fast
# fingers slip off a mug, which is thick, before they are closed.
_RISE, _SLOW_RISE = 0.010, 0.004
_RIM_SLIPS = 0.012    # fingers that close so far above a rim's depth slip off it
_BESIDE = 0.05        # fixtures that close to an object are walls around it
_END = 0.02           # fingers stay so far from a bar's end
_FLAT = 0.06          # lower objects lie flat
_SLIM = 2.0           # times as long as thick
_WIDE = 0.07          # open fingers are 0.08 apart
_TURNS = tuple(math.radians(angle) for angle in (0, -30, 30, -60, 60, -90, 90))


@dataclass(frozen=True, slots=True)
class Grasp:
    """
    How the hand takes an object; lengths in m.

    offset: [3] from the object's origin to where the fingers meet. foot: what hangs below them.
    turn: rotation matrix [3, 3] from the nominal hand, whose fingers open along y.
    close_below: height above the grasp at which the fingers close. shut: narrower fingers hold
    nothing. stay: until the fingers are this narrow they stay at the grasp's depth. slips: fingers
    that close so far above it slip off. rise: error upwards of fingers that have closed on a rim.
    """

    offset: Vector
    foot: float
    turn: Vector
    close_below: float = _CLOSE_BELOW
    shut: float = SHUT_WIDTH
    stay: float = math.inf
    slips: float = math.inf
    rise: float = 0.0

    @property
    def shallow(self) -> bool:
        """Whether fingers that are a few millimetres too high meet above the object."""
        return self.stay == math.inf and self.close_below <= _FLAT_CLOSE_BELOW


def grasp_of(scene: Workspace, name: str, way: Vector) -> Grasp:
    """Return how an object is taken where it stands now, to be carried by `way`, [3]."""
    low, high = scene.bounds(name)
    if 'bowl' in name or 'mug' in name:
        return _rim(scene, name, low, high, way)
    centre, extent = (low + high) / 2, high - low
    grasp = centre.copy()
    if 'moka' in name:  # 80 mm wide, with spout and handle: by the knob of its lid
        grasp = np.array([*scene.position(name)[:2], high[2] - 0.006])
        return Grasp(grasp - scene.position(name), grasp[2] - low[2], np.eye(3),
                     _FLAT_CLOSE_BELOW, KNOB_WIDTH)
    if extent[2] < _FLAT:
        grasp[2] = max(low[2] + 0.012, min(centre[2], high[2] - 0.02))
    else:
        grasp[2] = high[2] - 0.035
    turn = _narrow_turn(name, extent)
    along, long, short = scene.sides(name)
    if extent[2] >= _FLAT and long > _SLIM * short:  # a book: pinched askew it slips out
        turn = about_z(math.remainder(math.atan2(along[1], along[0]), math.pi))
    if extent[2] < _FLAT:
        grasp = _beside_neighbours(scene, name, grasp, turn, extent)
    return Grasp(grasp - scene.position(name), grasp[2] - low[2], turn,
                 _FLAT_CLOSE_BELOW if extent[2] < _FLAT else _CLOSE_BELOW,
                 NECK_WIDTH if 'bottle' in name else SHUT_WIDTH)


def walls_around(scene: Workspace, name: str) -> float:
    """How high the walls are that an object is lifted over, m; 0 where there are none."""
    around = scene.height_around(name, _BESIDE)
    return around + 0.01 if around > 0.01 else 0.0


def _beside_neighbours(
    scene: Workspace, name: str, grasp: Vector, turn: Vector, extent: Vector,
) -> Vector:
    """Return the grasp [3] of a bar, aside along it where the hand would hit what stands near."""
    most = max(extent[:2].max() / 2 - _END, 0.0)
    aside = [grasp + share * most * turn[:, 0] for share in (0, 0.5, -0.5, 1, -1)]
    return max(aside, key=lambda point: min(_hand_room(scene, point, turn, name), _MARGIN))


def _narrow_turn(name: str, extent: Vector) -> Vector:
    """Return the turn after which the fingers open along the narrow side."""
    if extent[1] > _WIDE and extent[0] < extent[1]:
        return about_z(-math.pi / 2)
    return np.eye(3)


def _rim(scene: Workspace, name: str, low: Vector, high: Vector, way: Vector) -> Grasp:
    """
    Take a bowl or a mug, too wide for the fingers: they straddle its rim where there is room.

    A bowl of 107 mm has 20 mm in front and behind in a drawer, but 50 mm beside it.
    """
    centre, position = (low + high) / 2, scene.position(name)
    radius = (high - low)[:2].min() / 2
    if 'mug' in name:  # the handle counts in one direction only
        depth, close_below, rise, stay = _MUG_DEPTH, _FLAT_CLOSE_BELOW, _SLOW_RISE, MUG_CLOSED
        centre[:2] = position[:2] + _mug_axis(low, high, position)
    else:
        walled = walls_around(scene, name) > 0
        close_below = _WALLED_CLOSE_BELOW if walled else _BOWL_CLOSE_BELOW
        depth, rise, stay = _BOWL_DEPTH, _SLOW_RISE if walled else _RISE, RIM_CLOSED
    best = (centre, np.eye(3), -np.inf)
    for angle in _TURNS:
        for side in (1, -1):
            turn = about_z(angle)
            outward = side * turn[:, 1]
            rim = centre + outward * (radius - 0.008)
            rim[2] = high[2] - depth
            if 'mug' in name and outward[:2] @ (centre - (low + high) / 2)[:2] < 0:
                continue  # on the handle's side
            fingers = [rim + outward * (out + 0.008) + (0, 0, up)
                       for out in _FINGER for up in _FINGER_UP]
            # A finger that hits a wall is worse than a hand that comes near one.
            room = min(0.0, 10 * (scene.clearance(np.array(fingers), name) - _FINGER_ROOM),
                       _hand_room(scene, rim, turn, name),
                       _hand_room(scene, rim + way, turn, name))
            if room > best[2] + 0.001:
                best = (rim, turn, room)
    grasp, turn, _ = best
    return Grasp(grasp - position, grasp[2] - low[2], turn, close_below, RIM_WIDTH,
                 stay, _RIM_SLIPS, rise)


def _hand_room(scene: Workspace, grasp: Vector, turn: Vector, name: str) -> float:
    """Return how far the hand stays from what stands around; below 0 it would hit it."""
    hand = [grasp + along * turn[:, 1] + (0, 0, up) for along in _HAND for up in _HAND_UP]
    return scene.clearance(np.array(hand), name) - _HAND_HALF


def _mug_axis(low: Vector, high: Vector, position: Vector) -> Vector:
    """Return from a mug's origin to the middle of its body, [2]: without the handle."""
    width = (high - low)[:2].min()
    middle = (low + high)[:2] / 2
    long = int((high - low)[1] > (high - low)[0])
    # The handle is on the side where the bounds are further from the origin.
    handle = np.sign(middle - position[:2])[long]
    body = middle.copy()
    far = high[long] if handle < 0 else low[long]
    body[long] = far + handle * width / 2
    return body - position[:2]
