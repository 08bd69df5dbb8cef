"""
Which image is acted on, and which control steps are published when; no ROS in it.

`RequestInbox` says which image and instruction count, `ImageStamps` how old an image is,
`StepQueue` when a control step is due, `LimitedArm` how far it may go and what is published while
none comes. This puts them together; the owner of the topics calls it from callbacks (`see`,
`follow`, `pause`, …), from the thread that infers (`take`, `answer`), and whenever `next_at` has
come (`execute_due`).

Pacing. On a robot (`realtime`) at most one control step is published each control period of the
data set, by the clock of this machine that never jumps. An image that comes sooner waits, and a
newer one takes its place. Inference begins so that its answer comes when `execute_steps` of the
one before are executed, on the newest image there is by then. Stamps can't change the pace:
they only say how old an image is.
In a simulation or a bag that waits for each answer (`lockstep`) there is no arm whose time passes:
every image is acted on at once, and an answer is one message with those of its control steps that
are to be executed (see `execution`), each of which counts as one control period.

What ends an answer at once: another instruction, a pause, a refused or stale image or answer, and
a camera that is lost. Only its first step may be executed without a newer image.
"""

from collections.abc import Callable
import math
import threading
from typing import Any

import numpy as np

from specvla_ros.errors import SpecVLAError
from specvla_ros.execution import Execution
from specvla_ros.nodes.policy_node.answer_pace import AnswerPace
from specvla_ros.nodes.policy_node.camera_rhythm import CameraRhythm
from specvla_ros.nodes.policy_node.image_stamps import ImageStamps
from specvla_ros.nodes.policy_node.inference import (
    Arm,
    ControlSteps,
    Inference,
    ReceivedImage,
    StaleImage,
)
from specvla_ros.nodes.policy_node.limited_arm import LimitedArm
from specvla_ros.nodes.policy_node.request_inbox import InferenceRequest, RequestInbox
from specvla_ros.safety import refusal
from specvla_ros.safety_settings import SafetySettings
from specvla_ros.steps import StepQueue

PACINGS = ('realtime', 'lockstep')


class Pilot:
    """
    Decides for one arm which image is acted on and which steps are published; thread-safe.

    :param policy: of the requests, see `RequestInbox`
    :param period_s: the control period of the data set
    :param max_image_age: older images are stale, s; 0: none is
    :param pacing: one of `PACINGS`
    :param clock: s, never jumps
    :param camera_clock: ns, the clock that images are stamped by
    :param execution: how many steps of an answer are executed; its latency only in lockstep
    """

    def __init__(
        self, policy: Any, safety: SafetySettings, period_s: float, max_image_age: float,
        pacing: str, arm: Arm, clock: Callable[[], float], camera_clock: Callable[[], int],
        execution: Execution = Execution(),  # noqa: B008 - frozen
    ) -> None:
        self._period, self._clock = period_s, clock
        self._is_paced = pacing == 'realtime'
        self._lock = threading.RLock()
        self._inbox = RequestInbox(policy)
        self._execution = execution
        self._queue = StepQueue(period_s, execution.execute_steps)
        # Another process may have moved the arm just now, or this one before it was deactivated.
        self._queue.hold(clock() + period_s)
        self._arm = LimitedArm(arm, safety, period_s)
        self._last_step = self._arm.last_step  # the same: `miss` and `fault` are asked of it
        self._stamps = ImageStamps(camera_clock, max_image_age)
        self._came = self._taken = -math.inf  # s, when the last image came, and the last was taken
        self._rhythm = CameraRhythm(period_s)
        self._answer: tuple[Inference, Any, np.ndarray] | None = None
        self._is_inferring = self._is_answer_new = False
        self._stands = False  # lockstep: the arm stands still before the next answer's steps
        self._pace = AnswerPace(period_s, execution, self._is_paced)

    def set_policy(self, policy: Any) -> None:
        """Give this policy to later requests."""
        self._inbox.set_policy(policy)

    def set_safety(self, safety: SafetySettings) -> None:
        """Publish only what fits this envelope, once this returns; no action mixes two of them."""
        with self._lock:
            self._arm.set_safety(safety)

    @property
    def deadline(self) -> float:
        """Seconds after a control step within which the next one must come."""
        return self._arm.deadline

    @property
    def fault(self) -> str:
        """Why actions are missing at present; '' where they aren't."""
        return self._stamps.fault or self._last_step.fault

    def see(self, message: Any, stamp: int) -> bool:
        """
        Make an image the newest; False if it is a copy of an earlier one, or while paused.

        :param stamp: ns, 0 = the camera gives none
        :raises SpecVLAError: the clock of the camera was set back: the next one is trusted again;
            or it doesn't run
        """
        with self._lock:
            self._came = self._clock()
            self._stamps.note(stamp, self._came, may_repeat=self._is_inferring)
            is_new = self._inbox.put_image(ReceivedImage(message, stamp, self._came), stamp)
            if is_new:
                self._rhythm.note(self._came)
            return is_new

    def hear_position(self, position: np.ndarray) -> None:
        """Note where the end effector is, float64 [3], m, finite or not, in the actions' frame."""
        with self._lock:
            self._arm.hear_position(position)

    def follow(self, instruction: str) -> bool:
        """Act on another instruction from now on, '' = none; False if it holds already."""
        with self._lock:
            changed = self._inbox.put_instruction(instruction)
            if changed:
                self._drop_answer()
            return changed

    def pause(self) -> None:
        """Publish no action any more; when this returns, none is on its way."""
        with self._lock:
            self._inbox.pause()
            self._drop_answer()

    def resume(self) -> None:
        """Go on with the next image."""
        self._inbox.resume()

    def come_to_rest(self) -> None:
        """Do what the fallback says, once, if the arm is under way; nothing is missing then."""
        with self._lock:
            self._arm.come_to_rest()

    @property
    def next_at(self) -> float | None:
        """When there is something to `take` or to `execute_due`, s; None until something comes."""
        with self._lock:
            times = [at for at in (self._take_at, self._queue.next_at) if at is not None]
            return min(times, default=None)

    @property
    def idle_s(self) -> float:
        """
        Seconds in which nothing is to be inferred, as far as is known; 0 = something is now.

        Where no image waits, the next one is expected a control period after the last.
        """
        with self._lock:
            if self._is_inferring:
                return 0.0
            now, at = self._clock(), self._take_at
            if at is None and self._came + self._period > now:
                at = self._came + self._period
            return math.inf if at is None else max(0.0, at - now)

    @property
    def may_take(self) -> bool:
        """Whether there is something to `take` now."""
        with self._lock:
            at = self._take_at
            return at is not None and self._clock() >= at

    def take(self) -> Inference | None:
        """
        Take the newest image to act on, if it is time; then call `answer` or `give_up`.

        :raises StaleImage: the newest image is too old, or its stamp lies in the future
        """
        with self._lock:
            if not self.may_take:
                return None
            request, now = self._inbox.take(), self._clock()
            try:
                age, least = self._stamps.ages(request.image, now)
            except StaleImage:
                self._drop(request)
                raise
            self._taken = self._stamps.taken_at(request.image, now, least, self._taken)
            self._is_inferring = True
            known, limits = self._arm.limits(now)
            return Inference(request, age, least, self._taken, now,
                             None if known is None else tuple(known.tolist()), limits,
                             self._pace.executed(self._taken), self._pace.firm_steps(least))

    def give_up(self, inference: Inference) -> None:
        """Drop the image, as inference gave no answer, and what is left of the answer before."""
        with self._lock:
            self._is_inferring = False
            self._drop(inference.request)

    def answer(self, inference: Inference, action: Any, deltas: np.ndarray,
               firm_steps: int | None = None) -> bool:
        """
        Publish an action: in lockstep its steps at once, in real time each step when it is due.

        :param deltas: [chunk, 7], SI
        :param firm_steps: of them that may be executed in real time, however late answers are;
            None = all
        :returns: False if it doesn't count any more: another instruction, a pause
        :raises StaleImage, SpecVLAError: it must not be published
        """
        with self._lock:
            self._is_inferring, self._pace.inference_s = False, self._clock() - inference.begun
            if not self._inbox.holds(inference.request):
                return False
            if reason := refusal(deltas):  # of all steps, before the first of them is published
                self._drop(inference.request)
                raise SpecVLAError(reason)
            self._pace.said = inference.taken, len(deltas)
            if not self._is_paced:
                return self._say(inference, action, deltas)
            self._answer = inference, action, deltas
            self._is_answer_new = self._queue.put(deltas, inference.taken, firm_steps)
            return self.execute_due()

    def execute_due(self) -> bool:
        """
        Publish the control step that is due, if there is one.

        :returns: False if it doesn't count any more
        :raises StaleImage, SpecVLAError: it must not be published
        """
        with self._lock:
            now = self._clock()
            step = self._queue.due(now)
            if step is None:
                if self._is_answer_new and self._queue.next_at is None:
                    self._drop_answer()
                    self._last_step.miss('answers come too late for the steps of them that are '
                                         'accepted as closely as the first (per_step)')
                return True
            inference, action, deltas = self._answer
            is_new, self._is_answer_new = self._is_answer_new, False
            # The next image would have made a step a period later, and that one has a deadline.
            most = self._period + self.deadline
            if not is_new and (reason := self._rhythm.loss(now, most)):
                self._inbox.forget_images()  # the last one is too old as well
                self._drop_answer()
                self._last_step.miss(reason)  # `watch` says it
                self._arm.stand_still()
                return True
            return self._move(
                inference, action, step.number, is_new, deltas[step.number:step.number + 1],
                step.number)

    def watch(self) -> str:
        """
        Do what the fallback says while actions are missing; to be called every control period.

        :returns: the fault, if it is new, else ''
        """
        with self._lock:
            return self._arm.watch(self._clock(), self._came)

    @property
    def _take_at(self) -> float | None:
        """When the newest image is to be acted on, s; None where none is or one is acted on."""
        image: ReceivedImage | None = self._inbox.waiting
        if image is None or self._is_inferring or self._is_answer_new:
            return None
        begin_at = self._queue.begin_at(image.came, self._pace.inference_s)
        return begin_at if self._is_paced else image.came

    def _say(self, inference: Inference, action: Any, deltas: np.ndarray) -> bool:
        """Publish what a simulation that waits is to execute of an answer."""
        steps, latency = self._execution.steps(len(deltas)), self._execution.latency
        counts = self._move(inference, action, steps.start, True, deltas[steps], latency)
        self._stands = latency > steps.stop - steps.start
        return counts

    def _move(self, inference: Inference, action: Any, first: int, is_new: bool,
              deltas: np.ndarray, period: int) -> bool:
        """Publish control steps if the inference still counts; say whether it does."""
        try:
            now = self._clock()
            if self._is_paced:
                self._stamps.check_age(
                    inference.least_age + now - inference.begun, now - inference.begun)
            safe = self._arm.fit(deltas, now, self._stands)
            steps = ControlSteps(
                inference, action, first, is_new, safe.deltas, safe.limited_by, period)
            return self._inbox.answer(inference.request, lambda: self._publish(steps))
        except ValueError:
            self._drop(inference.request)
            raise

    def _publish(self, steps: ControlSteps) -> None:
        published = self._arm.move(steps)
        self._queue.hold(published + self._period)  # filling a message took time as well

    def _drop(self, request: InferenceRequest) -> None:
        self._inbox.drop(request)
        self._drop_answer()

    def _drop_answer(self) -> None:
        self._queue.clear()
        self._answer, self._is_answer_new = None, False
