"""Where the parts of a LeRobot data set are: its description, rows and videos."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from dataclasses import dataclass, field
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specvla_ros.errors import one_line, shown, SpecVLAError
from specvla_ros.recordings.episode import missing_module
from specvla_ros.typed_files import is_number, read_json

INFO = Path('meta') / 'info.json'
_VERSIONS = ('v2.1', 'v3.0')
_LONGEST = 1e6  # s of a video: eleven days
_NEEDED = {'features': dict, 'total_frames': int, 'data_path': str}


@dataclass(slots=True)
class Files:
    """
    A data set's folder.

    info: content of meta/info.json. episodes: of v3.0, a row each: {column: value}.
    """

    root: Path
    info: dict[str, Any]
    version: str
    fps: float
    episodes: dict[int, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path) -> Files:
        """
        Read what describes a data set.

        :raises SpecVLAError: it is damaged, or of another version
        """
        info = read_json(root / INFO)
        version, fps = info.get('codebase_version'), info.get('fps')
        if version not in _VERSIONS:
            raise SpecVLAError(f'{root / INFO}: codebase_version is {shown(version)}, must be one '
                               f'of {", ".join(_VERSIONS)}: convert it with a current lerobot')
        wrong = [name for name, kind in _NEEDED.items() if not isinstance(info.get(name), kind)]
        if wrong or not is_number(fps) or not 0 < fps < math.inf:
            raise SpecVLAError(f'{root / INFO}: {", ".join(wrong or ["fps"])} is missing or of '
                               'another type: it is damaged')
        files = cls(root, info, version, float(fps))
        if version == 'v3.0':
            files.episodes = dict(files._episode_rows())
        return files

    def data_files(self) -> list[Path]:
        """
        Return the parquet files of the rows, in order.

        :raises SpecVLAError: there is none
        """
        files = sorted((self.root / 'data').glob('*/*.parquet'))
        if not files:
            raise SpecVLAError(f'{self.root} has no data/*/*.parquet: its rows are missing')
        return files

    def all_files(self) -> list[Path]:
        """Return all files of it."""
        return [path for folder in ('meta', 'data', 'videos')
                for path in (self.root / folder).rglob('*') if path.is_file()]

    def video(self, episode: int, feature: str) -> tuple[Path, float]:
        """
        Return the video of an episode, and at which second of it the episode begins.

        :raises SpecVLAError: it is missing
        """
        template, begins = self.info.get('video_path'), 0.0
        if not isinstance(template, str):
            raise SpecVLAError(f'{self.root / INFO}: video_path is {shown(template)}, must say '
                               'where the videos are: it is damaged')
        try:
            if self.version == 'v3.0':
                row, columns = self.episodes[episode], f'videos/{feature}/'
                begins = float(row[columns + 'from_timestamp'])
                if not 0 <= begins < _LONGEST:
                    raise ValueError(f'it begins at {begins:g} s')
                names = {name: int(row[columns + name]) for name in ('chunk_index', 'file_index')}
            else:
                names = {'episode_index': episode,
                         'episode_chunk': episode // int(self.info.get('chunks_size', 1000))}
            path = self.root / template.format(video_key=feature, **names)
        except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
            raise SpecVLAError(f'{self.root}: nothing says where the video {feature} of episode '
                               f'{episode} is ({one_line(error)}): its meta folder is damaged'
                               ) from error
        if self.root.resolve() not in path.resolve().parents or not path.is_file():
            raise SpecVLAError(f'{path} is missing: the video of episode {episode}')
        return path, begins

    def tasks(self) -> dict[int, str]:
        """Return the instructions by their numbers."""
        if self.version == 'v3.0':
            path = self.root / 'meta' / 'tasks.parquet'
            table = rows_of(path, None)
            text = next((name for name, column in table.items()
                         if len(column) and isinstance(column[0], str)), '')
            pairs = list(zip(table.get('task_index', ()), table.get(text, ()), strict=False))
        else:
            path = self.root / 'meta' / 'tasks.jsonl'
            pairs = [(row.get('task_index'), row.get('task')) for row in _lines(path)]
        try:
            # What is no text, as null, is not what the robot was told.
            return {int(number): text.strip() for number, text in pairs if isinstance(text, str)}
        except (ValueError, TypeError, OverflowError) as error:
            raise SpecVLAError(f'{path} does not number its tasks ({error}): it is damaged'
                               ) from error

    def _episode_rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the rows of meta/episodes with the numbers of their episodes."""
        for path in sorted((self.root / 'meta' / 'episodes').glob('*/*.parquet')):
            table = rows_of(path, None, passed_over='stats/')
            numbers = whole_numbers(path, 'episode_index', table.get('episode_index'))
            for row, number in enumerate(numbers.tolist()):
                yield number, {name: column[row] for name, column in table.items()}


def rows_of(
    path: Path, columns: list[str] | None, start: int = 0, count: int | None = None,
    passed_over: str = '\0',
) -> dict[str, NDArray[Any]]:
    """
    Read columns of a parquet file: [rows] each, lists of numbers [rows, size].

    :param columns: None = all but those whose names begin with `passed_over`
    :param start: first row, of `count`; None = to the end
    :raises SpecVLAError: it is missing or damaged, or lacks a column
    """
    parquet, arrow = _pyarrow()
    if not path.is_file():
        raise SpecVLAError(f'{path} is missing')
    try:
        file = parquet.ParquetFile(path)
        there = file.schema_arrow.names
        if missing := sorted(set(columns or ()) - set(there)):
            raise SpecVLAError(f'{path} has no column {", ".join(missing)}')
        wanted = columns or [name for name in there if not name.startswith(passed_over)]
        table = _rows(file, wanted, start, count)
        return {name: _array(path, name, table[name], arrow) for name in wanted}
    except SpecVLAError:
        raise
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise SpecVLAError(f"{path} can't be read ({one_line(error)}): it is damaged "
                           'or cut off') from error


def _rows(file: Any, columns: list[str], start: int, count: int | None) -> Any:
    """Read some rows; of a file with many episodes only the row groups that they are in."""
    if count is None:
        return file.read(columns=columns).slice(start)
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    ends = np.cumsum(sizes, dtype=np.int64)
    begins = ends - sizes
    groups = np.flatnonzero((begins < start + count) & (start < ends)).tolist()
    passed = int(begins[groups[0]]) if groups else start
    return file.read_row_groups(groups, columns=columns).slice(start - passed, count)


def whole_numbers(path: Path, name: str, column: NDArray[Any] | None) -> NDArray[np.int64]:
    """Return a column of whole numbers; raise SpecVLAError if it is missing or holds others."""
    if column is None or column.dtype.kind not in 'iuf' or column.ndim != 1 \
            or not np.isfinite(column).all() or (column != np.floor(column)).any():
        raise SpecVLAError(f'{path}: {name} is missing, or holds what is no whole number: it is '
                           'damaged')
    return column.astype(np.int64)


def _array(path: Path, name: str, column: Any, arrow: ModuleType) -> NDArray[Any]:
    kind = column.type
    if arrow.types.is_list(kind) or arrow.types.is_fixed_size_list(kind):
        values = column.to_pylist()
        if not arrow.types.is_floating(kind.value_type) \
                and not arrow.types.is_integer(kind.value_type):
            return _objects(values)
        with contextlib.suppress(ValueError):  # of several lengths
            return np.array(values, np.float64 if kind.value_type.bit_width > 32 else np.float32)
        raise SpecVLAError(f'{path}: {name} has rows of several lengths')
    if arrow.types.is_integer(kind) or arrow.types.is_floating(kind):
        if column.null_count:
            raise SpecVLAError(f'{path}: {name} lacks a number in {column.null_count} rows')
        return np.asarray(column.to_numpy())
    return _objects(column.to_pylist())


def _objects(values: list[Any]) -> NDArray[Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read a file of a JSON object a line."""
    if not path.is_file():
        raise SpecVLAError(f'{path} is missing')
    try:
        rows = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines() if line]
    except (ValueError, OSError) as error:
        raise SpecVLAError(f"{path} can't be read ({one_line(error)})") from error
    if not all(isinstance(row, dict) for row in rows):
        raise SpecVLAError(f'{path}: a line is no JSON object')
    yield from rows


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_module('pyarrow', 'LeRobot data sets') from error
    return pyarrow.parquet, pyarrow
