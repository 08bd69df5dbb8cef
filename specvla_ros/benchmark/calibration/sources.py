"""Where the units of a calibration come from: LIBERO from random starts, or recorded bags."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specvla_ros.bags.frames import FrameReader, only_camera, Skipped
from specvla_ros.bags.reader import Bag
from specvla_ros.benchmark.calibration.units import measure_scale, Unit
from specvla_ros.benchmark.environment import Environment
from specvla_ros.benchmark.policy_like import PolicyLike
from specvla_ros.errors import SpecVLAError
from specvla_ros.hashing import files_sha256

if TYPE_CHECKING:  # heavy
    from specvla_ros.actions import Action

# Seeds of random starts from here on: `collect` takes those from 1,000,000, for training.
FIRST_SEED = 2_000_000


class PoliciesByScale:
    """
    The target under `ar`, and under its decoder at each scale, all acting on the same frames.

    Each remembers its own last action, as it would if it had been alone.
    """

    def __init__(self, reference: PolicyLike, policies: dict[float, PolicyLike]) -> None:
        self._reference = reference
        self._policies = policies
        self.begin()

    def begin(self) -> None:
        """Begin a unit."""
        for policy in (self._reference, *self._policies.values()):
            policy.reset()
        self._own: list[Action] = []
        self._of: dict[float, list[Action]] = {scale: [] for scale in self._policies}

    def act(
        self, image: NDArray[np.uint8], instruction: str, stamp: float | None = None
    ) -> dict[float, Action]:
        """Let all decode a frame uint8 [H, W, 3]; return actions by scale, 0 = the target's."""
        self._own.append(self._reference.act(image, instruction, stamp))
        for scale, policy in self._policies.items():
            self._of[scale].append(policy.act(image, instruction, stamp))
        return {0.0: self._own[-1], **{scale: of[-1] for scale, of in self._of.items()}}

    def end(self, name: str, success: bool | None) -> Unit:
        """Return what was seen since the beginning."""
        return Unit(name, success, tuple(
            measure_scale(scale, actions, self._own) for scale, actions in self._of.items()))


class UnitSource(Protocol):
    """Where the units of a calibration come from."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all units, in their order."""


@dataclass(frozen=True, slots=True)
class LiberoEpisodes:
    """
    Episodes from random starts, `count` in all, as many of each task as of another.

    drive: scale whose actions are executed, 0 = the target's own. max_steps: control steps;
    None = the suite's.
    """

    suite: str
    tasks: tuple[int, ...]
    count: int
    seed: int
    drive: float
    max_steps: int | None
    make_environment: Callable[[str, int], Environment]

    @property
    def names(self) -> tuple[str, ...]:
        """Suite, task and seed of each episode: the first episodes are those of a shorter run."""
        return tuple(self._name(*self._place(number)) for number in range(self.count))

    def _place(self, number: int) -> tuple[int, int]:
        rounds, turn = divmod(number, len(self.tasks))
        return self.tasks[turn], FIRST_SEED + self.seed + rounds

    def _name(self, task: int, seed: int) -> str:
        return f'{self.suite} task {task} seed {seed}'

    def jobs(self, done: Collection[str]) -> list[RandomStart]:
        """Return what is missing, task by task: a scene takes seconds to make."""
        return [RandomStart(self._name(*place), *place)
                for place in sorted(map(self._place, range(self.count)))
                if self._name(*place) not in done]


@dataclass(frozen=True, slots=True)
class RandomStart:
    """An episode from a random start, as a job for a worker."""

    name: str
    task: int
    seed: int

    @property
    def place(self) -> tuple[int]:
        """Its task."""
        return self.task,


class EpisodeMeasurer:
    """Plays episodes inside a worker, one scene at a time, and measures the policies on them."""

    def __init__(self, episodes: LiberoEpisodes, policies: PoliciesByScale) -> None:
        self._episodes, self._policies = episodes, policies
        self._scene: tuple[int, Environment] | None = None

    def do(self, job: RandomStart, tell: Callable[[int], None]) -> Unit:
        """Play an episode and return what was measured; tells the number of its frames so far."""
        success = self._play(self._environment(job.task), job.seed, tell)
        return self._policies.end(job.name, success)

    def _environment(self, task: int) -> Environment:
        if self._scene is None or self._scene[0] != task:
            if self._scene is not None:
                self._scene[1].close()
                self._scene = None
            self._scene = task, self._episodes.make_environment(self._episodes.suite, task)
        return self._scene[1]

    def _play(self, environment: Environment, seed: int, tell: Callable[[int], None]) -> bool:
        episodes, frames = self._episodes, 0
        self._policies.begin()
        observation, steps = environment.reset_random(seed), 0
        limit = episodes.max_steps or environment.max_steps
        while True:
            actions = self._policies.act(np.array(observation.image), environment.instruction)
            tell(frames := frames + 1)
            for delta in actions[episodes.drive].si:
                observation, steps = environment.step(delta), steps + 1
                if observation.success or steps >= limit:
                    return bool(observation.success)


@dataclass(frozen=True, slots=True)
class RecordedBag:
    """One bag: its units are its segments, where instruction or episode is the same."""

    path: Path
    image_topic: str
    instruction_topic: str
    instruction: str
    sha256: str
    segments: int
    skipped: Skipped

    @classmethod
    def read(
        cls, path: Path, image_topic: str, instruction_topic: str, instruction: str
    ) -> RecordedBag:
        """
        Look through a bag once.

        :raises SpecVLAError: it can't be read, or no frame of it can be used
        """
        with Bag(path) as bag:
            image_topic = image_topic or only_camera(bag)
            reader = FrameReader(bag, image_topic, instruction_topic, instruction)
            segments = 1 + max((frame.segment for frame in reader), default=-1)
            if not segments:
                raise SpecVLAError(f'no frame of {path} can be used: {reader.why_none()}')
            return cls(path, image_topic, instruction_topic, instruction,
                       files_sha256(bag.files), segments, reader.skipped)

    def name(self, segment: int) -> str:
        """Name a unit by what the bag holds: a bag may be moved."""
        return f'bag {self.sha256[:16]} segment {segment}'

    def units(
        self, done: Collection[str], policies: PoliciesByScale, on_frame: Callable[[], None]
    ) -> Iterator[Unit]:
        """Look at the frames of what is missing."""
        with Bag(self.path) as bag:
            frames = FrameReader(
                bag, self.image_topic, self.instruction_topic, self.instruction)
            for segment, of_segment in groupby(frames, lambda frame: frame.segment):
                if self.name(segment) in done:
                    continue
                policies.begin()
                for frame in of_segment:
                    stamp = frame.stamp * 1e-9 if frame.stamp else None
                    policies.act(frame.image, frame.instruction, stamp)
                    on_frame()
                yield policies.end(self.name(segment), None)


@dataclass(frozen=True, slots=True)
class RecordedBags:
    """Bags of a robot. Nothing is executed: the states are those of the recording."""

    bags: Sequence[RecordedBag]

    @property
    def names(self) -> tuple[str, ...]:
        """All segments of all bags."""
        return tuple(bag.name(segment) for bag in self.bags for segment in range(bag.segments))

    def units(
        self, done: Collection[str], policies: PoliciesByScale, on_frame: Callable[[], None]
    ) -> Iterator[Unit]:
        """Look at the bags one after the other."""
        for bag in self.bags:
            if any(bag.name(segment) not in done for segment in range(bag.segments)):
                yield from bag.units(done, policies, on_frame)
