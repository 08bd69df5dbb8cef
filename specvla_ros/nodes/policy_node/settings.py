"""The parameters of `policy_node`, and the policy they ask for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
import os
from typing import Any, Protocol, TypeVar

import numpy as np

from specvla_ros.components import Component
from specvla_ros.configuration import DecoderConfig, load_preset
from specvla_ros.data_sets import DatasetConfig
from specvla_ros.errors import SpecVLAError
from specvla_ros.execution import check_execute_steps, Execution
from specvla_ros.nodes.parameters import Parameter
from specvla_ros.nodes.policy_node.learning_parameters import LEARNING_PARAMETERS
from specvla_ros.nodes.policy_node.pilot import PACINGS
from specvla_ros.policy_source import PolicySource
from specvla_ros.safety import StepLimits
from specvla_ros.safety_settings import SafetySettings

MODEL_PARAMETERS = (
    Parameter('checkpoint', '', 'folder of the OpenVLA checkpoint, or name of an embedded one; '
              'empty: libero_object', reloadable=True),
    Parameter('drafter', '', "folder of the drafters' weights; empty: the checkpoint's own "
              '`drafters` folder', reloadable=True),
    Parameter('decoder', 'auto_relaxed', 'preset (auto, ar or another in config/decoders) '
              'or path of a YAML file; a change takes effect between two actions',
              changeable=True),
    Parameter('threshold', 0, "how far an accepted draft may lie from the target's own choice; "
              "0: the preset's own value", unit='bins', low=0, high=255, changeable=True),
    Parameter('strict_above_risk', 0.0, 'after an action whose risk (see decode_report) was more, '
              "the next accepts no draft but the target's own choice; 0: the preset's own value, "
              '1: never', low=0.0, high=1.0, changeable=True),
    Parameter('unnorm_key', '', 'data set whose statistics turn tokens into actions; empty: the '
              "checkpoint's only one", reloadable=True),
    Parameter('device', 'auto', 'where the model runs: auto, cpu, cuda or cuda:N',
              reloadable=True),
    Parameter('dtype', 'auto', 'number format of the weights; auto: what suits the device',
              choices=('auto', 'float32', 'bfloat16', 'float16'), reloadable=True),
    Parameter('quantization', 'none', "of the Llama's weights, by torchao, for small GPUs; int4 "
              'computes in bfloat16', choices=('none', 'int8', 'int4'), reloadable=True),
    Parameter('chunk', 0, 'control steps of an action; 0: as many as the checkpoint says, or one '
              'where it says nothing', low=0, high=64, reloadable=True),
    Parameter('threads', 0, 'CPU threads of the model; 0: one less than there are cores',
              low=0, high=1024, reloadable=True),
)
TOPIC_PARAMETERS = (
    Parameter('safety', 'safety', 'envelope of the actions: safety, safety_arm (files of config/) '
              'or path of a YAML file; a change holds for all that is published after it',
              changeable=True),
    Parameter('guard', True, 'true: the decoder chooses among the bins that the safety envelope '
              'holds, and says how often it had to; false: the envelope only shortens what was '
              'chosen', reloadable=True),
    Parameter('max_image_age', 5.0, 'an image older than this is not acted on; 0: however old, as '
              'for bags with their own stamps', unit='s', low=0.0, high=3600.0, reloadable=True),
    Parameter('fallback_above_risk', 1.0, 'an action whose risk is more is not published, as if '
              "it was missing: the envelope's fallback holds; 1: never", low=0.0, high=1.0,
              reloadable=True),
    Parameter('pacing', 'realtime', 'realtime: at most one control step each control period of '
              'the data set, as an arm needs it; lockstep: act on every image at once, only for a '
              'simulation or bag that waits for each action', choices=PACINGS, reloadable=True),
    Parameter('execute_steps', 0, 'control steps of an answer that are executed before the '
              'next one is there, at most `chunk`; steps beyond go on where it is late; 0: what '
              'the checkpoint recommends, or all', low=0, high=64, reloadable=True),
    Parameter('latency_s', 0.0, 'only with lockstep: how late answers are executed, as if a '
              'clock had gone on meanwhile, in whole control periods', unit='s', low=0.0,
              high=60.0, reloadable=True),
    Parameter('image_transport', 'raw', 'raw: sensor_msgs/Image on `image`; compressed: '
              'sensor_msgs/CompressedImage (JPEG, PNG) on `image/compressed`',
              choices=('raw', 'compressed'), reloadable=True),
    Parameter('camera_reliability', 'auto', 'reliability asked of the camera; auto: what it '
              'offers; best_effort hears every camera, but loses large frames; reliable hears '
              'only those that offer it', choices=('auto', 'best_effort', 'reliable'),
              reloadable=True),
    Parameter('publish_twist', False, 'publish velocities for MoveIt Servo on delta_twist_cmds',
              reloadable=True),
    Parameter('publish_pose', False, 'publish poses on target_pose, where current_pose is known',
              reloadable=True),
    Parameter('publish_gripper', False, 'publish the gripper on gripper_command when it changes',
              reloadable=True),
    Parameter('send_gripper_goals', False, 'send the gripper as control_msgs/GripperCommand goals '
              'on gripper_action when it changes', reloadable=True),
    Parameter('gripper_action', 'gripper_cmd', 'name of the action these goals are sent to; '
              'actions cannot be remapped on Jazzy', reloadable=True),
    Parameter('gripper_open_position', 0.04, 'position of the open gripper in these goals',
              unit='m', low=-1.0, high=1.0, reloadable=True),
    Parameter('gripper_closed_position', 0.0, 'position of the closed gripper in these goals',
              unit='m', low=-1.0, high=1.0, reloadable=True),
    Parameter('gripper_max_effort', 20.0, 'the most the gripper may press with in these goals',
              unit='N', low=0.0, high=1000.0, reloadable=True),
    Parameter('gripper_hysteresis', 0.2, 'width of the band around one half in which the gripper '
              'on gripper_command and in gripper goals stays as it is', unit='1', low=0.0,
              high=0.99, reloadable=True),
)
AUTOSTART = Parameter('autostart', True, 'configure and activate at the start; false: wait for '
                      'the transitions of the lifecycle')
PARAMETERS = (*MODEL_PARAMETERS, *LEARNING_PARAMETERS, *TOPIC_PARAMETERS, AUTOSTART)

_WARM_UP_INSTRUCTION = 'take action'  # words of every prompt: a small tokenizer knows few others
_WARM_UP_IMAGE = np.zeros((224, 224, 3), np.uint8)

S = TypeVar('S')


class ActingPolicy(Protocol):
    """The part of `specvla_ros.policy.Policy` that the node needs."""

    decoder_config: DecoderConfig
    dataset: DatasetConfig
    chunk: int  # control steps of an action
    execute_steps: int  # of them to execute, where the parameter names no number

    def act(
        self, image: np.ndarray, instruction: str, stamp: float | None = None,
        eef_position: tuple[float, float, float] | None = None, limits: StepLimits | None = None,
        executed: int | None = None, *, firm_steps: int | None = None,
    ) -> Any:
        """
        Infer an action from uint8 [H, W, 3] RGB, an instruction and when it was taken, s.

        eef_position: of the end effector, m. limits: of the next control step. executed: of
        the last action's steps, those that belong to times before; None = all. firm_steps: of this
        action's, those that the next one does not say again in time; None = all.
        """

    def with_decoder(self, decoder: DecoderConfig) -> 'ActingPolicy':
        """Return the same weights under another decoder."""

    def reset(self) -> None:
        """Forget what was learnt from earlier actions."""


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """The parameters that say which policy acts."""

    checkpoint: str
    drafter: str
    decoder: str
    threshold: int
    strict_above_risk: float
    unnorm_key: str
    device: str
    dtype: str
    quantization: str
    chunk: int
    threads: int

    @property
    def source(self) -> PolicySource:
        """Where the policy comes from; raises SpecVLAError as ``decoder_config``."""
        given = {name: getattr(self, name) for name in PolicySource.names()}
        return replace(PolicySource.take(given), decoder=self.decoder_config)

    @property
    def decoder_config(self) -> DecoderConfig:
        """
        The preset, with the threshold and the risk put in where they are given.

        :raises SpecVLAError: no such preset, or its rule has no threshold
        """
        config = load_preset(self.decoder)
        if self.strict_above_risk:
            config = config.with_risk(self.strict_above_risk)
        if not self.threshold:
            return config
        if config.is_strict or config.rule.name != 'bins':
            raise SpecVLAError(
                f'threshold is {self.threshold}, but the rule {config.rule.name} of the decoder '
                f'{config.name} has none; set it to 0')
        if any(member.calibrated for member in config.all_members):
            raise SpecVLAError(
                f'threshold is {self.threshold}, but the decoder {config.name} is calibrated: its '
                'promise holds for its own threshold; set it to 0')
        settings = {**config.rule.settings, 'r': self.threshold}
        return config.with_rule(Component('bins', settings, config.rule.by_device))


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """The parameters that say what comes in and goes out while the node is active."""

    safety: str
    guard: bool
    max_image_age: float
    fallback_above_risk: float
    pacing: str
    execute_steps: int
    latency_s: float
    image_transport: str
    camera_reliability: str
    publish_twist: bool
    publish_pose: bool
    publish_gripper: bool
    send_gripper_goals: bool
    gripper_action: str
    gripper_open_position: float
    gripper_closed_position: float
    gripper_max_effort: float
    gripper_hysteresis: float


def pick(kind: type[S], values: Mapping[str, Any]) -> S:
    """Make a settings dataclass of the values of its fields, among others."""
    return kind(**{field.name: values[field.name] for field in fields(kind)})


def fixed_while_configured(names: Iterable[str]) -> list[str]:
    """Return those of the names that may only be changed while the node is unconfigured."""
    fixed = {parameter.name for parameter in PARAMETERS if parameter.reloadable}
    return sorted(fixed & set(names))


def in_words(envelope: SafetySettings) -> str:
    """Return every setting of an envelope, as its file writes it."""
    return ', '.join(f'{field.name} {_in_words(getattr(envelope, field.name))}'
                     for field in fields(envelope))


def _in_words(value: object) -> str:
    if isinstance(value, tuple):
        return f'[{", ".join(map(_in_words, value))}]'
    return f'{value:g}' if isinstance(value, float) else str(value)


def execution_of(settings: TopicSettings, policy: ActingPolicy) -> Execution:
    """
    Return how the policy's answers are executed.

    :raises SpecVLAError: more steps than an answer has, or a latency on a real clock
    """
    check_execute_steps(settings.execute_steps or None, policy.chunk)
    if settings.latency_s and settings.pacing != 'lockstep':
        raise SpecVLAError(
            f'latency_s is {settings.latency_s:g}, must be 0 with pacing {settings.pacing}: a '
            'real clock brings its own; set it to 0, or pacing to lockstep for a simulation')
    return Execution.late(settings.execute_steps or policy.execute_steps, settings.latency_s,
                          policy.dataset.period_s)


def load_policy(settings: PolicySettings) -> ActingPolicy:
    """
    Load the weights, warm up, and see that the model acts.

    :raises ValueError, FileNotFoundError: the checkpoint, drafter, preset or key can't be used, or
        a library can't be loaded
    """
    source = settings.source  # the cheapest check first
    try:
        import torch

        from specvla_ros.policy import Policy
    except ImportError as error:  # a library that was built for another numpy, say
        raise SpecVLAError(f"the policy's libraries can't be loaded ({error}): `specvla doctor` "
                           'says which and what to do') from error
    torch.set_num_threads(settings.threads or free_cores())
    policy = Policy.of(source)
    self_check(policy)
    return policy


def free_cores() -> int:
    """
    Return the cores this process may use, less one for the camera, DDS and whatever else runs.

    Threads of a matrix product wait for each other spinning. Where one of them has to share its
    core, all do nothing else: on two cores beside one busy process an action took 400 to 1000 ms
    with two threads and 27 to 31 with one; alone it is 17 against 21.
    """
    return max(1, len(os.sched_getaffinity(0)) - 1)


def self_check(policy: ActingPolicy) -> None:
    """
    Act twice: the first action includes one-time costs, the second takes as long as later ones.

    :raises SpecVLAError: what comes out is no finite action of 7 numbers a control step
    """
    for _ in range(2):
        si = np.asarray(policy.act(_WARM_UP_IMAGE, _WARM_UP_INSTRUCTION).si)
        if si.ndim != 2 or si.shape[1] != 7 or not np.isfinite(si).all():
            raise SpecVLAError(f'the self-check of the checkpoint failed: it gives {si.tolist()} '
                               'where [control steps, 7] finite numbers were expected')
    policy.reset()
