"""Collected frames → batches of tensors for a target, varied at random."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from specvla_ros.action_space import ActionSpace
from specvla_ros.openvla.action_tokenizer import ActionStatistics
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training.dataset import Episode, Frames
from specvla_ros.training.target_loss import TargetBatch


@dataclass(frozen=True, slots=True)
class Augmentation:
    """
    How a training frame is varied.

    shift: pixels the picture is moved by at most, borders repeated; colour: contrast and
    brightness vary by this share of the pixel's deviation; jitter: bins the action tokens that
    the model reads are off by at most (relaxed acceptance commits such tokens; the gripper's,
    and what the model has to say, stay exact).
    """

    shift: int = 0
    colour: float = 0.05
    jitter: int = 6


# Metres, about a pixel of the network's picture. LIBERO's basket stands within 0.6 mm until the
# arm lifts it: two such episodes of 153 were 100 deviations off and made the state loss 40 times
# as large.
_SMALLEST_DEVIATION = 0.01

_PLACES = 9  # numbers: eef, moved thing, its aim (`TaskExpert.state` begins with them)

NONE = Augmentation(shift=0, colour=0.0, jitter=0)


@dataclass(frozen=True, slots=True)
class StateScale:
    """Mean and deviation of what the state heads must tell, [S] each."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @classmethod
    def of(cls, episodes: list[Episode]) -> 'StateScale':
        """Measure them over episodes; what hardly varies counts as if it did by 1 cm."""
        state = _with_ways(np.concatenate([episode.state for episode in episodes]))
        deviation = np.maximum(state.std(axis=0), _SMALLEST_DEVIATION)
        return cls(state.mean(axis=0), deviation.astype(np.float32))


class TargetBatchMaker:
    """
    Make batches of frames for one target.

    `instructions` numbers the instructions for the state heads; others get number 0. chunk:
    control steps of a label.
    """

    def __init__(
        self, model: OpenVLA, statistics: ActionStatistics, scale: StateScale,
        instructions: list[str], chunk: int = 1,
    ) -> None:
        self.statistics, self.scale = statistics, scale
        self.space = ActionSpace(model.action_tokenizer, statistics.action_dim, chunk)
        self.tokenizer = model.action_tokenizer
        self.transform = model.image_transform(device='cpu')  # only to normalise
        self._numbers = {text: number for number, text in enumerate(instructions)}
        self._model = model
        self._prompts: dict[str, list[int]] = {}

    @property
    def action_length(self) -> int:
        """Tokens of an action, L."""
        return self.space.length

    def prompt(self, instruction: str) -> list[int]:
        """Ids of the prompt, BOS first: those that inference uses."""
        if instruction not in self._prompts:
            self._prompts[instruction] = self._model.prompt_ids(instruction).tolist()
        return self._prompts[instruction]

    def __call__(
        self, frames: Frames, indices: NDArray[np.int64], random: np.random.Generator,
        augmentation: Augmentation, instructions: int = 1,
    ) -> TargetBatch:
        """
        Frames at running indices [B] as a batch on the CPU.

        instructions: how many each frame is shown with: its own, and others at random, of which
        there must be enough.
        """
        located = [frames.locate(int(index)) for index in indices]
        tasks = [[_own(episode, frame), *_others(episode, frame, random, instructions - 1)]
                 for episode, frame in located]
        labels = self.tokenizer.encode(self.statistics.normalize(
            np.stack([[task.label for task in its] for its in tasks])))
        labels = labels.reshape(len(located), instructions, self.action_length)  # step by step
        read = self._jitter(labels, random, augmentation.jitter)
        ids, owner, ends = self._rows([[self.prompt(task.instruction) for task in its]
                                       for its in tasks], read)
        state = _with_ways(np.stack([[task.state for task in its] for its in tasks]))
        return TargetBatch(
            pixel_values=self._pixel_values(located, random, augmentation),
            input_ids=torch.from_numpy(ids), owner=torch.from_numpy(owner),
            prompt_ends=torch.from_numpy(ends), labels=torch.from_numpy(labels),
            state=torch.from_numpy((state - self.scale.mean) / self.scale.deviation),
            task=torch.tensor([[self._numbers.get(task.instruction, 0) for task in its]
                               for its in tasks]),
        )

    def _rows(
        self, prompts: list[list[list[int]]], read: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the tokens that are read [B, N], their owners, and where prompts end [B, I]."""
        tail = self.action_length - 1
        longest = max(sum(len(prompt) - 1 + tail for prompt in its) for its in prompts)
        ids, owner = np.zeros((2, len(prompts), 1 + longest), np.int64)
        ends = np.zeros(read.shape[:2], np.int64)
        for row, its in enumerate(prompts):
            ids[row, 0], at = its[0][0], 1  # BOS
            for number, prompt in enumerate(its):
                ends[row, number] = at + len(prompt) - 2
                end = at + len(prompt) - 1 + tail
                ids[row, at:end] = [*prompt[1:], *read[row, number, :-1]]
                owner[row, at:end], at = number + 1, end
        return ids, owner, ends

    def _jitter(
        self, labels: NDArray[np.int64], random: np.random.Generator, jitter: int
    ) -> NDArray[np.int64]:
        """Action ids [B, I, L] moved by up to `jitter` bins, except the gripper's."""
        moved = labels + random.integers(-jitter, jitter + 1, labels.shape)
        moved = moved.clip(self.tokenizer.first_id, self.tokenizer.last_id)
        gripper = self.space.is_gripper(np.arange(self.action_length))
        moved[..., gripper] = labels[..., gripper]
        return moved

    def _pixel_values(
        self, located: list[tuple[Episode, int]], random: np.random.Generator,
        augmentation: Augmentation,
    ) -> Tensor:
        """Pixel values [B, 6, size, size], shifted and recoloured."""
        pixels = np.stack([episode.pixels[frame] for episode, frame in located])
        if augmentation.shift:
            size = pixels.shape[1]
            shifts = random.integers(-augmentation.shift, augmentation.shift + 1, (len(pixels), 2))
            axis = np.arange(size)
            rows, columns = (axis + shifts[:, i, None] for i in (0, 1))
            frame = np.arange(len(pixels))[:, None, None]
            pixels = pixels[frame, rows.clip(0, size - 1)[:, :, None],
                            columns.clip(0, size - 1)[:, None]]
        values = self.transform.normalise(torch.from_numpy(pixels))
        if augmentation.colour:
            drawn = random.uniform(-1, 1, (2, len(pixels), 1, 1, 1)).astype(np.float32)
            contrast, brightness = torch.from_numpy(drawn * augmentation.colour)
            values = values.mul_(1 + contrast).add_(brightness)
        return values


class _Task(NamedTuple):
    """What an instruction asks for in a frame: steps [H, D] in data-set units; the state [S]."""

    instruction: str
    label: NDArray[np.float32]
    state: NDArray[np.float32]


def _own(episode: Episode, frame: int) -> _Task:
    return _Task(episode.instruction, episode.labels[frame], episode.state[frame])


def _others(
    episode: Episode, frame: int, random: np.random.Generator, count: int
) -> Iterator[_Task]:
    """Draw `count` other instructions of a frame."""
    others = episode.others
    for other in random.permutation(len(others.instructions))[:count] if count else ():
        yield _Task(others.instructions[other], others.action[frame, other][None],
                    others.state[frame, other])


def _with_ways(state: NDArray[np.float32]) -> NDArray[np.float32]:
    """
    Add the ways from hand to thing and from thing to aim, m, to states [..., S]: [..., S + 6].

    States of fewer numbers than these places have no ways; they stay as they are.
    """
    if state.shape[-1] < _PLACES:
        return state
    # An action follows from the ways alone. A shift of the picture does not change them; to tell a
    # place in a shifted picture, the network must look at the background.
    places = state[..., :_PLACES].reshape(*state.shape[:-1], 3, 3)
    ways = np.diff(places, axis=-2).reshape(*state.shape[:-1], _PLACES - 3)
    return np.concatenate((state, ways), axis=-1)
