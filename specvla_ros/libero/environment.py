"""
One LIBERO task as an environment: SI actions in, upright camera frames out.

Wraps robosuite's OSC_POSE control at 20 Hz. One environment per process: two rendered ones in the
same process give silently wrong images. Rendering happens only when a frame is asked for.
"""

from collections.abc import Iterable
import contextlib
from dataclasses import dataclass
import functools
import gc
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from specvla_ros.errors import SpecVLAError
from specvla_ros.files import whole_file
from specvla_ros.libero import initial_states, suites
from specvla_ros.libero.assets import cache_folder, data_folder, installed_assets
from specvla_ros.libero.drift import Belt, Drift, name_of
from specvla_ros.libero.lying import Lying
from specvla_ros.libero.renderer import importing_robosuite, renderer_error

# robosuite's OSC_POSE turns an input of 1 into 0.05 m and 0.5 rad per step of 0.05 s.
TRANSLATION_SCALE = 0.05
ROTATION_SCALE = 0.5
PERIOD = 0.05
SETTLING_STEPS = 10  # as OpenVLA's evaluation: objects fall into place first
CAMERA = 'agentview'
_BASE = 'robot0_base'  # the body at the place of a real Panda's frame panda_link0
# After the settling steps objects stand, at less than 0.001 m/s; flung ones fly at over 2 m/s.
_SETTLED = 0.1
_DRAWS, _NEXT_DRAW = 10, 1_000_003  # placements tried, and how far apart their seeds are
_SLIDE = 2  # MuJoCo's numbers of joints: free, ball, slide, hinge
_SEEDS = 2**32  # that numpy's global generator takes
STORED_JOINT_NOISE = 0.02  # rad: standard deviation of the arm's joints in the stored states


@dataclass(frozen=True, slots=True)
class Observation:
    """
    What the robot's sensors say after a step.

    image: uint8 [H, W, 3] RGB, top row first, or None where the environment doesn't render.
    eef_position: [3] m and eef_quaternion: [4] xyzw, in the frame of the robot's base.
    joint_positions: [7] rad. gripper_width: distance of the fingers, m. success: task solved.
    """

    image: np.ndarray | None
    eef_position: np.ndarray
    eef_quaternion: np.ndarray
    joint_positions: np.ndarray
    gripper_width: float
    success: bool


class LiberoEnv:
    """
    One task of a suite, rendered by one camera.

    :param suite: see `suites.SUITES`
    :param task_id: index in the suite
    :param resolution: side of the square frame, pixels
    :param render: False leaves `Observation.image` None, at a third of the time per step
    :param drift: lets an object of the task drift once it has settled; None = the world stands
    :raises ValueError: unknown suite or task, or one in which nothing can drift
    :raises AssetError: the assets aren't there
    :raises RendererError: MuJoCo can't render here
    :raises RuntimeError: this process has a rendered environment already
    """

    _rendering = False  # whether this process has a rendered environment

    def __init__(self, suite: str, task_id: int, resolution: int = 256, render: bool = True,
                 drift: Drift | None = None):
        self.task = suites.task(suite, task_id)
        self.suite, self.task_id = suite, task_id
        self.instruction = self.task.instruction
        self.max_steps = suites.MAX_STEPS[suite]
        self.resolution, self.render = resolution, render
        if render and LiberoEnv._rendering:
            raise RuntimeError('one rendered LIBERO environment per process: with a second one '
                               'both give garbage; close the other one first')
        stored = initial_states.path_of(self.task)
        initial_states.read(stored)  # before the seconds that the scene takes
        self._env = _make_control_env(self.task)
        self._states = initial_states.read(stored, self._env.sim.get_state().flatten().size)
        LiberoEnv._rendering = LiberoEnv._rendering or render
        self._renderer: Any = None
        self._observation: dict = {}
        self._drift = drift or Drift(0.0)
        # At 0 m/s the steps are MuJoCo's own, as without a drift.
        self._belt = self._make_belt() if self._drift.m_per_s else None

    @property
    def sim(self) -> Any:
        """The robosuite environment behind this one; experts read its state."""
        return self._env.env

    @property
    def raw(self) -> dict:
        """robosuite's last observation: object poses and the like, for experts."""
        return self._observation

    def reset(self, state_index: int) -> Observation:
        """
        Start from a stored initial state, with the reference evaluation's settling steps done.

        :raises ValueError: no such state
        """
        if not 0 <= state_index < len(self._states):
            raise ValueError(f'{self.suite} task {self.task_id} has no initial state '
                             f'{state_index}; there are 0 to {len(self._states) - 1}')
        self._restart(0)  # the seed also moves objects: the reference evaluation's
        self._observation = self._env.set_init_state(self._states[state_index])
        observation = self._settle()
        self._set_off(state_index)
        return observation

    def reset_random(self, seed: int, render: bool = True) -> Observation:
        """
        Start from LIBERO's own random placement, the same for the same seed.

        The samplers leave little room: in libero_object the target never moves (its region is as
        small as itself), the basket by ±10 mm, the others by ±5 mm. The arm starts with the noise
        that the stored states show. A placement in which objects overlap is drawn anew: MuJoCo
        flings them off the table.

        :param seed: 0 to 2³² − 1
        :param render: False skips the frame
        :raises SpecVLAError: another seed, or objects overlap in ten placements in a row
        """
        if not 0 <= seed < _SEEDS:
            raise SpecVLAError(f'the seed of a random placement is {seed}, must be from 0 to '
                               f'{_SEEDS - 1}')
        for draw in range(_DRAWS):
            self._restart((seed + draw * _NEXT_DRAW) % _SEEDS)
            sim, joints = self.sim.sim, self.sim.robots[0]._ref_joint_pos_indexes
            sim.data.qpos[joints] += np.random.normal(scale=STORED_JOINT_NOISE, size=len(joints))
            sim.forward()
            observation = self._settle(render)
            if not self._flung():
                self._set_off(seed)
                return observation
        raise SpecVLAError(f'{self.suite} task {self.task_id} seed {seed}: objects overlap in '
                           f'{_DRAWS} placements in a row; give another seed')

    def step(self, action: np.ndarray, render: bool = True) -> Observation:
        """
        Apply one SI action for one control period.

        :param action: [7]: translation (m), rotation vector (rad), gripper (1 = open, 0 = closed),
            all along the axes of the robot's base; beyond the controller's range it is clipped
        :param render: False skips the frame of this step
        :raises ValueError: wrong shape or a value that isn't finite
        """
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (7,) or not np.isfinite(action).all():
            raise ValueError(f'an action is 7 finite numbers, got {action!r}')
        command = np.empty(7)
        command[:3] = action[:3] / TRANSLATION_SCALE
        command[3:6] = action[3:6] / ROTATION_SCALE
        command[6] = -1.0 if action[6] > 0.5 else 1.0  # robosuite: −1 opens, +1 closes
        return self._advance(np.clip(command, -1, 1), render)

    @property
    def arm(self) -> np.ndarray:
        """Positions of the arm's joints and then of the two fingers, [9]: rad and m."""
        return self.sim.sim.data.qpos[self._joints].copy()

    def put_arm(self, joints: np.ndarray, carried: Lying | None = None) -> bool:
        """
        Set the joints [9] as `arm` has them, at rest; the arm doesn't move there, objects stay.

        The next frame shows it. Reset before the next step: the controller's aim is still that of
        before.

        :param carried: how an object lies in the hand, to come along
        :returns: whether arm, hand and what it carries touch nothing there
        """
        sim = self.sim.sim
        sim.data.qpos[self._joints] = joints
        sim.data.qvel[:] = 0
        sim.forward()
        own = self._robot_geoms()
        if carried is not None:
            carried.lay(self.sim)
            own |= {sim.model.geom_name2id(name)
                    for name in self.sim.objects_dict[carried.thing].contact_geoms}
        self.sim._post_process()  # a burner that is on glows
        self._observation = self.sim._get_observations(force_update=True)
        contacts = sim.data.contact[:sim.data.ncon]
        return not any((it.geom1 in own) != (it.geom2 in own) for it in contacts)

    @property
    def fixture_joints(self) -> np.ndarray:
        """Positions [F] of the joints of drawers, doors and knobs, m or rad."""
        return self.sim.sim.data.qpos[self._fixture_places].copy()

    def put_back(self, settled: np.ndarray, fixture_joints: np.ndarray,
                 lying: Iterable[Lying]) -> None:
        """
        Put everything where it was, and then some things elsewhere; reset before the next step.

        :param settled: all positions, as `positions` had them
        :param fixture_joints: [F], as `fixture_joints` had them
        :param lying: objects that lie somewhere else
        """
        sim = self.sim.sim
        sim.data.qpos[:] = settled
        sim.data.qpos[self._fixture_places] = fixture_joints
        sim.forward()
        for it in lying:
            it.lay(self.sim)

    @property
    def positions(self) -> np.ndarray:
        """Positions of all joints and free objects, as MuJoCo orders them."""
        return self.sim.sim.data.qpos.copy()

    def frame(self) -> np.ndarray:
        """Render the camera now: uint8 [H, W, 3] RGB, top row first."""
        if self._renderer is None:
            self._renderer = _make_renderer(self.sim.sim.model._model, self.resolution)
        self._renderer.update_scene(self.sim.sim.data._data, CAMERA, _visual_geoms())
        return self._renderer.render()

    def close(self) -> None:
        """Free the simulator, so that another environment can follow in this process."""
        if self._renderer is not None:
            self._renderer.close()
        self._env.close()
        self._env = self._renderer = None
        if self.render:
            LiberoEnv._rendering = False
        gc.collect()

    def _restart(self, seed: int) -> None:
        """Begin a new episode: one that remembers nothing of the one before."""
        if self._belt is not None:
            self._belt.stop()
        self._env.seed(seed)  # numpy's global state, from which the placement samplers draw
        # robosuite's gripper moves towards its goal by steps, and keeps where it was over a reset.
        gripper = self.sim.robots[0].gripper
        gripper.current_action = np.zeros(gripper.dof)
        self._move_fixtures_back()
        self._env.reset()

    def _move_fixtures_back(self) -> None:
        """
        Put the fixtures where the model was compiled, if objects are placed relative to them.

        LIBERO adds the place of a drawer, measured before it moves the cabinet, to that of the
        cabinet. After a soft reset the cabinet would count twice, and the object
        fall from the sky.
        """
        if not self.sim.conditional_placement_initializer.samplers:
            return
        model = self.sim.sim.model
        for fixture in self.sim.fixtures_dict.values():
            body, element = model.body_name2id(fixture.root_body), fixture.get_obj()
            model.body_pos[body] = np.array(element.get('pos', '0 0 0').split(), float)
            model.body_quat[body] = np.array(element.get('quat', '1 0 0 0').split(), float)

    def _flung(self) -> bool:
        """Whether an object still moves once all should have settled."""
        model, data = self.sim.sim.model._model, self.sim.sim.data._data
        firsts = [model.body_dofadr[self.sim.obj_body_id[name]] for name in self.sim.objects_dict]
        return any(np.linalg.norm(data.qvel[first:first + 3]) > _SETTLED for first in firsts)

    def _settle(self, render: bool = True) -> Observation:
        for _ in range(SETTLING_STEPS - 1):
            self._advance(np.array([0, 0, 0, 0, 0, 0, -1.0]), render=False)
        return self._advance(np.array([0, 0, 0, 0, 0, 0, -1.0]), render)

    def _make_belt(self) -> Belt:
        """Put a belt under what is to drift; robosuite's steps go through it from now on."""
        name = name_of(self._drift.body, self.sim.parsed_problem['goal_state'])
        name = getattr(self.sim.object_states_dict[name], 'parent_name', name)
        sim = self.sim.sim
        belt = Belt(sim.model._model, sim.data._data, self.sim.obj_body_id[name], name, self._base)
        sim.step = belt.step
        return belt

    def _set_off(self, start: int) -> None:
        """Start the belt, if any, in the direction of the initial state or seed `start`."""
        belt = self._belt
        if belt is None:
            return
        if not belt.carries:
            raise SpecVLAError(
                f'{belt.name} of {self.suite} task {self.task_id} can not drift: it stands on '
                'another object; choose another task, or let the other object drift')
        belt.start(self._drift.velocity(self.task_id, start), *self._drift.box(belt.place))

    def _advance(self, command: np.ndarray, render: bool) -> Observation:
        # robosuite ends an episode at its own horizon or success; the caller counts steps here.
        self.sim.timestep, self.sim.done = 0, False
        self._observation, _, success, _ = self._env.step(command)
        return self._observe(bool(success), render)

    @property
    def _joints(self) -> list[int]:
        """Where the positions of arm and fingers are in MuJoCo's."""
        robot = self.sim.robots[0]
        return [*robot._ref_joint_pos_indexes, *robot._ref_gripper_joint_pos_indexes]

    @functools.cached_property
    def _fixture_places(self) -> list[int]:
        """Where the positions of the fixtures' joints are in MuJoCo's."""
        model, own = self.sim.sim.model, set(self._joints)
        jointed = [it for it in range(model.njnt) if model.jnt_type[it] >= _SLIDE]
        return [int(model.jnt_qposadr[it]) for it in jointed if model.jnt_qposadr[it] not in own]

    def _robot_geoms(self) -> set[int]:
        robot = self.sim.robots[0]
        names = {*robot.robot_model.contact_geoms, *robot.gripper.contact_geoms}
        return {self.sim.sim.model.geom_name2id(name) for name in names}

    @property
    def _base(self) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] and rotation matrix [3, 3] of the robot's base in the simulator's world."""
        base = self.sim.sim.data._data.body(_BASE)
        return base.xpos.copy(), base.xmat.reshape(3, 3).copy()

    def _observe(self, success: bool, render: bool) -> Observation:
        raw, (place, turn) = self._observation, self._base
        return Observation(
            image=self.frame() if render and self.render else None,
            eef_position=turn.T @ (raw['robot0_eef_pos'] - place),
            eef_quaternion=_turned_back(raw['robot0_eef_quat'], turn),
            joint_positions=raw['robot0_joint_pos'].copy(),
            gripper_width=float(raw['robot0_gripper_qpos'][0] - raw['robot0_gripper_qpos'][1]),
            success=success)


def _turned_back(quaternion: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Return turn^T times the rotation of a quaternion; quaternions [4] are xyzw."""
    import mujoco
    back, product = np.empty(4), np.empty(4)  # MuJoCo's are wxyz
    mujoco.mju_mat2Quat(back, turn.T.ravel())
    mujoco.mju_mulQuat(product, back, np.roll(quaternion, 1))
    return np.roll(product, -1)


def _make_control_env(task: suites.Task) -> Any:
    """Import LIBERO with its configuration in place and build the environment, quietly."""
    assets = installed_assets()
    _write_libero_config(assets)
    bddl = suites.scene_file(task)
    if not bddl.is_file():
        raise SpecVLAError(f'the scene {bddl} is missing; install LIBERO anew: '
                           '`pip install --force-reinstall --no-deps hf-libero==0.1.4`')
    chatter = io.StringIO()
    with importing_robosuite(), contextlib.redirect_stdout(chatter), \
            contextlib.redirect_stderr(chatter):
        import libero.libero
        libero.libero._assets_path_cache = str(assets)
        from libero.libero.envs.env_wrapper import ControlEnv
        # Frames are rendered by MuJoCo's own Renderer, when asked for: robosuite's context
        # returns garbage after a reset once its buffers were made anew. A soft reset keeps
        # model and renderer, and takes milliseconds instead of seconds.
        return ControlEnv(bddl_file_name=str(bddl), use_camera_obs=False,
                          has_offscreen_renderer=False, hard_reset=False)


def _make_renderer(model: Any, resolution: int) -> Any:
    """
    Return a mujoco.Renderer with multisampling and reflections off.

    Both off cost 37 instead of 57 ms a frame of 128 px on one core; the mean pixel changes by 2
    of 255.
    """
    import mujoco
    model.vis.quality.offsamples = 0
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, resolution)
    model.vis.global_.offheight = max(model.vis.global_.offheight, resolution)
    try:
        renderer = mujoco.Renderer(model, resolution, resolution)
    except (ImportError, AttributeError, RuntimeError, mujoco.FatalError) as error:
        raise renderer_error(error) from error
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
    return renderer


@functools.cache
def _visual_geoms() -> Any:
    """Return render options that show the visual geoms (group 1), not the collision ones (0)."""
    import mujoco
    options = mujoco.MjvOption()
    options.geomgroup[0], options.geomgroup[1] = 0, 1
    return options


def _write_libero_config(assets: Path) -> None:
    """Write LIBERO's own config.yaml, without which importing it asks a question on stdin."""
    folder = cache_folder() / 'libero-config'
    root = suites.package_folder()
    wanted = {'benchmark_root': str(root), 'bddl_files': str(root / 'bddl_files'),
              'init_states': str(root / 'init_files'), 'datasets': str(data_folder(None)),
              'assets': str(assets)}
    path = folder / 'config.yaml'
    content = yaml.safe_dump(wanted).encode()
    if not path.is_file() or path.read_bytes() != content:  # one that is damaged is made anew
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:  # several processes may start at once
            temporary.write_bytes(content)
    os.environ['LIBERO_CONFIG_PATH'] = str(folder)
