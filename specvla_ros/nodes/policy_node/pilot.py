"""
Which image is acted on, and which control steps are published when; no ROS in it.

`RequestInbox` says which image and instruction count, `StepQueue` when a control step is due,
`safety.fit` how far it may go. This puts them together; the owner of the topics calls it from
callbacks (`see`, `follow`, `pause`, …), from the thread that infers (`take`, `answer`), and
whenever `next_at` has come (`execute_due`).

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
from specvla_ros.nodes.policy_node.arm_state import EefPosition, LastStep
from specvla_ros.nodes.policy_node.camera_rhythm import CameraRhythm
from specvla_ros.nodes.policy_node.inference import (
    Arm,
    ControlSteps,
    Inference,
    ReceivedImage,
    StaleImage,
)
from specvla_ros.nodes.policy_node.request_inbox import InferenceRequest, RequestInbox
from specvla_ros.safety import fit, refusal, step_limits
from specvla_ros.safety_settings import SafetySettings
from specvla_ros.steps import StepQueue

PACINGS = ('realtime', 'lockstep')
# s in which all images of one stamp are copies of one image, sent again; later, the clock of the
# camera doesn't run.
_COPIES = 1.0


class Pilot:
    """
    Decides for one arm which image is acted on and which steps are published; thread-safe.

    :param settings: of the requests, see `RequestInbox`
    :param period_s: the control period of the data set
    :param max_image_age: older images are stale, s; 0: none is
    :param pacing: one of `PACINGS`
    :param clock: s, never jumps
    :param camera_clock: ns, the clock that images are stamped by
    :param execution: how many steps of an answer are executed; its latency only in lockstep
    """

    def __init__(
        self, settings: Any, safety: SafetySettings, period_s: float, max_image_age: float,
        pacing: str, arm: Arm, clock: Callable[[], float], camera_clock: Callable[[], int],
        execution: Execution = Execution(),  # noqa: B008 - frozen
    ) -> None:
        self._period, self._max_age, self._arm = period_s, max_image_age, arm
        self._is_paced = pacing == 'realtime'
        self._clock, self._camera_clock = clock, camera_clock
        self._lock = threading.RLock()
        self._inbox = RequestInbox(settings)
        self._execution = execution
        self._queue = StepQueue(period_s, execution.execute_steps)
        # Another process may have moved the arm just now, or this one before it was deactivated.
        self._queue.hold(clock() + period_s)
        self._last_step, self._eef = LastStep(0.0), EefPosition()
        self.set_safety(safety)
        self._stamp = 0  # ns, of the last image that came
        self._stamp_since = -math.inf  # s, when the first image of this stamp came
        self._stuck = ''
        self._came = self._taken = -math.inf  # s, when the last image came, and the last was taken
        self._rhythm = CameraRhythm(period_s)
        self._answer: tuple[Inference, Any, np.ndarray] | None = None
        self._is_inferring = self._is_answer_new = False
        self._said: tuple[float, int] | None = None  # taken, steps: of the last answer that counts
        self._stands = False  # lockstep: the arm stands still before the next answer's steps
        self._inference_s = 0.0  # s that the last one took

    def set_settings(self, settings: Any) -> None:
        """Give these settings to later requests."""
        self._inbox.set_settings(settings)

    def set_safety(self, safety: SafetySettings) -> None:
        """Publish only what fits this envelope, once this returns; no action mixes two of them."""
        with self._lock:
            self._safety = safety
            self._last_step.deadline = self.deadline

    @property
    def deadline(self) -> float:
        """Seconds after a control step within which the next one must come."""
        return self._safety.deadline_periods * self._period

    @property
    def fault(self) -> str:
        """Why actions are missing at present; '' where they aren't."""
        return self._stuck or self._last_step.fault

    def see(self, message: Any, stamp: int) -> bool:
        """
        Make an image the newest; False if it is a copy of an earlier one, or while paused.

        :param stamp: ns, 0 = the camera gives none
        :raises SpecVLAError: the clock of the camera was set back: the next one is trusted again;
            or it doesn't run
        """
        with self._lock:
            self._came = self._clock()
            self._check_running(stamp)
            back = self._stamp - stamp if stamp else 0
            self._stamp = stamp or self._stamp
            if back > 0:
                raise SpecVLAError(
                    f'the clock of the camera was set back by {back * 1e-9:.3f} s: this image is '
                    'not acted on, the next one is')
            is_new = self._inbox.put_image(ReceivedImage(message, stamp, self._came), stamp)
            if is_new:
                self._rhythm.note(self._came)
            return is_new

    def hear_position(self, position: np.ndarray) -> None:
        """Note where the end effector is, float64 [3], m, finite or not, in the actions' frame."""
        with self._lock:
            self._eef.hear(position)

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
            if self._last_step.is_under_way:
                self._stand_still()
            self._last_step.end()

    @property
    def next_at(self) -> float | None:
        """When there is something to `take` or to `execute_due`, s; None until something comes."""
        with self._lock:
            times = [at for at in (self._take_at, self._queue.next_at) if at is not None]
            return min(times, default=None)

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
            image, age = request.image, math.nan
            if image.stamp:
                age = (self._camera_clock() - image.stamp) * 1e-9
            least = max(now - image.came, 0.0 if math.isnan(age) else age)
            if self._max_age and (least > self._max_age or age < -self._max_age):
                self._drop(request)
                raise self._stale(age if age < 0 else least)
            # A later image was taken later, whatever a clock that was set says.
            taken = now - least if self._max_age else image.came
            self._taken = max(taken, math.nextafter(self._taken, math.inf))
            self._is_inferring = True
            heard = self._eef.position
            known = None if heard is None or not np.isfinite(heard).all() else heard
            limits = step_limits(self._safety, self._period, position_m=known,
                                 previous=self._last_step.delta(now))
            return Inference(request, age, least, self._taken, now,
                        None if known is None else tuple(known.tolist()), limits, self._executed)

    def give_up(self, inference: Inference) -> None:
        """Drop the image, as inference gave no answer, and what is left of the answer before."""
        with self._lock:
            self._is_inferring = False
            self._drop(inference.request)

    def answer(self, inference: Inference, action: Any, deltas: np.ndarray) -> bool:
        """
        Publish an action: in lockstep its steps at once, in real time each step when it is due.

        :param deltas: [chunk, 7], SI
        :returns: False if it doesn't count any more: another instruction, a pause
        :raises StaleImage, SpecVLAError: it must not be published
        """
        with self._lock:
            self._is_inferring, self._inference_s = False, self._clock() - inference.begun
            if not self._inbox.holds(inference.request):
                return False
            if reason := refusal(deltas):  # of all steps, before the first of them is published
                self._drop(inference.request)
                raise SpecVLAError(reason)
            self._said = inference.taken, len(deltas)
            if not self._is_paced:
                return self._say(inference, action, deltas)
            self._answer = inference, action, deltas
            self._is_answer_new = self._queue.put(deltas, inference.taken)
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
                return True
            inference, action, deltas = self._answer
            is_new, self._is_answer_new = self._is_answer_new, False
            # The next image would have made a step a period later, and that one has a deadline.
            most = self._period + self.deadline
            if not is_new and (reason := self._rhythm.loss(now, most)):
                self._inbox.forget_images()  # the last one is too old as well
                self._drop_answer()
                self._last_step.miss(reason)  # `watch` says it
                self._stand_still()
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
            now = self._clock()
            if not self._last_step.is_late(now):
                return ''
            new = ''
            if not self._last_step.fault:
                what = 'image' if now - self._came > self.deadline else 'action'
                new = self._last_step.fault = self._last_step.reason or (
                    f'no {what} for more than {self.deadline:.3g} s '
                    f'(deadline_periods {self._safety.deadline_periods:g})')
            self._stand_still()
            return new

    def _check_running(self, stamp: int) -> None:
        """See whether the clock of the camera runs; raise a SpecVLAError if it doesn't."""
        if not stamp or stamp != self._stamp:
            self._stamp_since, self._stuck = self._came, ''
        elif self._came - self._stamp_since > _COPIES and not self._is_inferring:
            # Before the answer, a simulation whose time stands still may send its image again.
            self._stuck = (
                f'all images of the last {_COPIES:g} s and more have the stamp '
                f'{stamp * 1e-9:.3f} s, so they count as copies of one: see whether the clock '
                'runs that the camera stamps them by')
            raise SpecVLAError(self._stuck)

    @property
    def _take_at(self) -> float | None:
        """When the newest image is to be acted on, s; None where none is or one is acted on."""
        image: ReceivedImage | None = self._inbox.waiting
        if image is None or self._is_inferring or self._is_answer_new:
            return None
        if not self._is_paced:
            return image.came
        # A hair late, and the step would be one of the answer before: be there a little sooner.
        margin = self._period / 10 if self._queue.next_at is not None else 0.0
        at = self._queue.wanted_at - self._inference_s - margin
        # Had it waited for more than half a period, a camera about as fast as the control period
        # would send the next one sooner than that: rather be late once than old each time. But
        # not where the arm, which is under way, would stop for it.
        if at - image.came > self._period / 2 and self._queue.bridges:
            return max(at, image.came + self._period)
        return at

    @property
    def _executed(self) -> int | None:
        """Number of steps of the last answer that were due before the newest image taken."""
        if self._said is None:
            return None
        taken, chunk = self._said
        periods = (round((self._taken - taken) / self._period) if self._is_paced
                   else self._execution.periods(chunk))
        return min(max(periods, 1), chunk)

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
            age = inference.least_age + now - inference.begun
            if self._is_paced and self._max_age and age > self._max_age:
                raise self._stale(age, f' {now - inference.begun:.3f} s after inference began')
            before = None if self._stands else self._last_step.delta(now)
            safe = fit(deltas, self._safety, self._period, previous=before,
                       position_m=self._eef.position)
            if safe.deltas is None:
                raise SpecVLAError(safe.refusal)
            steps = ControlSteps(
                inference, action, first, is_new, safe.deltas, safe.limited_by, period)
            return self._inbox.answer(inference.request, lambda: self._publish(steps))
        except ValueError:
            self._drop(inference.request)
            raise

    def _publish(self, steps: ControlSteps) -> None:
        published = self._arm.move(steps)
        self._queue.hold(published + self._period)  # filling a message took time as well
        self._last_step.go_on(steps.deltas[-1], published)
        self._eef.go_on(steps.deltas[:, :3].sum(axis=0))

    def _drop(self, request: InferenceRequest) -> None:
        self._inbox.drop(request)
        self._drop_answer()

    def _drop_answer(self) -> None:
        self._queue.clear()
        self._answer, self._is_answer_new = None, False

    def _stand_still(self) -> None:
        if self._safety.fallback != 'none':
            self._arm.stand_still(self._last_step.gripper, self._safety.fallback == 'hold')

    def _stale(self, age: float, when: str = '') -> StaleImage:
        where = f'{age:.3f} s old{when}' if age > 0 else f'from {-age:.3f} s in the future'
        return StaleImage(
            f'the image is {where}, max_image_age is {self._max_age:g} s: see whether the camera '
            'is stuck, and whether its clock is that of this node', age)
