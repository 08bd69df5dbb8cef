"""What all recordings have in common: episodes of frames, and which of a recording are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from specvla_ros.errors import SpecVLAError


@dataclass(frozen=True, slots=True)
class Selection:
    """
    What of a recording is wanted; '' = what the recording has, where it has only one.

    camera: of a data set: a feature of LeRobot's, a name under `obs` of LIBERO's. image_topic,
    instruction_topic: of a bag. instruction: in place of the recorded ones. mirrored: left and
    right are swapped in all frames, as in data that were made ready for OpenVLA.
    """

    camera: str = ''
    image_topic: str = ''
    instruction_topic: str = '/instruction'
    instruction: str = ''
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class RecordedEpisode:
    """
    Frames of one camera under one instruction, in order.

    name: unique in its recording; becomes part of a file's name. length: T, frames.
    read: gives the frames from `start` to below `stop`, uint8 [H, W, 3] RGB, top row first; not to
    be called for none. stamps: when each was taken, s from any moment, float64 [T]; None = not
    known. poses: of the end effector, as recorded, float32 [T, P]. actions: what was done at each
    frame, in the recording's own units, float32 [T, D]. said: recorded actions in which each token
    was the target's own selection, by the number of their frame: L token ids each.
    """

    name: str
    instruction: str
    length: int
    read: Callable[[int, int], Iterator[NDArray[np.uint8]]]
    stamps: NDArray[np.float64] | None = None
    poses: NDArray[np.float32] | None = None
    actions: NDArray[np.float32] | None = None
    said: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.length


@dataclass(frozen=True, slots=True)
class Recording:
    """
    What one folder or file holds.

    kind: of what format it is, in words. sign: names its content, see `sign_of`. remarks: what was
    left out, or taken to be so, a line each. mirrored: its frames have left and right swapped.
    files: that it is read from. camera: its name where there may be several; '' = there is one.
    is_decoded: every frame was decoded when it was opened, so that all can be read.
    """

    path: Path
    kind: str
    sign: str
    episodes: tuple[RecordedEpisode, ...]
    remarks: tuple[str, ...] = ()
    mirrored: bool = False
    files: tuple[Path, ...] = ()
    camera: str = ''
    is_decoded: bool = False

    @property
    def frames(self) -> int:
        """Frames of all episodes."""
        return sum(map(len, self.episodes))

    def images(
        self, episode: RecordedEpisode, start: int = 0, stop: int | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """
        Read the frames of an episode, from `start` to below `stop`, not mirrored any more.

        :raises SpecVLAError: one is no colour picture or of another size than the first, or there
            are fewer than the recording says
        """
        stop = len(episode) if stop is None else stop
        if start >= stop:
            return
        place, first, number = f'{self.path}, {episode.name}', None, start
        for number, image in enumerate(episode.read(start, stop), start):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise SpecVLAError(f'{place}: frame {number} is {image.dtype} '
                                   f'{list(image.shape)}, must be uint8 [height, width, 3], RGB')
            first = image.shape if first is None else first
            if image.shape != first:
                raise SpecVLAError(f'{place}: frame {number} is {size_of(image.shape)}, the first '
                                   f'was {size_of(first)}: a camera keeps its size; choose one '
                                   'camera, or leave this recording out')
            yield image[:, ::-1].copy() if self.mirrored else image
        if first is None or number != stop - 1:
            raise SpecVLAError(f'{place}: frames {start} to {stop - 1} are announced, and '
                               f'{number if first else "none"} is the last that can be '
                               'read: it is damaged or was changed; leave it out')


def check_instruction(given: str) -> None:
    """Raise SpecVLAError if the instruction that is given for the recorded ones is blank."""
    if given and not given.strip():
        raise SpecVLAError(f'--instruction {given!r} is empty: say what the robot was told')


def size_of(shape: tuple[int, ...]) -> str:
    """Return the size of a frame [H, W, …] as people say it: width x height."""
    return f'{shape[1]} x {shape[0]}'


def sign_of(files: Iterable[Path]) -> str:
    """
    Return 16 hexadecimal digits that name files by their names, sizes and times of change.

    Not by what they hold: to read some GB of video for that would take minutes.
    """
    digest = hashlib.sha256()
    for path in sorted(files):
        status = path.stat()
        digest.update(f'{path.name}\t{status.st_size}\t{status.st_mtime_ns}\n'.encode())
    return digest.hexdigest()[:16]


def missing_module(module: str, what: str) -> SpecVLAError:
    """Return the refusal of a format whose reader isn't installed."""
    return SpecVLAError(f'{what} are read with the Python module {module}, which is not '
                        "installed: pip install 'specvla_ros[recordings]'")
