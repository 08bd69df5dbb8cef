"""The frames of a bench: from LIBERO episodes, from a folder of images, or made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from specvla_ros.benchmark.environment import Environment, image_of
from specvla_ros.benchmark.policy_like import PolicyLike
from specvla_ros.errors import SpecVLAError
from specvla_ros.recordings.images import picture_files, read_arrays, read_picture, SUFFIXES

MADE_UP_INSTRUCTION = 'pick up the milk and place it in the basket'
_MADE_UP_SIDE = 256  # pixels, as LIBERO's cameras


@dataclass(frozen=True, slots=True)
class Footage:
    """An instruction and the frames of a camera, uint8 [H, W, 3] RGB, in their order."""

    instruction: str
    frames: tuple[NDArray[np.uint8], ...]


def played(
    make_environment: Callable[[int], Environment], tasks: Sequence[int], policy: PolicyLike,
    count: int, seed: int, on_frame: Callable[[], None] = lambda: None,
    execute_steps: int = 1,
) -> Iterator[Footage]:
    """
    Let the policy act from a random start of each task, and return the frames that it sees.

    :param make_environment: environment of a task number
    :param count: frames in all, shared out among the tasks
    :param seed: of the starts: random placements, none of the stored states
    :param execute_steps: control steps of each action that are executed before the next frame
    """
    shares = [len(part) for part in np.array_split(np.arange(count), len(tasks))]
    for task, share in zip(tasks, shares, strict=True):
        if not share:
            continue
        environment = make_environment(task)
        try:
            policy.reset()
            observation = environment.reset_random(seed)
            frames = []
            while True:
                frames.append(np.array(image_of(observation)))
                on_frame()
                if len(frames) == share:
                    break
                action = policy.act(frames[-1], environment.instruction)
                for delta in action.si[:execute_steps]:
                    observation = environment.step(delta)
        finally:
            environment.close()
        yield Footage(environment.instruction, tuple(frames))


def read(path: Path, instruction: str | None, count: int, every: int = 1) -> Footage:
    """
    Read the first `count` frames, or of each `every` one, of a folder of images or an .npz file.

    A folder holds PNG or JPEG colour pictures, in the order of the numbers in their names; an
    .npz file holds `images`, uint8 [N, H, W, 3] RGB, and may hold `instruction`.

    :raises SpecVLAError: no such frames, one that is no colour picture, or no instruction
    """
    if path.is_dir():
        frames = [read_picture(file) for file in picture_files(path)[::every][:count]]
    elif path.suffix == '.npz' and path.is_file():
        images, said = read_arrays(path, f'--frames {path}')
        frames, instruction = list(images[::every][:count]), instruction or said
    else:
        raise SpecVLAError(f'--frames {path}: give a folder of images or an .npz file')
    if not frames:
        raise SpecVLAError(f'--frames {path}: no images in it; {", ".join(SUFFIXES)} are read')
    if not instruction:
        raise SpecVLAError(f'--frames {path} has no instruction; give it with --instruction')
    return Footage(instruction, tuple(frames))


def made_up(count: int, side: int = _MADE_UP_SIDE) -> Footage:
    """Return square frames of waves that move: smooth as photographs, the same each time."""
    y, x = np.mgrid[:side, :side] / side
    frames = []
    for number in range(count):
        waves = [np.sin(2 * np.pi * (3 * x + (channel + 1) * y + number / 20 + channel / 3))
                 for channel in range(3)]
        frames.append((127.5 + 127 * np.stack(waves, axis=-1)).astype(np.uint8))
    return Footage(MADE_UP_INSTRUCTION, tuple(frames))
