"""
The active part of a policy node: topics, inference on the newest image, and safety.

Callbacks hand messages to `Pilot`, which decides what is acted on and when; `_act` runs in the
main thread. The node never acts before it has an image and an instruction, on the same image twice
or on a stale one. It never publishes an action whose instruction has been replaced meanwhile or
that the safety envelope refuses, and never more than one control step a control period.
"""

from collections.abc import Callable
import threading
import time
from typing import Any, TYPE_CHECKING

from rclpy.node import Node
from std_msgs.msg import String

from specvla_ros.errors import SpecVLAError
from specvla_ros.msg import ActionDelta, DecodeReport, EpisodeStatus
from specvla_ros.nodes import qos
from specvla_ros.nodes.camera_subscription import CameraSubscription
from specvla_ros.nodes.conversions import CAMERAS, to_nanoseconds
from specvla_ros.nodes.diagnostics import Statistics
from specvla_ros.nodes.main_thread import MainThread
from specvla_ros.nodes.messages import (
    action_message,
    deltas_of,
    report_message,
    standstill_message,
)
from specvla_ros.nodes.policy_node.current_pose import CurrentPose
from specvla_ros.nodes.policy_node.inference import ControlSteps, StaleImage
from specvla_ros.nodes.policy_node.instruction_goals import InstructionGoals
from specvla_ros.nodes.policy_node.lone_publisher import LonePublisher
from specvla_ros.nodes.policy_node.outputs import Outputs
from specvla_ros.nodes.policy_node.pilot import Pilot
from specvla_ros.nodes.policy_node.settings import ActingPolicy, execution_of, TopicSettings
from specvla_ros.nodes.policy_node.silence import Silence
from specvla_ros.nodes.topics import once, Topics
from specvla_ros.safety_settings import SafetySettings

if TYPE_CHECKING:  # it loads torch, which may fail for a reason that configuring tells
    from specvla_ros.learning.online import OnlineLearning

# A camera of 30 Hz that sends something unreadable shall not fill the log.
_LOG_PERIOD = 5.0
_LOG_LENGTH = 300  # characters of an instruction or an error


class Actor:
    """
    Subscribes a camera, publishes `action`, `decode_report` and other outputs.

    Its topics exist as long as it does: a node that sees them can expect an answer.

    :param main: runs inference
    :param learning: takes in what the target says; None = nothing is learned
    """

    def __init__(self, node: Node, topics: Topics, main: MainThread, policy: ActingPolicy,
                 settings: TopicSettings, safety: SafetySettings, statistics: Statistics,
                 goals: InstructionGoals, learning: 'OnlineLearning | None' = None) -> None:
        self._clock, self._logger = node.get_clock(), node.get_logger()
        self._main, self._safety = main, safety
        self._risk = settings.fallback_above_risk
        self._statistics, self._goals, self._dataset = statistics, goals, policy.dataset
        self._guards = settings.guard
        self._context: tuple[ActingPolicy, int] | None = None  # of the last action
        self._sequence, self._refused = 0, ''
        self._pilot = Pilot(
            policy, safety, policy.dataset.period_s, settings.max_image_age, settings.pacing, self,
            time.monotonic, lambda: self._clock.now().nanoseconds, execution_of(settings, policy))
        self._learning = learning
        if learning is not None:
            learning.listen(lambda: self._pilot.idle_s)
        self._topics = topics
        self._topics.must_be_alone('action')
        self._actions = self._topics.publisher(ActionDelta, 'action', qos.STREAM)
        self._reports = self._topics.publisher(DecodeReport, 'decode_report', qos.STREAM)
        self._outputs = Outputs(node, self._topics, settings, policy.dataset)
        self._current_pose = CurrentPose(
            node, self._topics, policy.dataset.frame_id, patience=self._pilot.deadline,
            hear=self._pilot.hear_position)
        self._alarm, self._waking = self._topics.alarm(self._go_on), threading.Lock()
        self._topics.subscribe_to_all(EpisodeStatus, 'episode', once(self._on_episode))
        kind, suffix, self._read_image = CAMERAS[settings.image_transport]
        camera = node.resolve_topic_name('image') + suffix
        CameraSubscription(
            node, self._topics, kind, camera, self._on_image, settings.camera_reliability)
        self._camera = LonePublisher(node, self._topics, camera)
        self._no_image = Silence(node, self._topics, 'image', camera, kind)
        self._no_instruction = Silence(
            node, self._topics, 'instruction', node.resolve_topic_name('instruction'), String)
        self._topics.every(policy.dataset.period_s, self._watch)
        if settings.pacing == 'lockstep':
            self._logger.warning(
                'pacing is lockstep: every image is acted on at once, and the limits hold for a '
                'control step, not for a second. That is for a simulation or a bag that waits for '
                'each action; an arm needs pacing:=realtime')

    def set_policy(self, policy: ActingPolicy) -> None:
        """Let the actions that begin from now on come from this policy."""
        self._pilot.set_policy(policy)

    def set_safety(self, safety: SafetySettings) -> None:
        """Publish only what fits this envelope, once this returns; no action mixes two of them."""
        self._safety = safety
        self._pilot.set_safety(safety)
        self._current_pose.patience = self._pilot.deadline

    def pause(self) -> None:
        """Stop publishing actions; then publish the fallback once, unless it is none."""
        self._pilot.pause()
        self._pilot.come_to_rest()
        self._refused = ''
        self._outputs.hold_gripper()

    def wait_for_gripper(self) -> None:
        """Give the gripper a second to confirm the `pause`; not in the executor's thread."""
        self._outputs.wait_until_held()

    def resume(self) -> None:
        """Go on with the next image."""
        self._pilot.resume()

    def follow(self, instruction: str) -> None:
        """Act on an instruction from now on; '' is none."""
        self._no_instruction.end()
        self._change_instruction(instruction)

    def withdraw(self) -> None:
        """Act on no instruction, until another comes, and have the arm stand still as `pause`."""
        self._change_instruction('')
        self._pilot.come_to_rest()

    def close(self) -> None:
        """Pause for good; a gripper's goal under way is its controller's to finish."""
        if self._learning is not None:
            self._learning.rest()
        self._pilot.pause()
        self._pilot.come_to_rest()
        self._topics.destroy()

    @property
    def fault(self) -> str:
        """What is wrong at present, first of all why actions are missing; '' where nothing is."""
        return (self._pilot.fault or self._camera.fault or self._no_image.fault
                or self._no_instruction.fault or self._refused or self._current_pose.fault
                or self._outputs.fault)

    def _on_image(self, message: Any) -> None:
        self._no_image.note()
        try:
            if not self._pilot.see(message, to_nanoseconds(message.header.stamp)):
                return
        except ValueError as error:
            self._logger.error(str(error), throttle_duration_sec=_LOG_PERIOD)
            self._statistics.count('stale_images')
            self._statistics.count('refused')
        else:
            self._go_on()

    def _on_episode(self, message: EpisodeStatus) -> None:
        if message.success:
            self._goals.succeed(message.instruction.strip())

    def _change_instruction(self, instruction: str) -> None:
        """Act on another instruction from now on, unless it is the one that holds already."""
        if not self._pilot.follow(instruction):
            return
        self._refused = ''
        if instruction:
            self._logger.info(f'instruction: {_short(instruction)!r}')
            self._go_on()

    def _go_on(self) -> None:
        """Publish what is due, act if it is time, and be called again when it is; any thread."""
        self._publish(self._pilot.execute_due)
        with self._waking:  # the alarm shall ring when the last to look found that it should
            if self._pilot.may_take:
                self._main.post(self._act)
            elif (at := self._pilot.next_at) is not None:
                self._alarm.set(at - time.monotonic())

    def _act(self) -> None:
        """Act on the newest image, if there is one that wasn't acted on and it is time."""
        try:
            inference = self._pilot.take()
        except StaleImage as error:
            self._statistics.note_input_age(error.age)
            self._refuse(error)
            return
        if inference is None:
            return
        self._statistics.note_input_age(inference.age)
        image = inference.image
        policy: ActingPolicy = inference.request.policy
        by_step = policy.decoder_config.by_step
        told = {'firm_steps': inference.firm_steps} if by_step else {}
        try:
            if self._context != (policy, inference.request.revision):
                policy.reset()  # its memory is of another instruction, or of steps not executed
                self._context = policy, inference.request.revision
            action = policy.act(
                self._read_image(image.message), inference.request.instruction,
                image.stamp * 1e-9 if image.stamp else None, inference.eef_position,
                inference.limits if self._guards else None, inference.executed, **told)
            self._check_risk(action)
            if self._learning is not None:
                self._learning.mark(action.trace)
        except ValueError as error:
            action = None
            self._pilot.give_up(inference)
            self._refuse(error)
        else:
            firm = action.trace.firm_steps if by_step else None
            if self._publish(lambda: self._pilot.answer(inference, action, action.si, firm)):
                self._statistics.note_lengths(action.trace.acceptance_lengths)
        self._go_on()
        if self._learning is not None and action is not None:  # after it was published
            self._learning.note(policy, action, inference.request.instruction, self._sequence)

    def _check_risk(self, action: Any) -> None:
        """Raise SpecVLAError if the target was too unsure, or if that is asked and not known."""
        if self._risk < 1 and not (risk := action.trace.risk) <= self._risk:
            raise SpecVLAError(
                f'the risk of the action is {risk:.3f}, must be at most fallback_above_risk, '
                f'{self._risk:g}: the target is unsure of what it sees')

    def _publish(self, publish: Callable[[], bool]) -> bool:
        """Have the pilot publish; log and count what it doesn't, and say whether it counted."""
        try:
            counts = publish()
        except ValueError as error:
            self._refuse(error)
            return False
        if not counts:
            self._statistics.count('dropped')
            self._logger.info('dropped an action: the instruction has changed or acting was '
                              'stopped meanwhile')
        return counts

    def _refuse(self, error: ValueError) -> None:
        """Log and count an image or an action on which nothing is published."""
        self._context = None  # what wasn't executed says nothing about what comes next
        self._statistics.count('refused')
        if isinstance(error, StaleImage):
            self._statistics.count('stale_images')
        self._refused = f'no action: {_short(str(error))}'
        self._logger.warning(self._refused, throttle_duration_sec=_LOG_PERIOD)

    def move(self, steps: ControlSteps) -> float:
        """Publish control steps, and with the first of them what the action cost; say when."""
        started = time.monotonic()
        self._refused = ''
        action, count = steps.action, len(steps.deltas)
        message = action_message(
            action, self._dataset, steps.inference.image.message.header.stamp, self._sequence,
            steps.deltas if steps.limited_by else None,
            slice(steps.first, steps.first + count), steps.period)
        deltas = deltas_of(message)
        published = self._send(message)
        self._outputs.publish(deltas[0], message.header.stamp, self._current_pose.pose)
        self._statistics.count('actions')
        if steps.limited_by:
            self._statistics.count('limited')
            self._logger.warning(f'the action was limited by {", ".join(steps.limited_by)}',
                                 throttle_duration_sec=_LOG_PERIOD)
        if steps.is_new:
            self._report(steps, message, started)
        return published

    def _report(self, steps: ControlSteps, message: ActionDelta, started: float) -> None:
        now, inference = time.monotonic(), steps.inference
        request = inference.request
        report = report_message(steps.action.trace, request.policy.decoder_config, message)
        report.header.stamp, report.queue_age = message.header.stamp, inference.age
        report.publish_time, report.total_time = now - started, now - inference.begun
        self._reports.publish(report)
        self._goals.note(request.instruction, report)

    def stand_still(self, gripper: float, keeps_target: bool) -> None:
        """Publish that the arm stays where it is or, if it `keeps_target`, at its last target."""
        message = standstill_message(self._dataset, gripper, self._sequence)
        self._send(message)
        self._outputs.stand_still(message.header.stamp, self._current_pose.pose, keeps_target)

    def _send(self, message: ActionDelta) -> float:
        message.header.stamp = self._clock.now().to_msg()
        self._sequence += 1  # first: if Ctrl-C comes in between, the next has a number of its own
        self._actions.publish(message)
        return time.monotonic()

    def _watch(self) -> None:
        """See whether actions are missing; called every control period."""
        if fault := self._pilot.watch():
            self._statistics.count('deadline_misses')
            self._logger.warning(f'{fault}; fallback: {self._safety.fallback}',
                                 throttle_duration_sec=_LOG_PERIOD)


def _short(text: str) -> str:
    """Return a text that is no burden to a log."""
    left = len(text) - _LOG_LENGTH
    return text if left <= 0 else f'{text[:_LOG_LENGTH]}… and {left} characters'
