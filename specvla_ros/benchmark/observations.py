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
from specvla_ros.pictures import decode_picture

MADE_UP_INSTRUCTION = 'pick up the milk and place it in the basket'
_MADE_UP_SIDE = 256  # pixels, as LIBERO's cameras
_SUFFIXES = ('.png', '.jpg', '.jpeg')


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

    A folder holds PNG or JPEG colour pictures, in the order of their names; an .npz file holds
    `images`, uint8 [N, H, W, 3] RGB, and may hold `instruction`.

    :raises SpecVLAError: no such frames, one that is no colour picture, or no instruction
    """
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix.lower() in _SUFFIXES]
        frames = [_image(file) for file in files[::every][:count]]
    elif path.suffix == '.npz' and path.is_file():
        frames, instruction = _npz(path, instruction, count, every)
    else:
        raise SpecVLAError(f'--frames {path}: give a folder of images or an .npz file')
    if not frames:
        raise SpecVLAError(f'--frames {path}: no images in it; {", ".join(_SUFFIXES)} are read')
    if not instruction:
        raise SpecVLAError(f'--frames {path} has no instruction; give it with --instruction')
    return Footage(instruction, tuple(frames))


def _image(file: Path) -> NDArray[np.uint8]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SpecVLAError(f"{file} can't be read: {error.strerror}") from error
    return decode_picture(data, str(file))


def _npz(path: Path, instruction: str | None, count: int, every: int
         ) -> tuple[list[NDArray[np.uint8]], str | None]:
    try:
        with np.load(path, allow_pickle=False) as content:
            images, said = content['images'], content.get('instruction')
    except Exception as error:  # KeyError, BadZipFile, zlib.error ...: as the damage has it
        raise SpecVLAError(f"--frames {path} can't be read as an .npz file with an array "
                           "'images'") from error
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 \
            or 0 in images.shape[1:]:
        raise SpecVLAError(f'--frames {path}: images is {images.dtype} {list(images.shape)}, must '
                           'be uint8 [N, H, W, 3]')
    if said is not None and (said.ndim or said.dtype.kind != 'U'):
        raise SpecVLAError(f'--frames {path}: instruction is {said.dtype} {list(said.shape)}, '
                           'must be one text')
    return list(images[::every][:count]), instruction or (str(said) if said is not None else None)


def made_up(count: int, side: int = _MADE_UP_SIDE) -> Footage:
    """Return square frames of waves that move: smooth as photographs, the same each time."""
    y, x = np.mgrid[:side, :side] / side
    frames = []
    for number in range(count):
        waves = [np.sin(2 * np.pi * (3 * x + (channel + 1) * y + number / 20 + channel / 3))
                 for channel in range(3)]
        frames.append((127.5 + 127 * np.stack(waves, axis=-1)).astype(np.uint8))
    return Footage(MADE_UP_INSTRUCTION, tuple(frames))
