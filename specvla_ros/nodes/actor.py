"""
What a policy node is while it is active: topics, inference on the newest image, and safety.

Callbacks only leave what arrives in `Newest`; `_act` runs in the main thread. What is never done:
acting before there are an image and an instruction, acting on the same image twice or on a stale
one, publishing an action whose instruction has been replaced meanwhile, and publishing one that
the safety envelope refuses.
"""

import math
import threading
import time
from typing import Any

import numpy as np
from rclpy.node import Node
from std_msgs.msg import String

from specvla_ros.errors import SpecVLAError
from specvla_ros.msg import ActionDelta, DecodeReport, EpisodeStatus
from specvla_ros.nodes import qos
from specvla_ros.nodes.conversions import CAMERAS, to_nanoseconds
from specvla_ros.nodes.current_pose import CurrentPose
from specvla_ros.nodes.diagnostics import Statistics
from specvla_ros.nodes.instruction_goals import InstructionGoals
from specvla_ros.nodes.lone_publisher import LonePublisher
from specvla_ros.nodes.main_thread import MainThread
from specvla_ros.nodes.messages import (
    action_message,
    deltas_of,
    report_message,
    standstill_message,
)
from specvla_ros.nodes.motion import Motion
from specvla_ros.nodes.newest import Job, Newest
from specvla_ros.nodes.outputs import Outputs
from specvla_ros.nodes.policy_settings import ActingPolicy, TopicSettings
from specvla_ros.nodes.silence import Silence
from specvla_ros.nodes.topics import once, Topics
from specvla_ros.safety import fit, SafetySettings

# A camera of 30 Hz that sends something unreadable shall not fill the log.
_LOG_PERIOD = 5.0
_LOG_LENGTH = 300  # characters of what somebody said or sent


class Actor:
    """
    Subscribes a camera, publishes `action`, `decode_report` and other outputs.

    Topics are there while it is: whoever sees them can expect an answer.

    :param main: runs inference
    """

    def __init__(self, node: Node, topics: Topics, main: MainThread, policy: ActingPolicy,
                 settings: TopicSettings, safety: SafetySettings, statistics: Statistics,
                 goals: InstructionGoals) -> None:
        self._clock, self._logger = node.get_clock(), node.get_logger()
        self._main, self._settings, self._safety = main, settings, safety
        self._statistics, self._goals, self._dataset = statistics, goals, policy.dataset
        self._newest = Newest(policy)
        self._context = policy, 0
        self._sequence = 0
        self._image_stamp = 0  # ns, of the last image that came
        self._image_came = -math.inf  # s, monotonic
        self._motion = Motion(safety.deadline_s)
        self._publishing = threading.Lock()
        self._topics = topics
        self._topics.must_be_alone('action')
        self._actions = self._topics.publisher(ActionDelta, 'action', qos.STREAM)
        self._reports = self._topics.publisher(DecodeReport, 'decode_report', qos.STREAM)
        self._outputs = Outputs(node, self._topics, settings, policy.dataset)
        self._place = CurrentPose(
            node, self._topics, policy.dataset.frame_id, patience=safety.deadline_s)
        self._topics.subscribe_to_all(EpisodeStatus, 'episode', once(self._on_episode))
        kind, suffix, self._read_image = CAMERAS[settings.image_transport]
        camera = node.resolve_topic_name('image') + suffix
        self._topics.subscribe(
            kind, camera, self._on_image, qos.camera_subscriber(settings.camera_reliability),
            'set the parameter camera_reliability of this node to best_effort')
        self._camera = LonePublisher(node, self._topics, camera)
        self._no_image = Silence(node, self._topics, 'image', camera, kind)
        self._no_instruction = Silence(
            node, self._topics, 'instruction', node.resolve_topic_name('instruction'), String)
        self._topics.every(policy.dataset.period_s, self._watch)

    def set_policy(self, policy: ActingPolicy) -> None:
        """Let the actions that begin from now on come from this policy."""
        self._newest.set_settings(policy)

    def set_safety(self, safety: SafetySettings) -> None:
        """Publish only what fits this envelope, once this returns; no action mixes two of them."""
        with self._publishing:
            self._safety = safety
            self._motion.deadline = self._place.patience = safety.deadline_s

    def pause(self) -> None:
        """Publish no action any more, and then, unless the fallback is none, to stand still."""
        self._newest.pause()
        self._come_to_rest()
        self._outputs.hold_gripper()

    def resume(self) -> None:
        """Go on with the next image."""
        self._newest.resume()

    def follow(self, instruction: str) -> None:
        """Act on an instruction from now on; '' is none."""
        self._no_instruction.end()
        self._change_instruction(instruction)

    def withdraw(self) -> None:
        """Act on no instruction, until another comes, and have the arm stand still as `pause`."""
        self._change_instruction('')
        self._come_to_rest()

    def close(self) -> None:
        """Pause for good; a gripper's goal under way is its controller's to finish."""
        self._newest.pause()
        self._come_to_rest()
        self._topics.destroy()

    @property
    def fault(self) -> str:
        """What is wrong at present, first of all why actions are missing; '' where nothing is."""
        return (self._motion.fault or self._camera.fault or self._no_image.fault
                or self._no_instruction.fault or self._outputs.fault)

    def _on_image(self, message: Any) -> None:
        stamp = to_nanoseconds(message.header.stamp)
        self._image_came = time.monotonic()
        self._no_image.note()
        back = self._image_stamp - stamp if stamp else 0
        self._image_stamp = stamp or self._image_stamp
        if back > 0:
            self._logger.error(
                f'the clock of the camera was set back by {back * 1e-9:.3f} s: this image is not '
                'acted on, the next one is', throttle_duration_sec=_LOG_PERIOD)
            self._statistics.count('stale_images')
            self._statistics.count('refused')
        elif self._newest.put_image(message, stamp):
            self._main.post(self._act)

    def _on_episode(self, message: EpisodeStatus) -> None:
        if message.success:
            self._goals.succeed(message.instruction.strip())

    def _change_instruction(self, instruction: str) -> None:
        """Act on another instruction from now on, unless it is the one that holds already."""
        changed = self._newest.put_instruction(instruction)
        if changed and instruction:
            self._logger.info(f'instruction: {_short(instruction)!r}')
            self._main.post(self._act)

    def _act(self) -> None:
        """Act on the newest image, if there is one that wasn't acted on."""
        job = self._newest.take(timeout=0)
        if job is None:
            return
        try:
            self._act_on(job)
        except ValueError as error:
            self._newest.drop(job)
            job.settings.reset()  # what wasn't carried out says nothing about what comes next
            self._statistics.count('refused')
            self._logger.warning(
                f'no action: {_short(str(error))}', throttle_duration_sec=_LOG_PERIOD)

    def _act_on(self, job: Job) -> None:
        """
        Infer an action, fit it into the envelope and publish it.

        :raises ValueError: there is something nobody should act on, or the result is refused
        """
        started = time.perf_counter()
        age = self._check_age(job.image.header.stamp)
        policy: ActingPolicy = job.settings
        if policy is not self._context[0] or job.revision != self._context[1]:
            policy.reset()  # what was learnt belongs to another task
            self._context = policy, job.revision
        taken = to_nanoseconds(job.image.header.stamp)
        action = policy.act(
            self._read_image(job.image), job.instruction, taken * 1e-9 if taken else None)
        inferred = time.perf_counter()

        def publish() -> None:
            message = self._publish(action, job.image.header.stamp)
            now = time.perf_counter()
            report = report_message(action.trace, policy.decoder_config, message)
            report.header.stamp, report.queue_age = message.header.stamp, age
            report.publish_time, report.total_time = now - inferred, now - started
            self._reports.publish(report)
            self._goals.note(job.instruction, report)

        if not self._newest.answer(job, publish):
            self._statistics.count('dropped')
            self._logger.info(f'dropped the action for {_short(job.instruction)!r}: the '
                              'instruction has changed or acting was stopped meanwhile')
            return
        self._statistics.note_lengths(action.trace.acceptance_lengths)

    def _check_age(self, stamp: Any) -> float:
        """Return an image's age, s, NaN where the camera gives no stamp; raise if it is stale."""
        nanoseconds, most = to_nanoseconds(stamp), self._settings.max_image_age
        if not nanoseconds:
            return math.nan
        age = (self._clock.now().nanoseconds - nanoseconds) * 1e-9
        self._statistics.note_input_age(age)
        if most and abs(age) > most:
            self._statistics.count('stale_images')
            where = f'{age:.3f} s old' if age > 0 else f'from {-age:.3f} s in the future'
            raise SpecVLAError(
                f'the image is {where}, max_image_age is {most:g} s: see whether the camera is '
                'stuck, and whether its clock is that of this node')
        return age

    def _limit(self, si: np.ndarray) -> np.ndarray | None:
        """
        Return what the envelope makes of an action, None if it leaves it as it is.

        For whoever holds `_publishing`: the envelope may change until then.

        :raises SpecVLAError: it refuses it
        """
        safe = fit(si, self._safety, self._dataset.period_s, previous=self._motion.delta,
                   position_m=self._place.position)
        if safe.deltas is None:
            raise SpecVLAError(safe.refusal)
        if not safe.limited_by:
            return None
        self._statistics.count('limited')
        self._logger.warning(f'the action was limited by {", ".join(safe.limited_by)}',
                             throttle_duration_sec=_LOG_PERIOD)
        return safe.deltas

    def _publish(self, action: Any, image_stamp: Any) -> ActionDelta:
        with self._publishing:
            message = action_message(
                action, self._dataset, image_stamp, self._sequence, self._limit(action.si))
            deltas = deltas_of(message)
            self._send(message)
            self._outputs.publish(deltas[0], message.header.stamp, self._place.pose)
            self._motion.go_on(deltas[-1])
        self._statistics.count('actions')
        return message

    def _come_to_rest(self) -> None:
        with self._publishing:
            if self._motion.is_under_way:
                self._stand_still()
            self._motion.end()

    def _stand_still(self) -> None:
        """Do what the fallback says; for whoever holds `_publishing`."""
        if self._safety.fallback == 'none':
            return
        message = standstill_message(self._dataset, self._motion.gripper, self._sequence)
        self._send(message)
        self._outputs.stand_still(message.header.stamp, self._place.pose,
                                  keeps_target=self._safety.fallback == 'hold')

    def _send(self, message: ActionDelta) -> None:
        message.header.stamp = self._clock.now().to_msg()
        self._actions.publish(message)
        self._sequence += 1

    def _watch(self) -> None:
        """See whether actions are missing; called every control period."""
        with self._publishing:
            if not self._motion.is_late:
                return
            if not self._motion.fault:
                deadline = self._safety.deadline_s
                is_blind = time.monotonic() - self._image_came > deadline
                self._motion.fault = (f'no {"image" if is_blind else "action"} for more than '
                                      f'{deadline:g} s (deadline_s)')
                self._statistics.count('deadline_misses')
                self._logger.warning(f'{self._motion.fault}; fallback: {self._safety.fallback}',
                                     throttle_duration_sec=_LOG_PERIOD)
            self._stand_still()


def _short(text: str) -> str:
    """Return a text that is no burden to a log."""
    left = len(text) - _LOG_LENGTH
    return text if left <= 0 else f'{text[:_LOG_LENGTH]}… and {left} characters'
