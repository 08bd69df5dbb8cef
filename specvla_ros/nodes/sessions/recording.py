"""
One episode, put together from the messages of its topics; no ROS in it.

Messages of different topics arrive in any order. The stamp of the camera image ties them together:
the pose and the image of an observation carry it, the action and the report name it. An image the
bridge had to send again carries a stamp that no pose has; an answer to it is an answer to the
observation before.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from specvla_ros.files import whole_file


@dataclass(frozen=True, slots=True)
class ReceivedAction:
    """
    One action as it was received; `deltas` float64 [chunk, 7] in SI units.

    received: s, clock of the image's stamp. sequence: the policy's count of actions.
    """

    sequence: int
    received: float
    deltas: np.ndarray
    normalized: tuple[float, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReportedCost:
    """The cost of an action as its decode report says it."""

    decoder: str
    target_passes: int
    drafted: int
    accepted: int
    acceptance_lengths: tuple[int, ...]
    sources: tuple[str, ...]
    stage_ms: dict[str, float]
    forbidden: int = 0
    unverified: int = 0
    risk: float = math.nan


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """
    An observation, the action that answers it, and the cost of that action.

    number: counts the actions of the episode from 0. stamp: of the image, ns.
    """

    number: int
    stamp: int
    frame: bytes
    answer: ReceivedAction
    cost: ReportedCost

    @property
    def ros_latency_ms(self) -> float:
        """From the image's stamp to the action's arrival."""
        return self.answer.received * 1e3 - self.stamp / 1e6

    @property
    def ros_overhead_ms(self) -> float:
        """The same, without what the policy itself took."""
        stages = self.cost.stage_ms
        return self.ros_latency_ms - (stages['total'] - stages['publish'])


@dataclass(slots=True)
class EpisodeRecording:
    """Collects the messages of one episode and gives out its steps, in order, as they complete."""

    steps: list[RecordedStep] = field(default_factory=list)
    _observed: list[int] = field(default_factory=list)
    _frames: dict[int, bytes] = field(default_factory=dict)
    _answers: dict[int, ReceivedAction] = field(default_factory=dict)
    _costs: dict[int, ReportedCost] = field(default_factory=dict)

    def add_observation(self, stamp: int) -> None:
        """Note that the robot was observed at `stamp` (ns)."""
        self._observed.insert(bisect_right(self._observed, stamp), stamp)

    def add_frame(self, stamp: int, jpeg: bytes) -> None:
        """Keep a camera image."""
        self._frames[stamp] = jpeg

    def add_answer(self, stamp: int, answer: ReceivedAction) -> None:
        """Keep the action that answers the image of that stamp."""
        self._answers[stamp] = answer

    def add_cost(self, stamp: int, cost: ReportedCost) -> None:
        """Keep the decode report of the action that answers the image of that stamp."""
        self._costs[stamp] = cost

    def new_steps(self, is_over: bool = False) -> list[RecordedStep]:
        """
        Return the steps completed since the last call.

        :param is_over: the episode has ended: no more observations will come
        """
        begin = len(self.steps)
        while len(self.steps) < len(self._observed):
            step = self._complete(len(self.steps), is_over)
            if step is None:
                break
            self.steps.append(step)
        return self.steps[begin:]

    @property
    def is_complete(self) -> bool:
        """Whether every observation has become a step."""
        return len(self.steps) == len(self._observed)

    def _complete(self, index: int, is_over: bool) -> RecordedStep | None:
        stamp = self._observed[index]
        is_last = index + 1 == len(self._observed)
        if is_last and not is_over:  # a later stamp may be the next observation's
            answered = {stamp} & self._answers.keys()
        else:
            end = None if is_last else self._observed[index + 1]
            answered = {s for s in self._answers if s >= stamp and (end is None or s < end)}
        if not answered or stamp not in self._frames:
            return None
        first = min(answered, key=lambda s: self._answers[s].sequence)
        if first not in self._costs:
            return None
        return RecordedStep(
            index, first, self._frames[stamp], self._answers[first], self._costs[first])

    def executed_steps(self, total: int | None = None) -> list[int]:
        """
        Return how many control steps of each answer were executed.

        :param total: of the episode, which may end amid an answer; None = all that were sent
        """
        counts = [len(step.answer.deltas) for step in self.steps]
        left = sum(counts) if total is None else total
        for number, count in enumerate(counts):
            counts[number] = min(count, left)
            left -= counts[number]
        return counts

    def save(self, path: Path, total_steps: int | None = None, **facts: Any) -> None:
        """
        Write the episode as .npz, whole or not at all; the arrays are listed in `demo_session`.

        :param total_steps: control steps of the episode; None = all that were sent
        :param facts: more scalars and texts to put in
        :raises SpecVLAError: the disk is full or not writable
        """
        steps = self.steps
        frames = np.empty(len(steps), dtype=object)
        frames[:] = [step.frame for step in steps]
        arrays = {
            'frames': frames,
            'tokens': np.array([step.answer.tokens for step in steps], dtype=np.int64),
            'action_si': np.array([step.answer.deltas[0] for step in steps], dtype=np.float32),
            'normalized': np.array([step.answer.normalized for step in steps], dtype=np.float32),
            'steps': np.array(self.executed_steps(total_steps), np.int64),
            'target_passes': np.array([step.cost.target_passes for step in steps], np.int64),
            'drafted': np.array([step.cost.drafted for step in steps], np.int64),
            'accepted': np.array([step.cost.accepted for step in steps], np.int64),
            'forbidden': np.array([step.cost.forbidden for step in steps], np.int64),
            'unverified': np.array([step.cost.unverified for step in steps], np.int64),
            'risk': np.array([step.cost.risk for step in steps]),
            'image_stamp': np.array([step.stamp for step in steps], np.int64),
            'ros_latency_ms': np.array([step.ros_latency_ms for step in steps]),
            'ros_overhead_ms': np.array([step.ros_overhead_ms for step in steps]),
            'sources': json.dumps([step.cost.sources for step in steps]),
            'acceptance_lengths': json.dumps([step.cost.acceptance_lengths for step in steps]),
            'stage_ms': json.dumps([step.cost.stage_ms for step in steps]),
        }
        with whole_file(path) as temporary, temporary.open('wb') as file:
            np.savez(file, **arrays, **facts)
