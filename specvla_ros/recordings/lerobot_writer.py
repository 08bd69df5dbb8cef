"""
Writes episodes as a LeRobot data set, v3.0, with pyarrow and PyAV.

Rows of several episodes share a parquet file; each episode has a video file of its own, or its
pictures stand in the rows as PNG files, exact to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from specvla_ros.errors import SpecVLAError
from specvla_ros.recordings.episode import missing_module
from specvla_ros.recordings.feature_statistics import FeatureStatistics

VERSION = 'v3.0'
_CHUNK, _ROWS_MB, _VIDEO_MB = 1000, 100, 200  # files a folder; MB of a file, about
_PLACE = 'chunk-{chunk_index:03d}/file-{file_index:03d}'
_ROWS = f'data/{_PLACE}.parquet'
_VIDEO = f'videos/{{video_key}}/{_PLACE}.mp4'
# A keyframe each second frame, as lerobot has it: any frame is soon found. crf 18: on frames of a
# camera or a simulator off by 1 to 2 of 255 in the mean, most of it by the halved colours.
_CODEC, _OPTIONS = 'libx264', {'g': '2', 'crf': '18'}
_COUNTERS = ('frame_index', 'episode_index', 'index', 'task_index')


@dataclass(frozen=True, slots=True)
class Shape:
    """
    What all episodes of a data set have in common.

    camera: name of the feature. height, width: of a frame. action, state: numbers a frame; 0 =
    the feature is left out. fps: frames a second. as_video: else as PNG files in the rows.
    """

    camera: str
    height: int
    width: int
    action: int
    state: int
    fps: int
    as_video: bool


@dataclass(slots=True)
class LeRobotWriter:
    """
    Fills an empty folder, an episode at a time; then call `finish`.

    :raises SpecVLAError: pyarrow or PyAV is missing, or the frames can't be a video
    """

    root: Path
    shape: Shape
    _episodes: list[dict[str, Any]] = field(default_factory=list)
    _tasks: list[str] = field(default_factory=list)
    _frames: int = 0
    _file: int = 0
    _writer: Any = None
    _statistics: list[dict[str, FeatureStatistics]] = field(default_factory=list)

    def __post_init__(self) -> None:
        _modules(self.shape.as_video)
        height, width = self.shape.height, self.shape.width
        if self.shape.as_video and (height % 2 or width % 2):
            raise SpecVLAError(f'the frames are {width} x {height}; a video needs even numbers: '
                               'write them as pictures, --images')

    def add(
        self, task: str, images: Iterator[NDArray[np.uint8]],
        actions: NDArray[np.float32] | None, states: NDArray[np.float32] | None, count: int,
    ) -> None:
        """Write an episode of `count` frames: images [H, W, 3], actions and states [count, …]."""
        number, place = len(self._episodes), self._next_place()
        if task not in self._tasks:
            self._tasks.append(task)
        counted = np.arange(count)
        columns: dict[str, Any] = {
            'timestamp': (counted / self.shape.fps).astype(np.float32), 'frame_index': counted,
            'episode_index': np.full(count, number), 'index': self._frames + counted,
            'task_index': np.full(count, self._tasks.index(task))}
        for name, values in (('action', actions), ('observation.state', states)):
            if values is not None:
                columns[name] = values
        row: dict[str, Any] = {
            'episode_index': number, 'tasks': [task], 'length': count,
            'dataset_from_index': self._frames, 'dataset_to_index': self._frames + count,
            'data/chunk_index': place[0], 'data/file_index': place[1]}
        looks: list[NDArray[np.float32]] = []
        seen = self._watched(images, max(10, count // 100), looks)
        if self.shape.as_video:
            row |= self._write_video(number, seen, count)
        else:
            columns[self.shape.camera] = [
                {'bytes': _png(image), 'path': f'frame-{n:06d}.png'}
                for n, image in enumerate(seen)]
        self._write_rows(place, columns)
        statistics = {
            name: FeatureStatistics.of(np.asarray(values).reshape(count, -1), count)
            for name, values in columns.items() if name != self.shape.camera}
        statistics[self.shape.camera] = FeatureStatistics.of(
            np.concatenate(looks), len(looks), (3, 1, 1))
        self._statistics.append(statistics)
        row |= {f'stats/{feature}/{name}': value for feature, it in statistics.items()
                for name, value in it.facts().items()}
        row |= {'meta/episodes/chunk_index': 0, 'meta/episodes/file_index': 0}
        self._episodes.append(row)
        self._frames += count

    def finish(self) -> None:
        """Write what describes the episodes."""
        pyarrow, parquet, _ = _modules(False)
        self._writer.close()
        meta = self.root / 'meta'
        episodes = meta / 'episodes' / f'{_PLACE.format(chunk_index=0, file_index=0)}.parquet'
        episodes.parent.mkdir(parents=True)
        parquet.write_table(pyarrow.Table.from_pylist(self._episodes), episodes)
        tasks = pyarrow.table({'task_index': pyarrow.array(range(len(self._tasks)),
                                                           pyarrow.int64()),
                               '__index_level_0__': self._tasks})
        # lerobot reads it with pandas, which is told here that the texts are the index.
        parquet.write_table(tasks.replace_schema_metadata({'pandas': json.dumps({
            'index_columns': ['__index_level_0__'], 'column_indexes': [], 'columns': [
                _pandas_column('task_index', 'task_index', 'int64', 'int64'),
                _pandas_column(None, '__index_level_0__', 'unicode', 'object')],
            'pandas_version': '2.0.0'})}), meta / 'tasks.parquet')
        (meta / 'stats.json').write_text(json.dumps({
            name: FeatureStatistics.together([it[name] for it in self._statistics]).facts()
            for name in self._statistics[0]}, indent=4, allow_nan=False) + '\n')
        (meta / 'info.json').write_text(json.dumps(self._info(), indent=4) + '\n')

    def _info(self) -> dict[str, Any]:
        shape, count = self.shape, len(self._episodes)
        picture: dict[str, Any] = {
            'dtype': 'video' if shape.as_video else 'image',
            'shape': [shape.height, shape.width, 3], 'names': ['height', 'width', 'channels']}
        if shape.as_video:
            picture['info'] = {
                'video.height': shape.height, 'video.width': shape.width, 'video.codec': 'h264',
                'video.pix_fmt': 'yuv420p', 'video.is_depth_map': False, 'video.fps': shape.fps,
                'video.channels': 3, 'has_audio': False}
        numbers = {name: {'dtype': 'float32', 'shape': [size], 'names': None} for name, size in
                   (('action', shape.action), ('observation.state', shape.state)) if size}
        counters = {name: {'dtype': 'int64', 'shape': [1], 'names': None} for name in _COUNTERS}
        return {
            'codebase_version': VERSION, 'robot_type': None, 'total_episodes': count,
            'total_frames': self._frames, 'total_tasks': len(self._tasks), 'chunks_size': _CHUNK,
            'data_files_size_in_mb': _ROWS_MB, 'video_files_size_in_mb': _VIDEO_MB,
            'fps': shape.fps, 'splits': {'train': f'0:{count}'}, 'data_path': _ROWS,
            'video_path': _VIDEO if shape.as_video else None,
            'features': {shape.camera: picture, **numbers,
                         'timestamp': {'dtype': 'float32', 'shape': [1], 'names': None},
                         **counters}}

    def _next_place(self) -> tuple[int, int]:
        """Return chunk and file of the rows: another file where the one before is large."""
        path = self._rows_file(self._file)
        if self._writer is not None and path.stat().st_size > _ROWS_MB * 2**20:
            self._writer.close()
            self._writer, self._file = None, self._file + 1
        return divmod(self._file, _CHUNK)

    def _rows_file(self, number: int) -> Path:
        chunk, file = divmod(number, _CHUNK)
        return self.root / _ROWS.format(chunk_index=chunk, file_index=file)

    def _write_rows(self, place: tuple[int, int], columns: dict[str, Any]) -> None:
        pyarrow, parquet, _ = _modules(False)
        arrays = {}
        for name, values in columns.items():
            if isinstance(values, list):
                arrays[name] = pyarrow.array(values, pyarrow.struct(
                    {'bytes': pyarrow.binary(), 'path': pyarrow.string()}))
            elif values.ndim == 2:
                flat = pyarrow.array(values.astype(np.float32).reshape(-1))
                arrays[name] = pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
            else:
                arrays[name] = pyarrow.array(values)
        table = pyarrow.table(arrays)
        if self._writer is None:
            path = self._rows_file(self._file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = parquet.ParquetWriter(path, table.schema)
        self._writer.write_table(table)

    def _write_video(
        self, number: int, images: Iterator[NDArray[np.uint8]], count: int
    ) -> dict[str, Any]:
        """Write an episode's video; return where it is."""
        _, _, av = _modules(True)
        chunk, file = divmod(number, _CHUNK)
        shape, name = self.shape, self.shape.camera
        path = self.root / _VIDEO.format(video_key=name, chunk_index=chunk, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), 'w') as container:
            stream = container.add_stream(_CODEC, rate=Fraction(shape.fps), options=_OPTIONS)
            stream.width, stream.height, stream.pix_fmt = shape.width, shape.height, 'yuv420p'
            for image in images:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, 'rgb24')))
            container.mux(stream.encode())
        return {f'videos/{name}/chunk_index': chunk, f'videos/{name}/file_index': file,
                f'videos/{name}/from_timestamp': 0.0,
                f'videos/{name}/to_timestamp': count / shape.fps}

    def _watched(
        self, images: Iterator[NDArray[np.uint8]], every: int, looks: list[NDArray[np.float32]]
    ) -> Iterator[NDArray[np.uint8]]:
        """Check the frames' size, and add pixels of some frames to `looks`, each [n, 3]."""
        wanted = (self.shape.height, self.shape.width, 3)
        apart = max(1, min(wanted[:2]) // 64)
        for number, image in enumerate(images):
            if image.shape != wanted:
                raise SpecVLAError(
                    f'a frame is {image.shape[1]} x {image.shape[0]}, the first one was '
                    f'{wanted[1]} x {wanted[0]}: a data set has one size; convert recordings of '
                    'one camera')
            if number % every == 0:
                looks.append(image[::apart, ::apart].reshape(-1, 3) / np.float32(255))
            yield image


def _png(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'PNG', compress_level=3)
    return file.getvalue()


def _pandas_column(
    name: str | None, place: str, kind: str, numpy_kind: str
) -> dict[str, Any]:
    return {'name': name, 'field_name': place, 'pandas_type': kind, 'numpy_type': numpy_kind,
            'metadata': None}


def _modules(with_video: bool) -> tuple[Any, Any, Any]:
    """Return pyarrow, pyarrow.parquet and, for videos, PyAV."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise missing_module('pyarrow', 'LeRobot data sets') from error
    if not with_video:
        return pyarrow, parquet, None
    try:
        import av
    except ImportError as error:
        raise missing_module('av', 'videos') from error
    return pyarrow, parquet, av
