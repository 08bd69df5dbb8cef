"""
A world with a clock of its own for `Pilot`: camera, inference, arm, and `Actor`'s part, no ROS.

`World.at(time, what)` puts something on the time line; `World.run(until)` lets it happen. Between
two events the pilot is called as `Actor` calls it: after each image, instruction and answer, and
at `Pilot.next_at`, which rings `late` s late. Each step that is published is checked where it is:
right words, right image, each once, in order, in its time, none stale, none of an answer that has
ended, none closer than a control period, and inside the envelope. What the steps come to over time
is for the tests.
"""
from dataclasses import dataclass, replace
import heapq
import itertools
import math

import numpy as np

from specvla_ros.execution import Execution
from specvla_ros.nodes.policy_node.inference import ControlSteps
from specvla_ros.nodes.policy_node.pilot import Pilot

START = 1000.0  # s of the clock that never jumps
EPSILON = 1e-9  # s; clocks here are floats


@dataclass
class Image:
    """
    What a test's camera sends; came: s, infer: s the policy takes, action: what it says.

    A copy that is sent again has the same number, and an order of its own.
    """

    number: int
    order: int
    stamp: int
    came: float
    infer: float
    action: np.ndarray


@dataclass
class Published:
    """A control step as it was published; firm: how many of its answer were to be executed."""

    at: float
    image: Image
    number: int
    delta: np.ndarray
    firm: int | None


class World:
    """One arm, one camera and a clock: events in, what was published and refused out."""

    def __init__(self, safety, period, max_age=5.0, pacing='realtime', late=0.0,
                 execute_steps=None, latency=0, keeps_firm=False):
        self.now, self.offset = START, 1_700_000_000 * 10**9  # ns between this and camera clock
        self.safety, self.period, self.max_age = safety, period, max_age
        self.is_paced, self.late = pacing == 'realtime', late
        self.instruction, self.is_paused = '', False
        self.pose, self.moved = None, np.zeros(3)
        self.published, self.stills, self.refusals = [], [], []
        self.acted_on, self.n_inferences, self.n_images = set(), 0, 0
        self.n_sent = 0
        self._events, self._order = [], itertools.count()
        self._task, self._answered = None, {}
        self.ends = 0  # of what ends the answer that is being executed, or would
        self._alive = None  # the inference whose answer is the newest, and `ends` when it came
        self._keeps_firm = keeps_firm  # as an actor whose decoder's thresholds grow by step
        self._new_images = []  # when they came
        self._lost = -math.inf  # when the camera was found lost
        self.pilot = Pilot('settings', safety, period, max_age, pacing, self,
                           lambda: self.now, self.camera_clock,
                           Execution(execute_steps, latency))

    def camera_clock(self):
        return self.offset + round(self.now * 1e9)

    def at(self, time, what):
        heapq.heappush(self._events, (START + time, next(self._order), what))

    def run(self, until):
        """Let things happen until a time, s from the start."""
        while True:
            ring = self.pilot.next_at
            ring = math.inf if ring is None else max(ring + self.late, self.now)
            time = self._events[0][0] if self._events else math.inf
            if min(ring, time) > START + until:
                break
            if ring < time:
                self.now = ring
                self._go_on()
            else:
                self.now, _, what = heapq.heappop(self._events)
                what()
        self.now = START + until

    # What a test has happen.

    def see(self, action, infer=0.015, stamp=None, age=0.0):
        """Take an image now that was taken `age` s ago; stamp: ns, None = what that says."""
        stamp = self.camera_clock() - round(age * 1e9) if stamp is None else stamp
        self.n_images += 1
        return self.resend(Image(self.n_images, 0, stamp, self.now, infer, action))

    def resend(self, image):
        """Send an image that may have been sent before; return it as it came now."""
        self.n_sent += 1
        image = replace(image, order=self.n_sent, came=self.now)
        try:
            seen = self.pilot.see(image, image.stamp)
        except ValueError as error:
            self.refusals.append(str(error))
        else:
            if seen:
                self._new_images.append(self.now)
                self._go_on()
        return image

    def say(self, instruction):
        self.ends += instruction != self.instruction
        self.instruction = instruction
        if self.pilot.follow(instruction) and instruction:
            self._go_on()

    def pause(self):
        self.is_paused = True
        self.ends += 1
        self.pilot.pause()
        self.pilot.come_to_rest()

    def resume(self):
        self.is_paused = False
        self.pilot.resume()

    def hear_position(self, position):
        self.pose, self.moved = (position, self.now), np.zeros(3)
        self.pilot.hear_position(position)

    def set_safety(self, safety):
        self.safety = safety
        self.pilot.set_safety(safety)

    # What `Actor` does.

    def _go_on(self):
        n_stills = len(self.stills)
        self._try(self.pilot.execute_due)
        if len(self.stills) > n_stills:  # the camera is lost
            self.ends, self._lost = self.ends + 1, self.now
        if self.pilot.may_take and self._task is None:
            self._begin()

    def _begin(self):
        try:
            inference = self.pilot.take()
        except ValueError as error:
            self.refusals.append(str(error))
            self.ends += 1
            return
        if inference is None:
            return
        self.n_inferences += 1
        self._task = inference
        self._taken = self.now, self.camera_clock()
        image = inference.image.message
        self.at(self.now - START + image.infer, lambda: self._end(image))

    def _end(self, image):
        inference, self._task = self._task, None
        if image.action is None:  # a picture that can't be read
            self.ends += 1
            self.pilot.give_up(inference)
        else:
            self._answered[image.order] = self._taken
            self._alive = inference, self.ends
            firm = {'firm_steps': inference.firm_steps} if self._keeps_firm else {}
            self._try(lambda: self.pilot.answer(inference, image.action, image.action, **firm))
        self._go_on()

    def _try(self, publish):
        try:
            publish()
        except ValueError as error:
            self.refusals.append(str(error))
            self.ends += 1

    # What the arm is told; `Arm` of the pilot.

    def move(self, steps: ControlSteps):
        image = steps.inference.image.message
        for step, delta in enumerate(steps.deltas):
            self._check(steps, image, steps.first + step, delta)
            self.published.append(Published(
                self.now, image, steps.first + step, delta.copy(), steps.inference.firm_steps))
            self.moved = self.moved + delta[:3]
        return self.now

    def stand_still(self, gripper, keeps_target):
        self.stills.append(self.now)

    def _check(self, steps, image, number, delta):
        assert self.instruction and steps.inference.request.instruction == self.instruction
        assert not self.is_paused
        taken, camera = self._answered[image.order]
        assert np.isfinite(delta).all()
        if self._keeps_firm and self.is_paced and steps.inference.firm_steps is not None:
            assert number < steps.inference.firm_steps, 'to be said again before it is executed'
        assert (steps.inference, self.ends) == self._alive, 'of an answer that has ended'
        assert image.came > self._lost, 'of an image from before the camera was lost'
        before = self.published[-1] if self.published else None
        if self.is_paced:
            self._check_time(steps.inference.taken, image, number, before)
        if before is None or image is not before.image:
            assert image.number not in self.acted_on, 'an image is acted on twice'
            self.acted_on.add(image.number)
        if before is not None:
            assert (image.order, number) > (before.image.order, before.number), 'out of order'
            if self.is_paced:
                assert self.now - before.at >= self.period - EPSILON, 'closer than a period'
        if self.max_age and self.is_paced:
            assert self.now - image.came <= self.max_age + EPSILON, 'stale: came long ago'
            if image.stamp:
                age = (camera - image.stamp) * 1e-9 + self.now - taken
                assert age <= self.max_age + 1e-6, 'stale: taken long ago'
                assert camera - image.stamp >= -self.max_age * 1e9, 'from the future'
        self._check_envelope(before, delta)

    def _check_time(self, taken, image, number, before):
        """Step k belongs to k periods after its image; only the last one may be late."""
        begins = taken + number * self.period
        assert begins <= self.now + EPSILON, 'too early'
        assert (self.now < begins + self.period + EPSILON
                or number == len(image.action) - 1), 'late, and not the last one'
        if before is not None and image is before.image:  # more than one step of an image
            usual = max([self.period, *np.diff(self._new_images)[-5:]])
            known = len(self._new_images) > 1
            most = (self.safety.deadline_periods + 1) * self.period
            assert self.now - self._new_images[-1] <= (
                min(most, 2.5 * usual) if known else most) + EPSILON, 'the camera is lost'

    def _check_envelope(self, before, delta):
        limits, most = self.safety, 1 + 1e-9
        rest = before is None or self.now - before.at > limits.deadline_periods * self.period
        for part, step, speed, acceleration in (
                (slice(0, 3), limits.step_translation_m, limits.speed_m_s,
                 limits.acceleration_m_s2),
                (slice(3, 6), limits.step_rotation_rad, limits.turn_rate_rad_s,
                 limits.turn_acceleration_rad_s2)):
            length = float(np.linalg.norm(delta[part]))
            assert length <= step * most
            assert length <= speed * self.period * most
            old = np.zeros(3) if rest else before.delta[part]
            change = faster(delta[part], old)
            assert change <= acceleration * self.period**2 * most + 1e-12
        if self.pose is not None and self.now - self.pose[1] <= (
                limits.deadline_periods * self.period):
            place = self.pose[0] + self.moved
            assert np.isfinite(place).all()
            goal = place + delta[:3]
            low, high = np.array(limits.workspace_min_m), np.array(limits.workspace_max_m)
            assert (goal >= np.minimum(low, place) - 1e-9).all(), 'through a wall'
            assert (goal <= np.maximum(high, place) + 1e-9).all(), 'through a wall'


def faster(new, old):
    """Return the length of the change from the nearest part of the way 0 … `old` to `new`."""
    square = old @ old
    share = min(max((new @ old) / square, 0.0), 1.0) if square else 0.0
    return float(np.linalg.norm(new - share * old))
