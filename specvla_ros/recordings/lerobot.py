"""
Episodes of LeRobot data sets, v2.1 and v3.0, read with pyarrow and PyAV.

v2.1 has a parquet and a video file an episode; in v3.0 several episodes share them, and
`meta/episodes` says from where to where in the video each goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specvla_ros.errors import shown, SpecVLAError
from specvla_ros.pictures import decode_picture
from specvla_ros.recordings.episode import RecordedEpisode, Recording, Selection, sign_of
from specvla_ros.recordings.lerobot_files import Files, rows_of, whole_numbers
from specvla_ros.recordings.video import frames_at

_IMAGES = 'observation.images.'
_ACTION, _STATE = 'action', 'observation.state'
_COUNTED = ('episode_index', 'frame_index', 'task_index')
_ROWS = (*_COUNTED, 'timestamp')


@dataclass(frozen=True, slots=True)
class Camera:
    """A feature with pictures; is_video: in files of their own, not in the rows."""

    feature: str
    is_video: bool
    size: str


def read(path: Path, selection: Selection) -> Recording:
    """
    Read a data set.

    :raises SpecVLAError: it is damaged or of another version, a file is missing, or the camera has
        to be chosen
    """
    files = Files.of(path)
    camera = _camera(path, files.info['features'], selection.camera)
    features = [name for name in (_ACTION, _STATE) if name in files.info['features']]
    tasks = files.tasks()
    episodes: list[RecordedEpisode] = []
    last: dict[int, int] = {}  # frame of each episode so far
    for file in files.data_files():
        rows = rows_of(file, [*_ROWS, *features])
        if no_numbers := [name for name in rows if rows[name].dtype.kind not in 'iuf']:
            raise SpecVLAError(f'{file}: {", ".join(no_numbers)} must hold numbers: it is '
                               'damaged, or of another kind')
        rows |= {name: whole_numbers(file, name, rows[name]) for name in _COUNTED}
        for start, end in _runs(rows['episode_index'], rows['task_index']):
            part = {name: column[start:end] for name, column in rows.items()}
            _check_order(path, part, last)
            episodes.append(_episode(files, file, camera, part, start, tasks, selection))
    total = files.info['total_frames']
    if sum(map(len, episodes)) != total:
        raise SpecVLAError(f'{path}: {sum(map(len, episodes))} rows can be read, meta/info.json '
                           f'counts {total}: a file of it is missing or cut off')
    kind = f'LeRobot data set {files.version}, {camera.size} from {camera.feature}'
    parts = files.all_files()
    return Recording(path, kind, sign_of(parts), tuple(episodes), files=tuple(parts),
                     camera=camera.feature)


def _episode(
    files: Files, file: Path, camera: Camera, rows: dict[str, NDArray[Any]], start: int,
    tasks: dict[int, str], selection: Selection,
) -> RecordedEpisode:
    """Make an episode of rows under one task; start: the number of its first in the file."""
    number, task = int(rows['episode_index'][0]), int(rows['task_index'][0])
    first, stamps = int(rows['frame_index'][0]), rows['timestamp'].astype(np.float64)
    place = f'{files.root}, episode {number}'
    steps = np.diff(stamps)
    if not np.isfinite(stamps).all() or (steps <= 0).any():
        raise SpecVLAError(f'{place}: its times do not rise from frame to frame')
    instruction = selection.instruction or tasks.get(task, '')
    if not instruction:
        raise SpecVLAError(f'{place}: task {task} has no text in meta/tasks; give it with '
                           '--instruction')
    if camera.is_video:
        video, begins = files.video(number, camera.feature)
        read = partial(_frames, video, begins + stamps, 0.5 / files.fps)
    else:
        read = partial(_pictures, file, camera.feature, start, place)
    name = f'episode_{number:06d}' + (f'_from_{first}' if first else '')
    return RecordedEpisode(
        name, instruction, len(stamps), read, stamps=stamps, poses=_numbers(rows, _STATE, place),
        actions=_numbers(rows, _ACTION, place))


def _check_order(root: Path, rows: dict[str, NDArray[Any]], last: dict[int, int]) -> None:
    """Refuse rows that are not in the order of their episode; last: its frames before them."""
    number, frames = int(rows['episode_index'][0]), rows['frame_index']
    if (np.diff(frames) <= 0).any() or frames[0] <= last.get(number, -1):
        raise SpecVLAError(f'{root}, episode {number}: its frame_index does not rise from row to '
                           'row: it is damaged, or comes twice')
    last[number] = int(frames[-1])


def _numbers(
    rows: dict[str, NDArray[Any]], name: str, place: str
) -> NDArray[np.float32] | None:
    if name not in rows:
        return None
    values = rows[name].astype(np.float32)
    if not np.isfinite(values).all():
        raise SpecVLAError(f'{place}: {name} holds what is no finite number')
    return values.reshape(len(values), -1)


def _runs(*columns: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Yield the stretches [start, end) in which all columns stay the same."""
    rows = np.stack(columns, axis=1)
    changes = np.flatnonzero((rows[1:] != rows[:-1]).any(axis=1)) + 1
    bounds = [0, *changes.tolist(), len(rows)]
    yield from ((a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True) if a < b)


def _frames(
    video: Path, times: NDArray[np.float64], tolerance: float, start: int, stop: int
) -> Iterator[NDArray[np.uint8]]:
    return frames_at(video, times[start:stop], tolerance)


def _pictures(
    file: Path, feature: str, row: int, place: str, start: int, stop: int
) -> Iterator[NDArray[np.uint8]]:
    """Decode pictures that stand in the rows from `row` on, as PNG or JPEG files."""
    rows = rows_of(file, [feature], row + start, stop - start)[feature]
    for number, entry in enumerate(rows, start):
        data = entry.get('bytes') if isinstance(entry, dict) else None
        if not isinstance(data, bytes):
            raise SpecVLAError(f'{place}: frame {number} of {feature} is {shown(entry)}, must be '
                               'a picture')
        yield decode_picture(data, f'{place}, frame {number}')


def _camera(path: Path, features: dict[str, Any], wanted: str) -> Camera:
    """
    Return the camera to look through: the one wanted, or the only one.

    :raises SpecVLAError: there is none, or one has to be chosen
    """
    cameras = {name: each for name, each in features.items()
               if isinstance(each, dict) and each.get('dtype') in ('video', 'image')}
    names = ', '.join(cameras) or 'none'
    if wanted and _IMAGES + wanted in cameras:
        wanted = _IMAGES + wanted
    name = wanted or (next(iter(cameras)) if len(cameras) == 1 else '')
    if name not in cameras:
        said = f'{wanted} is none of them' if wanted else 'one has to be chosen' if cameras \
            else 'one is needed'
        raise SpecVLAError(f'{path} has the cameras {names}, and {said}: --camera')
    feature = cameras[name]
    shape = feature.get('shape')
    if not isinstance(shape, list) or len(shape) != 3 or 3 not in (shape[0], shape[2]) \
            or not all(type(side) is int and side > 0 for side in shape):
        raise SpecVLAError(f'{path}: {name} has the shape {shown(shape)}, must be that of colour '
                           'pictures, [height, width, 3]')
    height, width = shape[:2] if shape[2] == 3 else shape[1:]
    return Camera(name, feature['dtype'] == 'video', f'{width} x {height}')
