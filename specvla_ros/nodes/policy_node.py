"""
The policy as a node: newest camera image + instruction in, one end-effector delta out.

Callbacks only leave what arrives in `Newest`; inference runs in `work`, in the main thread. What
is never done: acting before there are an image and an instruction, acting on the same image
twice, and publishing an action whose instruction has been replaced meanwhile.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
import math
import sys
import time
from typing import Any, Protocol

import numpy as np
from rcl_interfaces.msg import SetParametersResult
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
import rclpy.parameter
from sensor_msgs.msg import Image
from std_msgs.msg import String

from specvla_ros.configuration import Component, DatasetConfig, DecoderConfig, load_preset
from specvla_ros.errors import SpecVLAError
from specvla_ros.msg import ActionDelta, DecodeReport
from specvla_ros.nodes import qos
from specvla_ros.nodes.conversions import to_nanoseconds, to_rgb
from specvla_ros.nodes.messages import action_message, report_message
from specvla_ros.nodes.newest import Job, Newest
from specvla_ros.nodes.parameters import declare, Parameter
from specvla_ros.nodes.runtime import run

NAME = 'policy_node'
PARAMETERS = (
    Parameter('checkpoint', '', 'folder of the OpenVLA checkpoint; empty: the embedded default'),
    Parameter('drafter', '', "folder of the drafter's weights; empty: the checkpoint's own "
              '`drafter` folder'),
    Parameter('decoder', 'relaxed', 'preset (ar, strict, relaxed or another in config/decoders) '
              'or path of a YAML file; a change takes effect between two actions',
              changeable=True),
    Parameter('threshold', 0, "how far an accepted draft may lie from the target's own choice; "
              "0: the preset's own value", unit='bins', low=0, high=255, changeable=True),
    Parameter('unnorm_key', '', 'data set whose statistics turn tokens into actions; empty: the '
              "checkpoint's only one"),
    Parameter('device', 'auto', 'where the model runs: auto, cpu, cuda or cuda:N'),
    Parameter('dtype', 'auto', 'number format of the weights; auto: what suits the device',
              choices=('auto', 'float32', 'bfloat16', 'float16')),
    Parameter('threads', 0, 'CPU threads of the model; 0: as many as torch thinks good',
              low=0, high=1024),
)
# A camera of 30 Hz that sends something unreadable shall not fill the log.
_LOG_PERIOD = 5.0
_WARM_UP_INSTRUCTION = 'take action'  # words of every prompt: a small tokenizer knows few others
_WARM_UP_IMAGE = np.zeros((224, 224, 3), np.uint8)


class ActingPolicy(Protocol):
    """What the node needs of `specvla_ros.policy.Policy`."""

    decoder_config: DecoderConfig
    dataset: DatasetConfig

    def act(self, image: np.ndarray, instruction: str) -> Any:
        """Infer an action from uint8 [H, W, 3] RGB and an instruction."""

    def with_decoder(self, decoder: DecoderConfig) -> 'ActingPolicy':
        """Return the same weights under another decoder."""

    def reset(self) -> None:
        """Forget what was learnt from earlier actions."""


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """The node's parameters, as given at the start."""

    checkpoint: str
    drafter: str
    decoder: str
    threshold: int
    unnorm_key: str
    device: str
    dtype: str
    threads: int

    @property
    def decoder_config(self) -> DecoderConfig:
        """
        The preset, with the threshold put in where one is given.

        :raises SpecVLAError: no such preset, or its rule has no threshold
        """
        config = load_preset(self.decoder)
        if not self.threshold:
            return config
        if config.rule.name != 'bins':
            raise SpecVLAError(
                f'threshold is {self.threshold}, but the rule {config.rule.name} of the decoder '
                f'{config.name} has none; set it to 0')
        settings = {**config.rule.settings, 'r': self.threshold}
        return replace(config, rule=Component('bins', settings, config.rule.by_device))


def load_policy(settings: PolicySettings) -> ActingPolicy:
    """
    Load the weights and run one action, so that the first real one isn't the slow one.

    :raises ValueError, FileNotFoundError: the checkpoint, drafter, preset or key can't be used
    """
    config = settings.decoder_config  # the cheapest check first
    import torch

    from specvla_ros.policy import Policy
    if settings.threads:
        torch.set_num_threads(settings.threads)
    policy = Policy.load(
        settings.checkpoint or None, decoder=config, drafter=settings.drafter or None,
        unnorm_key=settings.unnorm_key or None, device=settings.device,
        dtype=None if settings.dtype == 'auto' else settings.dtype)
    policy.act(_WARM_UP_IMAGE, _WARM_UP_INSTRUCTION)
    policy.reset()
    return policy


class PolicyNode(Node):
    """
    Subscribes `image` and `instruction`, publishes `action` and `decode_report`.

    Topics appear once the model is loaded, so whoever sees them can expect an answer.

    :param load: makes the policy from the settings; tests put a fake there
    """

    def __init__(self, load: Callable[[PolicySettings], ActingPolicy] = load_policy) -> None:
        super().__init__(NAME)
        self._settings = PolicySettings(**declare(self, PARAMETERS))
        started = time.monotonic()
        policy = load(self._settings)
        self.get_logger().info(
            f'loaded {self._settings.checkpoint or "the embedded checkpoint"} in '
            f'{time.monotonic() - started:.1f} s, decoder {policy.decoder_config.name}')
        self._candidate = self._settings, policy
        self._newest = Newest(policy)
        self._sequence = 0
        self._context = policy, 0
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._apply_parameters)
        self._action_publisher = self.create_publisher(ActionDelta, 'action', qos.STREAM)
        self._report_publisher = self.create_publisher(DecodeReport, 'decode_report', qos.STREAM)
        # Before the image: callbacks that are ready together run in this order, so an image sent
        # after an instruction is never acted on under the one before.
        self._subscribe_instruction()
        self.create_subscription(Image, 'image', self._on_image, qos.CAMERA_SUBSCRIBER)

    def work(self) -> None:
        """Act on the newest image, again and again."""
        while True:
            job = self._newest.take()
            self._act_on(job)

    def close(self) -> None:
        """Nothing is held but memory."""

    def _act_on(self, job: Job) -> None:
        started = time.perf_counter()
        queue_age = self._age(job.image.header.stamp)
        policy: ActingPolicy = job.settings
        if policy is not self._context[0] or job.revision != self._context[1]:
            policy.reset()  # what was learnt belongs to another task
            self._context = policy, job.revision
        try:
            action = policy.act(to_rgb(job.image), job.instruction)
            published = time.perf_counter()
            message = action_message(
                action, policy.dataset, job.image.header.stamp, self._sequence)
        except ValueError as error:
            self._newest.drop(job)
            self.get_logger().warning(f'no action: {error}', throttle_duration_sec=_LOG_PERIOD)
            return
        if not self._newest.answer(job, lambda: self._publish(message)):
            self.get_logger().info(f'dropped the action for {job.instruction!r}: the instruction '
                                   'has changed meanwhile')
            return
        now = time.perf_counter()
        report = report_message(action.trace, policy.decoder_config, message)
        report.header.stamp = message.header.stamp
        report.queue_age = queue_age
        report.publish_time, report.total_time = now - published, now - started
        self._report_publisher.publish(report)

    def _publish(self, message: ActionDelta) -> None:
        message.header.stamp = self.get_clock().now().to_msg()
        self._action_publisher.publish(message)
        self._sequence += 1

    def _age(self, stamp: Any) -> float:
        """Seconds since an image's stamp; NaN if the camera gives none."""
        nanoseconds = to_nanoseconds(stamp)
        if not nanoseconds:
            return math.nan
        return (self.get_clock().now().nanoseconds - nanoseconds) * 1e-9

    def _on_image(self, message: Image) -> None:
        self._newest.put_image(message, to_nanoseconds(message.header.stamp))

    def _subscribe_instruction(self) -> None:
        # Two subscriptions: the latched one gets what was said before this node came up, the other
        # one hears publishers that don't latch (`ros2 topic pub`). That the latched one can't
        # hear those is no news to anybody. A text heard twice is one instruction.
        quiet = SubscriptionEventCallbacks(
            incompatible_qos=lambda _: None, use_default_callbacks=False)
        self.create_subscription(
            String, 'instruction', self._on_instruction, qos.LATCHED, event_callbacks=quiet)
        self.create_subscription(String, 'instruction', self._on_instruction, qos.NEWEST)

    def _on_instruction(self, message: String) -> None:
        instruction = message.data.strip()
        if not self._newest.put_instruction(instruction) and instruction:
            return
        if instruction:
            self.get_logger().info(f'instruction: {instruction!r}')
        else:
            self.get_logger().warning('the instruction is empty: no action until another comes',
                                      throttle_duration_sec=_LOG_PERIOD)

    def _check_parameters(self, changes: list[rclpy.parameter.Parameter]) -> SetParametersResult:
        """Make the decoder that is asked for; say why if that can't be done."""
        changed = {change.name: change.value for change in changes}
        try:
            self._prepare(changed)
        except (ValueError, FileNotFoundError) as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply_parameters(self, _: list[rclpy.parameter.Parameter]) -> None:
        """Let the actions that begin from now on use the decoder the parameters name."""
        policy = self._prepare({})
        if policy is not self._newest.settings:
            self._newest.set_settings(policy)
            self.get_logger().info(f'decoder: {policy.decoder_config.name}')

    def _prepare(self, changed: dict[str, Any]) -> ActingPolicy:
        """Return the policy for the parameters as they are, but for what is `changed`."""
        values = {name: changed.get(name, self.get_parameter(name).value)
                  for name in ('decoder', 'threshold')}
        wanted = replace(self._settings, **values)
        prepared, policy = self._candidate
        if wanted != prepared:
            policy = policy.with_decoder(wanted.decoder_config)
            self._candidate = wanted, policy
        return policy


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop; see `runtime.run` for the exit codes."""
    return run(NAME, PolicyNode, args)


if __name__ == '__main__':
    sys.exit(main())
