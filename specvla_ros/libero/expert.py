"""
A scripted pick-and-place expert that reads the simulator's state.

Its actions depend only on things a camera could see, never on a step counter: a policy without
memory can copy it. Its actions are SI deltas, like a policy's.
"""

from dataclasses import dataclass

import numpy as np

from specvla_ros.libero.environment import LiberoEnv, ROTATION_SCALE, TRANSLATION_SCALE

OPEN, CLOSED = 1.0, 0.0


@dataclass(frozen=True, slots=True)
class ExpertSettings:
    """Distances in m, angles in rad; gains are fractions of the remaining error per step."""

    gain: float = 1.5             # of the translation error; saturates beyond 33 mm
    rotation_gain: float = 0.3    # of the orientation error
    rotation_deadband: float = 0.10  # smaller errors are left alone: the label is exactly zero
    hover: float = 0.10           # height above the grasp from which the descent starts
    grasp_radius: float = 0.015   # horizontal error at which the fingers may close
    grasp_height: float = 0.012   # height above the grasp point at which they close
    flat_height: float = 0.006    # the same for objects that lie flat
    clearance: float = 0.05       # between a carried object and the rim of its destination
    release_radius: float = 0.025
    lift: float = 0.03            # height over its support at which an object is lifted fast
    lift_radius: float = 0.08     # not so close to the destination, which may be as low
    held_width: float = 0.075     # fingers further apart than this hold nothing
    shut_width: float = 0.015     # nor do those closer together: they closed on air
    rim_width: float = 0.004      # the same where they straddle a rim
    rim_closed: float = 0.025     # a rim is held this far apart: until then they stay at its depth


class PickAndPlace:
    """
    Picks the task's object up and puts it into (or onto) its destination.

    Serves tasks whose goal is a single `(In object container)` or `(On object support)`.

    :raises ValueError: the task's goal is something else
    """

    def __init__(self, env: LiberoEnv, settings: ExpertSettings | None = None):
        self.env, self.settings = env, settings or ExpertSettings()
        goals = env.sim.parsed_problem['goal_state']
        if len(goals) != 1 or goals[0][0].lower() not in ('in', 'on') or len(goals[0]) != 3:
            raise ValueError(f'no scripted expert for {env.suite} task {env.task_id} '
                             f'({env.instruction}): its goal is {goals}')
        self.object, self.destination = goals[0][1], goals[0][2].replace('_contain_region', '')
        self.inside = goals[0][0].lower() == 'in'
        self._grasp_geoms = list(env.sim.get_object(self.object).contact_geoms)
        self.restart()

    def restart(self) -> None:
        """Take in a new episode: where the object can be grasped, and the nominal orientation."""
        low, high = self._bounds(self.object)
        centre, extent = (low + high) / 2, high - low
        grasp, self._shut, self._stay = centre.copy(), self.settings.shut_width, np.inf
        self._close_below = self.settings.flat_height if extent[2] < 0.06 \
            else self.settings.grasp_height
        if 'bowl' in self.object:  # too wide for the fingers: they straddle its rim
            grasp[1], grasp[2] = high[1] - 0.008, high[2] - 0.02
            self._shut, self._stay = self.settings.rim_width, self.settings.rim_closed
        elif extent[2] < 0.06:
            grasp[2] = max(low[2] + 0.012, min(centre[2], high[2] - 0.02))
        else:
            grasp[2] = high[2] - 0.035
        self._grasp_offset = grasp - self._position(self.object)
        self._rest = self._position(self.object)[2]
        self._foot = grasp[2] - low[2]  # what hangs below the fingers
        top = self._bounds(self.destination)[1][2]
        self._top = top
        self._nominal = self._eef_rotation()

    def act(self) -> np.ndarray:
        """Return the SI action [7] for the present state: m, rotation vector in rad, gripper."""
        velocity, gripper = self._carry() if self._holds() else self._approach()
        action = np.zeros(7)
        action[:3] = np.clip(self.settings.gain * velocity, -TRANSLATION_SCALE, TRANSLATION_SCALE)
        action[3:6] = self._straighten()
        action[6] = gripper
        return action

    def state(self) -> np.ndarray:
        """Return what a policy must see, [10]: eef, object and destination (m), finger width."""
        raw = self.env.raw
        width = raw['robot0_gripper_qpos'][0] - raw['robot0_gripper_qpos'][1]
        return np.concatenate([raw['robot0_eef_pos'], self._position(self.object),
                               self._position(self.destination), [width]]).astype(np.float32)

    def _approach(self) -> tuple[np.ndarray, float]:
        """Go above the object, down to it, close the fingers."""
        s, eef, thing = self.settings, self.env.raw['robot0_eef_pos'], self._position(self.object)
        place = self._position(self.destination)
        if np.linalg.norm(thing[:2] - place[:2]) < 0.07 and thing[2] > place[2] + 0.01:
            return np.array([*(place - eef)[:2], 0.03]), OPEN  # let go: it falls into place
        grasp = thing + self._grasp_offset
        error = grasp - eef
        radius = np.linalg.norm(error[:2])
        near = radius < s.grasp_radius and eef[2] < grasp[2] + self._close_below
        closing = self._width() < s.held_width and np.linalg.norm(error) < 0.03
        if (near or closing) and self._width() > self._shut:
            return self._squeeze(), CLOSED
        # A funnel: the closer in the plane, the deeper. It ends below the height at which the
        # fingers close, so that a policy that copies it doesn't creep to a stop just above.
        height = grasp[2] - 0.004 + np.clip((radius - 0.012) / 0.05, 0, 1) * s.hover
        velocity = np.array([*error[:2], height - eef[2]])
        # Far away and low: up first, so as not to sweep the object away. Gradually, since a policy
        # learns a step in the answer poorly.
        low = np.clip((grasp[2] + 0.08 - eef[2]) / 0.04, 0, 1)
        velocity[:2] *= 1 - 0.7 * low * np.clip((radius - 0.02) / 0.03, 0, 1)
        return velocity, OPEN

    def _squeeze(self) -> np.ndarray:
        """
        Velocity while the fingers close: rising slowly, from a rim only once they are at it.

        Whether they hold the object is hard to see: a policy that were to wait for it would wait
        forever where it doesn't see it.
        """
        error = self._position(self.object) + self._grasp_offset - self.env.raw['robot0_eef_pos']
        if self._width() > self._stay:
            return error
        # Pressed below the rim's depth, at the end of its reach, only a strong pull frees it.
        jammed = self._stay < np.inf and error[2] > 0.005
        return np.array([*error[:2], self.settings.lift if jammed else 2 / 3 * self._close_below])

    def _carry(self) -> tuple[np.ndarray, float]:
        """Lift, go above the destination, let go."""
        s, eef = self.settings, self.env.raw['robot0_eef_pos']
        place = self._position(self.destination)[:2] + (eef - self._position(self.object))[:2]
        if not self.inside:
            place = self._position(self.destination)[:2] + self._grasp_offset[:2]
        error = place - eef[:2]
        radius = np.linalg.norm(error)
        drop = self._top + self._foot + (0.0 if self.inside else 0.01)
        height = drop + np.clip((radius - 0.02) / 0.06, 0, 1) * s.clearance
        if radius < s.release_radius and eef[2] < drop + 0.02:
            return np.array([*error, height - eef[2]]), OPEN
        # Never zero: another peak that an unsure policy would fall for (see `_approach`).
        rise = np.clip((eef[2] - (drop - 0.02)) / 0.04, 0.15, 1) if radius > 0.05 else 1.0
        velocity = np.array([*(error * rise), height - eef[2]])
        # As if the fingers were still closing until the object is off its support, then faster the
        # higher it is: how high is easy to see. A policy that lifts at full speed when the fingers
        # seem to hold slips off what lies flat.
        self._rest = min(self._rest, self._position(self.object)[2])  # it may have fallen
        lifted = np.clip((self._position(self.object)[2] - self._rest) / s.lift, 0, 1) \
            if radius > s.lift_radius else 1.0
        full = TRANSLATION_SCALE / s.gain
        return (1 - lifted) * self._squeeze() + lifted * np.clip(velocity, -full, full), CLOSED

    def _straighten(self) -> np.ndarray:
        """Return the rotation vector that turns the hand back to its nominal orientation."""
        import cv2
        error = cv2.Rodrigues(self._nominal @ self._eef_rotation().T)[0].ravel()
        if np.linalg.norm(error) < self.settings.rotation_deadband:
            return np.zeros(3)
        return np.clip(self.settings.rotation_gain * error, -ROTATION_SCALE, ROTATION_SCALE)

    def _holds(self) -> bool:
        robot = self.env.sim.robots[0]
        return self.env.sim._check_grasp(gripper=robot.gripper, object_geoms=self._grasp_geoms)

    def _width(self) -> float:
        qpos = self.env.raw['robot0_gripper_qpos']
        return qpos[0] - qpos[1]

    def _position(self, name: str) -> np.ndarray:
        return self.env.raw[f'{name}_pos']

    def _eef_rotation(self) -> np.ndarray:
        sim = self.env.sim.sim
        site = self.env.sim.robots[0].eef_site_id
        return np.array(sim.data.site_xmat[site]).reshape(3, 3)

    def _bounds(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest corner [3] of an object's collision geoms, m."""
        model, data = self.env.sim.sim.model._model, self.env.sim.sim.data._data
        root, corners = self.env.sim.obj_body_id[name], []
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).T.reshape(-1, 3)
        for geom in np.flatnonzero(model.geom_group == 0):
            body = model.geom_bodyid[geom]
            while body not in (root, 0):
                body = model.body_parentid[body]
            if body == root:
                centre, half = model.geom_aabb[geom, :3], model.geom_aabb[geom, 3:]
                rotation = data.geom_xmat[geom].reshape(3, 3)
                corners.append(data.geom_xpos[geom] + (centre + signs * half) @ rotation.T)
        box = np.concatenate(corners)
        return box.min(0), box.max(0)
