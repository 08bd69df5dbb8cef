"""The skill of picking an object up and putting it somewhere."""

from __future__ import annotations

import math

import numpy as np

from specvla_ros.libero.experts.grasps import Grasp, grasp_of, HELD_WIDTH, walls_around
from specvla_ros.libero.experts.motion import (
    about_z,
    CLOSED,
    FULL,
    Motion,
    OPEN,
    rotation_vector,
)
from specvla_ros.libero.experts.places import Destination
from specvla_ros.libero.experts.workspace import Vector, Workspace

_HOVER = 0.10           # height above the grasp from which the descent starts
_GRASP_RADIUS = 0.015   # horizontal error at which the fingers may close
_FREE = 0.05            # so far above the grasp fingers may open or close
_CLEARANCE = 0.05       # between a carried object and its destination
_LIFT = 0.03            # height over its support at which an object is lifted fast
_LIFT_RADIUS = 0.08     # not so close to the destination, which may be as low
_WITHIN = 0.08          # from where it was seen, an object may still be within the walls
_CLIMB = 0.16           # places so much higher are gone to by rising first
_MOVED = 0.02           # an object that moved so far is looked at anew
_TURNED = 0.15          # rad: a hand further from its turn stays above
_AHEAD = 0.06           # so far ahead is looked for what the hand or the object would hit
_FALLS = 0.05           # m/s: a slower object is at rest; it may rest on an edge
# Share of the error aside that is made up for once the fingers have closed on a rim, and on the
# way out of walls. A centimetre does no harm then. A policy hardly sees it: told to make up for
# all of it, it moved the hand to and fro. Zero would be a sharp peak among the answers.
_ASIDE = 0.3
_LIFTED, _AT_HAND = 0.01, 0.02  # so high off its support, so near to the fingers: held
_HAND = np.array([0.04, 0.11])  # from the fingers to the sides of the hand, along x and y
_FITS = 0.12            # rad: an object that is turned no further from its place's sides goes in
_HANGS = 0.03           # so much lower than a level one a corner may be
_SKEWED = math.radians(30)  # off the middle of the angles by which it is turned
_OVER = 0.03            # of the fingers over what is below the hand on its way


class Put:
    """Pick `name` up, carry it over `place`, let go. Lengths in m."""

    def __init__(self, scene: Workspace, name: str, place: Destination) -> None:
        self._scene, self.name, self.place = scene, name, place
        self._look()

    def act(self, nominal: Vector) -> Motion:
        """Return the motion for the present state; nominal [3, 3]: the hand's first rotation."""
        if self.held:
            return self._carry(nominal)
        return self._approach(nominal)

    @property
    def held(self) -> bool:
        """Whether the fingers hold the object: touch it with both pads, or have lifted it."""
        if self._scene.holds(self.name):
            return True
        away = np.linalg.norm(self.grip - self._scene.eef)
        lifted = self.subject[2] > self._rest + _LIFTED
        return bool(lifted and away < _AT_HAND and self._scene.width < HELD_WIDTH)

    @property
    def grip(self) -> Vector:
        """Where the fingers take the object, [3]."""
        return self.subject + self._grasp.offset

    @property
    def subject(self) -> Vector:
        """Where the object is, [3]."""
        return self._scene.position(self.name)

    @property
    def target(self) -> Vector:
        """Where the object should go, [3]."""
        return self.place.middle

    def _look(self) -> None:
        """Take in where the object can be grasped."""
        self._seen = self._scene.position(self.name)
        way = self.place.middle - self._seen
        way[2] = self.place.top + self.place.drop - self._scene.bounds(self.name)[0][2]
        self._grasp: Grasp = grasp_of(self._scene, self.name, way)
        self._rest = self._seen[2]
        self._walls = walls_around(self._scene, self.name)
        if self._rest > self.place.top + 0.02:  # off its support first, then down
            self._walls = max(self._walls, _LIFT)

    def _approach(self, nominal: Vector) -> Motion:
        """Go above the object, down to it, close the fingers."""
        scene, eef, thing = self._scene, self._scene.eef, self._scene.position(self.name)
        if self.place.receives(thing) and scene.speed(self.name) > _FALLS:
            return self._motion(np.array([*(self.place.middle - eef)[:2], 0.03]), OPEN)
        width = scene.width
        if width >= HELD_WIDTH and np.linalg.norm(thing - self._seen) > _MOVED:
            self._look()
        grasp = thing + self._grasp.offset
        error = grasp - eef
        radius = np.linalg.norm(error[:2])
        astray = self._astray(nominal)
        near = radius < _GRASP_RADIUS and eef[2] < grasp[2] + self._grasp.close_below \
            and astray == 0
        closing = width < HELD_WIDTH and np.linalg.norm(error) < 0.03 and \
            error[2] > -self._grasp.slips
        if (near or closing) and width > self._grasp.shut:
            return self._motion(self._squeeze(), CLOSED)
        # The object slipped off. The fingers may be wedged in it, and then never open wide.
        if np.linalg.norm(thing - self._seen) > _MOVED and scene.speed(self.name) < _FALLS:
            self._look()
        # A funnel: the closer in the plane, the deeper. It ends below the height at which the
        # fingers close, so that a policy that copies it doesn't creep to a stop just above.
        height = grasp[2] - 0.004 + _HOVER * max(
            np.clip((radius - 0.012) / 0.05, 0, 1), astray)
        # Half closed fingers rise while they open: going down they would be wedged on a rim, or
        # close again before they have opened.
        narrow = np.clip((HELD_WIDTH - width) / 0.02, 0, 1)
        low = np.clip((grasp[2] + _FREE - eef[2]) / 0.02, 0, 1)
        height += narrow * low * max(eef[2] + _LIFT - height, 0.0)
        # Until it is over the object: over what the hand would sweep away.
        far = np.clip((radius - 0.02) / 0.03, 0, 1)
        over = scene.highest(eef, _HAND, self.name) + _OVER
        height += far * max(over - height, 0.0) if far else 0.0
        velocity = np.array([*error[:2], height - eef[2]])
        # Far away and low: up first, so as not to sweep the object away. Gradually, since a policy
        # learns a step in the answer poorly.
        low = np.clip((max(grasp[2] + 0.08, over - 0.02) - eef[2]) / 0.04, 0, 1)
        velocity[:2] *= 1 - 0.7 * low * np.clip((radius - 0.02) / 0.03, 0, 1)
        return self._motion(velocity, OPEN)

    def _astray(self, nominal: Vector) -> float:
        """How far the hand is from its turn, 0 to 1."""
        twist = rotation_vector(self._grasp.turn @ nominal @ self._scene.hand.T)
        # About the vertical: far out the arm can't hold the hand quite upright. Where no turn is
        # wanted it counts as well: it may be that of a grasp that failed.
        return float(np.clip((abs(twist[2]) - _TURNED) / 0.3, 0, 1))

    def _squeeze(self) -> Vector:
        """
        Error while the fingers close: rising slowly, from a rim only once they are at it.

        Whether they hold the object is hard to see: a policy that were to wait for it would wait
        forever where it doesn't see it.
        """
        error = self._scene.position(self.name) + self._grasp.offset - self._scene.eef
        if self._scene.width > self._grasp.stay:
            return error
        if self._grasp.stay < np.inf:
            # Pressed below the rim's depth, at the end of its reach, only a strong pull frees it.
            rise = _LIFT if error[2] > 0.005 else self._grasp.rise
            return np.array([*_ASIDE * error[:2], rise])
        # Some arms drift up by 2 mm a step: out of reach of what is flat before the fingers meet.
        # Only there: fingers that have met, but touch with one pad, would else never rise.
        drifted = min(2 * error[2], 0.0) if self._grasp.shallow and not self.held else 0.0
        return np.array([*error[:2], 2 / 3 * self._grasp.close_below + drifted])

    def _carry(self, nominal: Vector) -> Motion:
        """Lift, go above the destination, let go."""
        eef, thing = self._scene.eef, self._scene.position(self.name)
        held = (eef - thing)[:2] if self.place.inside else self._grasp.offset[:2]
        askew = self._askew()
        if self.place.along is not None:  # its middle: there is little room
            held = eef[:2] - np.mean(self._scene.bounds(self.name), axis=0)[:2]
        error = self.place.middle[:2] + held - eef[:2]
        radius = np.linalg.norm(error)
        drop = self.place.top + self._grasp.foot + self.place.drop
        clearance = _CLEARANCE + (0.0 if self.place.along is None else _HANGS)
        height = drop + clearance * np.clip(max(
            (radius / self.place.slack - 0.8) / 2.4, (abs(askew) - 0.1) / 0.2), 0, 1)
        if self._walls:  # over them all the way, but for the end
            over = self._rest + self._walls + self._grasp.offset[2] + 0.02
            height = max(height, drop + (over - drop) * np.clip((radius - 0.06) / 0.1, 0, 1))
        if radius < self.place.slack and abs(askew) < _FITS and eef[2] < drop + 0.02:
            return self._motion(np.array([*error, height - eef[2]]), OPEN,
                                self._turned(nominal, askew))
        if radius > _LIFT_RADIUS:
            over = self._over_what_is_ahead(error)
            if self.place.along is not None:  # it hangs askew from the fingers
                over += _HANGS
            height = max(height, over)
            # A book reaches further than the hand: up before it comes near, and turns.
            waits = 0.7 if self.place.along is None else 1.0
            low = np.clip((over - eef[2]) / 0.04, 0, 1)
            error, askew = error * (1 - waits * low), askew * (1 - low)
        # Never zero: another peak that an unsure policy would fall for (see `_approach`).
        climb = drop - self._rest - self._grasp.offset[2]
        least = 0.15 if climb < _CLIMB else 0.02  # a cabinet is higher than a basket's rim
        rise = np.clip((eef[2] - (drop - 0.02)) / 0.04, least, 1) if radius > 0.05 else 1.0
        velocity = np.array([*(error * rise), height - eef[2]])
        # As if the fingers were still closing until the object is off its support, then faster the
        # higher it is: how high is easy to see. A policy that lifts at full speed when the fingers
        # seem to hold slips off what lies flat.
        self._rest = min(self._rest, thing[2])  # it may have fallen
        if raised := self._out_of_walls(thing, float(radius)):
            return raised
        # Away from its support the height over it says nothing: the way may lead down.
        near = radius > _LIFT_RADIUS and self._at_start(thing)
        lifted = np.clip((thing[2] - self._rest) / _LIFT, 0, 1) if near else 1.0
        return self._motion((1 - lifted) * self._squeeze() +
                            lifted * np.clip(velocity, -FULL, FULL), CLOSED,
                            self._turned(nominal, lifted * askew))

    def _askew(self) -> float:
        """Return the angle, rad, by which the object must turn to fit; 0 where any way fits."""
        if self.place.along is None:
            return 0.0
        along, wanted = self._scene.sides(self.name)[0], self.place.along
        angle = math.atan2(wanted[1], wanted[0]) - math.atan2(along[1], along[0])
        # Not about ±90 degrees, where books start: it would change its mind there.
        return math.remainder(angle - _SKEWED, math.pi) + _SKEWED

    def _over_what_is_ahead(self, way: Vector) -> float:
        """Return the fingers' height over what hand or object would hit on a way, [2]."""
        ahead = self._scene.eef + _AHEAD * np.append(way / np.linalg.norm(way), 0)
        return self._scene.highest(ahead, _HAND, self.name) + self._grasp.foot + _OVER

    def _out_of_walls(self, thing: Vector, radius: float) -> Motion | None:
        """Return the motion straight up out of a drawer; None: it is out, or was never in one."""
        out = thing[2] > self._rest + self._walls
        if not self._at_start(thing) or radius < _LIFT_RADIUS or out:
            return None
        aside = _ASIDE * (self._seen[:2] + self._grasp.offset[:2] - self._scene.eef[:2])
        # Slowly first: a bowl that is pulled before the fingers have met tips, and slips off.
        lifted = np.clip((thing[2] - self._rest) / _LIFT, 0, 1)
        rise = (1 - lifted) * self._squeeze()[2] + lifted * _LIFT
        return self._motion(np.array([*aside, rise]), CLOSED)

    def _at_start(self, thing: Vector) -> bool:
        """Whether an object at [3] is still over the support that it was taken from."""
        return bool(np.linalg.norm(thing[:2] - self._seen[:2]) < _WITHIN)

    def _turned(self, nominal: Vector, angle: float) -> Vector:
        """Return the hand's turn [3, 3] that turns what it holds by an angle, rad."""
        if self.place.along is None:
            return self._grasp.turn
        turn = self._scene.hand @ nominal.T
        return about_z(math.atan2(turn[1, 0], turn[0, 0]) + angle)

    def _motion(self, error: Vector, gripper: float, turn: Vector | None = None) -> Motion:
        return Motion(error, gripper, self._grasp.turn if turn is None else turn)
