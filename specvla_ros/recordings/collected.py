"""
Episodes of `specvla collect`: `task<id>/seed<seed>.npz`; `training/collect.py` says what is in it.

An array of JPEG files is an array of Python objects, which numpy reads with pickle, and a pickle
may run anything. So only what such arrays are made of is let in: a file may come from anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
import pickle
from threading import Lock
from typing import Any, IO
import zipfile

import numpy as np
from numpy.typing import NDArray

from specvla_ros.errors import one_line, shown, SpecVLAError
from specvla_ros.pictures import decode_picture
from specvla_ros.recordings.episode import RecordedEpisode, Recording, Selection, sign_of

_PERIOD = 0.05  # s between the steps of an episode: LIBERO's
# numpy reads an array's header with `ast`, which in Python 3.11 may fail with a SystemError in two
# threads at once (python/cpython issue 106905).
READING = Lock()
_PICTURES = ('jpeg', 'still_jpeg')
# All that an array of bytes names; its module was called numpy.core before numpy 2.
_ALLOWED = {('numpy', 'ndarray'), ('numpy', 'dtype'), ('numpy.core.multiarray', '_reconstruct'),
            ('numpy._core.multiarray', '_reconstruct')}


@dataclass(frozen=True, slots=True)
class Collected:
    """An episode's file: frames as JPEG files, [T] each, what it was labelled with, [T, 7]."""

    instruction: str
    jpegs: tuple[bytes, ...]
    actions: NDArray[np.float32]
    frame: NDArray[np.int64]  # [T], the step of each


class EpisodeFile(contextlib.AbstractContextManager):
    """
    The file of an episode; `file[name]` reads an array, `jpeg`, `still_jpeg` as lists of files.

    What is read is an array of numbers or text, else ValueError; KeyError where there is none.

    :raises OSError, zipfile.BadZipFile: it can't be opened, or is no such file
    """

    def __init__(self, path: Path) -> None:
        self._file = zipfile.ZipFile(path)

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return f'{name}.npy' in self._file.namelist()

    def __getitem__(self, name: str) -> Any:
        with READING, self._file.open(f'{name}.npy') as member:
            return _jpegs(member) if name in _PICTURES else np.lib.format.read_array(member)

    def numbers(self, name: str) -> NDArray[np.float32]:
        """Read an array of numbers as float32; raise ValueError if it holds anything else."""
        values = self[name]
        if values.dtype.kind not in 'iuf':
            raise ValueError(f'{name} is an array of {values.dtype}, must be one of numbers')
        return np.asarray(values, np.float32)

    def instruction(self) -> str:
        """Read what the robot was told; raise ValueError unless it is one text, not empty."""
        said = self['instruction']
        if said.shape or said.dtype.kind != 'U':
            raise ValueError(f'the instruction is {said.dtype} {list(said.shape)}, must be one '
                             'text')
        if not str(said).strip():
            raise ValueError('the instruction is empty')
        return str(said)

    def frame(self) -> NDArray[np.int64]:
        """Read the step of each frame; raise ValueError unless they are counted upwards."""
        steps = self['frame']
        if steps.shape == (0,):  # of whatever type numpy gives an empty list
            return np.zeros(0, np.int64)
        if steps.ndim != 1 or steps.dtype.kind not in 'iu' or steps[0] < 0 \
                or (np.diff(steps.astype(np.int64)) <= 0).any():
            raise ValueError(f'the steps of the frames are {shown(steps.tolist())}, must be whole '
                             'numbers from 0 up that rise from frame to frame')
        return steps.astype(np.int64)


def episode_files(folder: Path) -> list[Path]:
    """Return the episodes under `<data>`, `<data>/<suite>` or `<data>/<suite>/task<id>`."""
    for pattern in ('seed*.npz', 'task*/seed*.npz', '*/task*/seed*.npz'):
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def read(path: Path, selection: Selection) -> Recording:
    """
    Read a folder of episodes, or one episode; those that failed are as good as the others.

    :raises SpecVLAError: one can't be read
    """
    files = [path] if path.is_file() else episode_files(path)
    episodes = []
    for file in files:
        content = load(file)
        if not content.jpegs:  # of a short one with --chunk
            continue
        name = f'{file.parent.name}_{file.stem}'
        if path.is_dir() and file.parent.parent != path and file.parent != path:
            name = f'{file.parent.parent.name}_{name}'
        episodes.append(RecordedEpisode(
            name, selection.instruction or content.instruction, len(content.jpegs),
            partial(_images, file), stamps=_PERIOD * content.frame.astype(np.float64),
            actions=content.actions))
    return Recording(path, 'episodes of `specvla collect`', sign_of(files), tuple(episodes),
                     files=tuple(files))


def load(path: Path) -> Collected:
    """
    Read an episode's file.

    :raises SpecVLAError: it is none, or is damaged
    """
    try:
        with EpisodeFile(path) as file:
            jpegs, said = file['jpeg'], file.instruction().strip()
            actions, frame = file.numbers('action'), file.frame()
        if actions.ndim != 2 or not len(jpegs) == len(actions) == len(frame) \
                or not actions.shape[1]:
            raise ValueError(f'{len(jpegs)} frames, actions {actions.shape}, {len(frame)} steps: '
                             'must be as many of each')
        if not np.isfinite(actions).all():
            raise ValueError('an action is not a finite number')
        if not all(isinstance(jpeg, bytes) for jpeg in jpegs):
            raise ValueError('a frame is no bytes of a JPEG file')
    except Exception as error:  # BadZipFile, UnpicklingError, zlib.error ...: as the damage has it
        raise SpecVLAError(f'{path} is no episode of `specvla collect` '
                           f'({one_line(error)}): leave it out, or collect it again'
                           ) from error
    return Collected(said, tuple(jpegs), actions, frame)


def _images(path: Path, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
    for number, jpeg in enumerate(load(path).jpegs[start:stop], start):
        yield decode_picture(jpeg, f'{path}, frame {number}')


def _jpegs(file: IO[bytes]) -> list[bytes]:
    """Read an array of objects past its header, which says that it is one."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) \
        else np.lib.format.read_array_header_2_0
    _, _, kind = read_header(file)
    if not kind.hasobject:
        raise ValueError(f'jpeg is an array of {kind}, must be one of bytes')
    return list(_Harmless(file).load())


class _Harmless(pickle.Unpickler):
    """Unpickle arrays of bytes, and nothing that could do harm."""

    def find_class(self, module: str, name: str) -> Any:
        """Let in what such an array is made of."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f'it holds {shown(f"{module}.{name}")}, must hold bytes')
        return super().find_class(module, name)
