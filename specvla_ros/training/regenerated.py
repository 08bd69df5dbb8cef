"""
The target's own actions on a data set's frames, as files: a drafter learns from them.

One shard an episode, `<folder>/task<id>/seed<seed>.npy`, opened as a memory map: one record a
frame (`frame_type`), float16 where the network computes float32 (an error of 0.05 %).
`manifest.json` says which target said them, by the hash of its weights, and which shards belong.
"""

from dataclasses import asdict, dataclass, field, fields
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specvla_ros.data_sets import ImagePreparation
from specvla_ros.errors import shown, SpecVLAError
from specvla_ros.files import whole_file
from specvla_ros.libero.assets import cache_folder
from specvla_ros.training.dataset import AUGMENTED
from specvla_ros.typed_files import read_json, typed

_VERSION = 1
_MANIFEST = 'manifest.json'


def default_folder(suite: str, target_sha256: str) -> Path:
    """Default folder of a target's actions on a suite."""
    return cache_folder() / 'runs' / 'regenerated' / f'{suite}-{target_sha256[:12]}'


def frame_type(
    patches: int, prompt: int, hidden: int, paths: int, length: int, features: bool = True
) -> np.dtype:
    """
    Record of a frame.

    patches: [P, h] the projected patches, inputs of the target behind BOS; prompt: [S, h] its
    features (hidden states after the final norm) of the prompt; tokens: [paths, L] the action
    tokens that it was fed, path 0 being its own and the others near them; features:
    [paths, L - 1, h] its features of the first L - 1 of them. Without ``features``, prompt and
    features are empty: a glance learns nothing from them, and they are half of the bytes.
    """
    prompt, answered = (prompt, length - 1) if features else (0, 0)
    return np.dtype([('patches', 'f2', (patches, hidden)), ('prompt', 'f2', (prompt, hidden)),
                     ('features', 'f2', (paths, answered, hidden)),
                     ('tokens', 'i4', (paths, length))])


@dataclass(frozen=True, slots=True)
class Manifest:
    """
    The target, the data and the settings; `episodes` maps a shard's name to its instruction.

    image_size, mirror, image: how the frames were shown; length: L; features: whether the target's
    are stored, which EAGLE learns from; the rest as `RegenerateArgs`.
    """

    target_sha256: str
    suite: str
    image_size: int
    mirror: bool
    length: int
    paths: int
    jitter: int
    seed: int
    version: int = _VERSION
    image: dict[str, Any] = field(default_factory=lambda: asdict(AUGMENTED))  # as it always was
    complete: bool = False
    frames: int = 0
    episodes: dict[str, str] = field(default_factory=dict)
    features: bool = True
    failed_steps: int = 0

    @property
    def preparation(self) -> ImagePreparation:
        """How the frames were prepared."""
        return ImagePreparation.of(self.image)

    @classmethod
    def read(cls, folder: Path) -> 'Manifest | None':
        """
        Manifest of a folder, None if there is none.

        :raises SpecVLAError: it is damaged or of another version of the format
        """
        path = folder / _MANIFEST
        if not path.exists():
            return None
        try:
            manifest = typed(cls, read_json(path), str(path))
            ImagePreparation.of(manifest.image)
        except SpecVLAError as error:
            raise SpecVLAError(
                f'{path} is no manifest ({error}): delete {folder} and regenerate') from error
        if manifest.version != _VERSION:
            raise SpecVLAError(f'{path} has version {shown(manifest.version)}, must be '
                               f'{_VERSION}: delete {folder} and regenerate')
        return manifest

    def write(self, folder: Path) -> None:
        """Write it in one go."""
        with whole_file(folder / _MANIFEST) as path:
            path.write_text(json.dumps(asdict(self), indent=1) + '\n', encoding='utf-8')

    def difference(self, other: 'Manifest') -> str | None:
        """
        Name of the first setting in which two differ; None if there is none.

        What has been made doesn't count. With one path, the target's own, `jitter` and `seed`
        change nothing.
        """
        made = ['complete', 'frames', 'episodes']
        idle = ['jitter', 'seed'] if self.paths == 1 else []
        return next((f.name for f in fields(self) if f.name not in made + idle
                     and getattr(self, f.name) != getattr(other, f.name)), None)


@dataclass(frozen=True, slots=True)
class Shard:
    """The frames of one episode; `name` is `task<id>/seed<seed>`."""

    name: str
    instruction: str
    records: NDArray  # of `frame_type`, a memory map

    def __len__(self) -> int:
        return len(self.records)


class ShardFrames:
    """Frames of some shards under one running index."""

    def __init__(self, shards: list[Shard]) -> None:
        self.shards = shards
        self._ends = np.cumsum([len(shard) for shard in shards], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.shards else 0

    @property
    def n_episodes(self) -> int:
        """Episodes they are of, one a shard."""
        return len(self.shards)

    def locate(self, index: int) -> tuple[Shard, int]:
        """Shard and frame within it of a running index."""
        number = int(np.searchsorted(self._ends, index, side='right'))
        return self.shards[number], index - int(self._ends[number]) + len(self.shards[number])


def open_shards(folder: Path, target_sha256: str) -> tuple[Manifest, list[Shard]]:
    """
    Shards of a complete folder, made with this target.

    :raises SpecVLAError: it isn't there or complete, is another target's, or a shard is damaged
    """
    manifest = Manifest.read(folder)
    if manifest is None:
        raise SpecVLAError(f'no regenerated data in {folder}: `specvla regenerate` makes them')
    if manifest.target_sha256 != target_sha256:
        raise SpecVLAError(
            f'{folder} holds the words of target {manifest.target_sha256[:12]}, but the drafter '
            f'is for {target_sha256[:12]}: `specvla regenerate` with the same --target')
    if not manifest.complete:
        raise SpecVLAError(f'{folder} is not complete: run the same `specvla regenerate` again, '
                           'it goes on where it was interrupted')
    shards = []
    for name, instruction in manifest.episodes.items():
        path = folder / f'{name}.npy'
        try:
            records = np.load(path, mmap_mode='r')
        except (OSError, ValueError, EOFError) as error:
            raise SpecVLAError(
                f'{path} can not be read ({error}): delete it and regenerate') from error
        shards.append(Shard(name, instruction, records))
    return manifest, shards
