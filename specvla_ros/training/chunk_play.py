"""
Episodes that teach chunks: bursts that lead astray alternate with stretches of the expert alone.

In a burst the arm is pushed, or the policy drives. In a clean stretch the expert's actions are
executed unchanged. A frame is kept only where the H steps from it on lie in one clean stretch, so
the label of a frame is what was executed. After success the expert goes on for H steps: no label
is padded.

Added to what `collect.py` says of an episode's file: executed float32 [S, 7], the actions executed
at all S steps in the data set's units; clean bool [S], whether the expert's was, unchanged;
chunk int, H. `action[i]` equals `executed[frame[i]]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specvla_ros.libero.environment import ROTATION_SCALE, TRANSLATION_SCALE
from specvla_ros.libero.experts.task_expert import TaskExpert
from specvla_ros.training.dataset import counts
from specvla_ros.training.lengths import Lengths, Stuck

if TYPE_CHECKING:  # torch and the simulator take seconds
    from specvla_ros.libero.environment import LiberoEnv
    from specvla_ros.policy import Policy

SCALE = np.array([TRANSLATION_SCALE] * 3 + [ROTATION_SCALE] * 3 + [1.0])  # 1 of the data set in SI
_FOR_GOOD = 1 << 20  # steps
_STATE = 10  # numbers of `TaskExpert.state`
_LONGEST_SPARE = 32  # frames that a clean stretch gives beyond the first
_PUSH, _FIRST_PUSH, _DRIVE = (3, 11), (5, 17), (4, 17)  # steps of a burst: from, below


@dataclass(slots=True)
class Burst:
    """One burst of pushes; `policy`: the policy drives instead."""

    policy: bool
    left: int
    push: NDArray[np.float64] = field(default_factory=lambda: np.zeros(6))
    shuts: bool = False  # open fingers close: a policy that did so in mid-air must know a way on

    def pushed(self, action: NDArray[np.float64], random: np.random.Generator) -> NDArray:
        """Return the action [7] as it is executed under this burst."""
        executed = action.copy()
        executed[:6] += self.push
        executed[:3] += 0.1 * random.normal(size=3)
        executed[:6] = np.clip(executed[:6], -1, 1)
        if self.shuts:
            executed[6] = 0.0
        return executed


class Stretches:
    """
    Whose turn it is, step by step.

    chunk: H; policy_share: share of the bursts that the policy drives; strength: of the pushes;
    until: no burst begins or goes on from this step on.
    """

    def __init__(
        self, random: np.random.Generator, chunk: int, policy_share: float, strength: float,
        until: int,
    ) -> None:
        self._random, self._chunk = random, chunk
        self._policy_share, self._strength, self._until = policy_share, strength, until
        self._clean_left = 0  # steps of the expert alone that are still to come
        # Half of the episodes start elsewhere: a long push away from the usual first pose.
        first = random.random() < 0.5
        self._burst: Burst | None = self._push(_FIRST_PUSH, 1.2) if first else None
        if not first:
            self._begin_clean()

    @property
    def is_whole(self) -> bool:
        """Whether the step at hand begins H steps of the expert alone."""
        return self._clean_left >= self._chunk - 1

    def advance(self, step: int) -> Burst | None:
        """Return the burst of this step; None = the expert's action is executed."""
        if self._burst is not None and self._burst.left == 0:
            self._burst = None
            self._begin_clean()
        if self._burst is None and self._clean_left == 0:
            self._burst = self._next_burst()
        if step >= self._until:
            self.calm()
        if self._burst is None:
            self._clean_left -= 1
        else:
            self._burst.left -= 1
        return self._burst

    def calm(self) -> None:
        """Begin no burst from now on."""
        self._burst, self._clean_left = None, _FOR_GOOD

    def _begin_clean(self) -> None:
        self._clean_left = self._chunk + int(self._random.integers(0, _LONGEST_SPARE + 1))

    def _next_burst(self) -> Burst:
        if self._random.random() < self._policy_share:
            return Burst(True, int(self._random.integers(*_DRIVE)))
        return self._push(_PUSH, 1.4)

    def _push(self, steps: tuple[int, int], strength: float) -> Burst:
        random = self._random
        twist = random.normal(size=3) * (0.25 if random.random() < 0.2 else 0.0)
        push = self._strength * np.concatenate([random.normal(size=3) * strength, twist])
        return Burst(False, int(random.integers(*steps)), push,
                     bool(self._strength) and random.random() < 0.2)


@dataclass(slots=True)
class EpisodeArrays:
    """What an episode's file holds, as it grows."""

    jpegs: list[bytes] = field(default_factory=list)
    states: list[NDArray] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    executed: list[NDArray] = field(default_factory=list)
    clean: list[bool] = field(default_factory=list)

    def look(self, env: LiberoEnv, expert: TaskExpert, step: int) -> None:
        """Keep the frame before a step."""
        import cv2
        _, jpeg = cv2.imencode('.jpg', env.frame()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        self.jpegs.append(jpeg.tobytes())
        self.states.append(expert.state())
        self.frames.append(step)

    def arrays(self, chunk: int) -> dict:
        """Return the arrays of the file; frames whose H steps weren't all clean are left out."""
        executed, clean = np.array(self.executed, np.float32), np.array(self.clean)
        kept = [i for i, frame in enumerate(self.frames) if counts(clean, frame, chunk)]
        boxed = np.empty(len(kept), dtype=object)
        boxed[:] = [self.jpegs[i] for i in kept]
        frames = np.array([self.frames[i] for i in kept], np.int32)
        return dict(jpeg=boxed, action=executed[frames],
                    state=np.array([self.states[i] for i in kept], np.float32).reshape(
                        len(kept), _STATE),
                    frame=frames, executed=executed, clean=clean, chunk=chunk)


class Driver:
    """The policy at the wheel: `execute` steps of each answer are executed."""

    def __init__(self, policy: Policy, instruction: str, execute: int) -> None:
        self._policy, self._instruction, self._execute = policy, instruction, execute
        self._steps: list[NDArray] = []
        self._executed: int | None = None

    def begin(self) -> None:
        """Forget what was said before: a new burst begins."""
        self._policy.reset()
        self._steps, self._executed = [], None

    def act(self, env: LiberoEnv) -> NDArray[np.float64]:
        """Return the next action [7] in the data set's units."""
        if not self._steps:
            action = self._policy.act(env.frame(), self._instruction, executed=self._executed)
            self._steps = list(action.si[:self._execute].astype(np.float64) / SCALE)
            self._executed = len(self._steps)
        return self._steps.pop(0)


def play(
    env: LiberoEnv, policy: Policy | None, random: np.random.Generator, *, chunk: int,
    execute: int, policy_share: float, strength: float, keep: float, start_seed: int,
    lengths: Lengths,
) -> dict:
    """
    Play one episode; return the arrays of its file.

    chunk: H; execute: steps of each answer that the policy executes; keep: share of the frames
    in steady motion that is rendered; strength: of the pushes, 1 = full; lengths: of the episode.
    An environment that doesn't render gives the same episode without frames.
    """
    env.reset_random(start_seed, render=False)
    expert, record = TaskExpert(env), EpisodeArrays()
    driver = Driver(policy, env.instruction, execute) if policy else None
    stretches = Stretches(random, chunk, policy_share if policy else 0.0, strength,
                          lengths.disturbed)
    stuck = Stuck(lengths.disturbed)
    last, burst, success, policy_steps = lengths.most, None, False, 0
    for step in range(lengths.most + chunk):
        if step == last:
            break
        before, burst = burst, stretches.advance(step)
        label = expert.act() / SCALE
        if burst is None and stretches.is_whole:
            # Motion at full speed tells little that is new: some of it isn't rendered.
            steady = np.abs(label[:3]).max() > 0.999 and step > 0
            if (not steady or random.random() < keep) and env.render:
                record.look(env, expert, step)
        elif burst is not None and burst.policy and burst is not before:
            driver.begin()
        executed = _action_to_execute(label, burst, driver, env, random)
        observation = env.step(executed * SCALE, render=False)
        record.executed.append(executed)
        record.clean.append(burst is None)
        policy_steps += burst is not None and burst.policy
        if observation.success and not success:
            success, last = True, step + 1 + chunk
            stretches.calm()
        elif not success and stuck(step, observation.eef_position):
            last = step + 1
    return dict(record.arrays(chunk), instruction=env.instruction, success=success,
                steps=len(record.executed), policy_steps=policy_steps)


def _action_to_execute(
    label: NDArray[np.float64], burst: Burst | None, driver: Driver | None, env: LiberoEnv,
    random: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the action [7] of a step: the expert's, pushed in a burst, or the policy's."""
    if burst is None:
        return label
    return driver.act(env) if burst.policy else burst.pushed(label, random)
