"""
What the target says to the frames that are learned from, stored as `specvla regenerate` does.

One shard a part, named by what it holds, so that an interrupted run goes on and more recordings
add to what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
import shutil
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
import torch

from specvla_ros.errors import SpecVLAError
from specvla_ros.loaded_checkpoint import Checkpoint
from specvla_ros.openvla.image_transform import mirrored
from specvla_ros.training.adapting.split import Part
from specvla_ros.training.dataset import Episode
from specvla_ros.training.regenerate import (
    lanes_on_ray,
    MakeLane,
    RegenerateArgs,
    Regenerator,
)
from specvla_ros.training.regenerated import Manifest
from specvla_ros.training.shards import lanes_here, ShardSource, write_shards

_ROOM = 1.2  # times the bytes that are needed, for what else is written
_UNKNOWN = -1  # in place of a token


@dataclass(frozen=True, slots=True)
class Thinned:
    """Each `every`-th frame of a part, to learn from; take: whether recorded words are taken."""

    part: Part
    every: int
    take: bool

    def __len__(self) -> int:
        return len(range(0, len(self.part), self.every))

    @property
    def name(self) -> str:
        """Name of its shard."""
        return self.part.name + (f'_every{self.every}' if self.every > 1 else '')

    def said(self, length: int) -> NDArray[np.int64]:
        """Recorded words, token ids [T, L]; rows of -1 where there are none."""
        said = np.full((len(self), length), _UNKNOWN, np.int64)
        for row, frame in enumerate(range(self.part.start, self.part.stop, self.every)):
            tokens = self.part.episode.said.get(frame, ())
            if self.take and len(tokens) == length:
                said[row] = tokens
        return said


@dataclass(frozen=True, slots=True)
class ReadPart:
    """
    A part whose frames were read: what a worker needs to know of it, wherever it is.

    said: recorded words, see `Thinned.said`.
    """

    episode: Episode
    said: NDArray[np.int64]


def records_of_read(regenerator: Regenerator, part: ReadPart) -> Iterator[NDArray]:
    """Records (`frame_type`) of a part, a batch at a time; with features all is computed."""
    if regenerator.features:
        return regenerator.records(part.episode)
    return regenerator.records_of(part.episode, part.said)


class SentPart:
    """
    A part that is read here when it is sent to a worker: what arrives there is a `ReadPart`.

    So no other machine needs the recordings, and only what is under way is held in memory.
    """

    def __init__(self, part: Thinned, read: Callable[[Thinned], ReadPart]) -> None:
        self.name, self._part, self._read = part.name, part, read

    def __len__(self) -> int:
        return len(self._part)

    def __reduce__(self) -> tuple[type[ReadPart], tuple[Any, ...]]:
        """Pickle what was read."""
        read = self._read(self._part)
        return ReadPart, (read.episode, read.said)


class Words:
    """
    The folder of a target's words about recordings.

    args: how they are computed: `paths`, `jitter`, `seed`, `batch`, `lanes` of it count. features:
    whether the target's features are stored, for EAGLE.

    :raises SpecVLAError: the folder holds those of another target, or of other settings
    """

    def __init__(
        self, folder: Path, checkpoint: Checkpoint, target_sha256: str, args: RegenerateArgs,
        features: bool,
    ) -> None:
        self.folder, self.checkpoint = folder, checkpoint
        model, dataset, space = checkpoint.model, checkpoint.dataset, checkpoint.space
        self.manifest = Manifest(
            target_sha256, dataset.unnorm_key, model.config.image_size, dataset.mirror_image,
            space.length, args.paths, args.jitter, args.seed,
            image=asdict(checkpoint.preparation), features=features)
        self.regenerator = Regenerator(model, space, args, features)
        there = Manifest.read(folder)
        if there is not None and (name := self.manifest.difference(there)):
            raise SpecVLAError(
                f'{folder} was made with {name} {getattr(there, name)!r}, not '
                f'{getattr(self.manifest, name)!r}: choose another --out, or delete that folder')

    def missing(self, parts: Sequence[Thinned]) -> list[Thinned]:
        """Return the parts that are not there yet."""
        return [part for part in parts if not (self.folder / f'{part.name}.npy').exists()]

    def check_room(self, parts: Sequence[Thinned]) -> int:
        """
        Return the bytes that parts will take.

        :raises SpecVLAError: the disk has too little room for them
        """
        prompts = {text: len(self.checkpoint.model.prompt_ids(text))
                   for text in {part.part.episode.instruction for part in parts}}
        patches = self.checkpoint.model.config.n_patches
        needed = sum(len(part) * self.regenerator.record_type(
            patches + prompts[part.part.episode.instruction]).itemsize for part in parts)
        there = next(place for place in (self.folder, *self.folder.absolute().parents)
                     if place.is_dir())
        free = shutil.disk_usage(there).free
        if _ROOM * needed > free:
            raise SpecVLAError(f'{self.folder} needs {_gigabytes(needed)}, {_gigabytes(free)} are '
                               'free there: choose another --out, or fewer --frames')
        return needed

    def seconds(self, parts: Sequence[Thinned]) -> float:
        """Estimate how long parts will take, by a few frames of the first."""
        if not parts:
            return 0.0
        part, args = parts[0], self.regenerator.args
        few = Thinned(part.part.within(0, min(len(part.part), 8 * part.every)), part.every,
                      part.take)
        began = time.monotonic()
        list(self.records(few))
        each = (time.monotonic() - began) / len(few)
        return each * sum(map(len, parts)) / max(1, min(args.lanes, len(parts)))

    def write(
        self, parts: Sequence[Thinned], console: Console, ray: str | None = None
    ) -> None:
        """
        Compute what is missing; afterwards the folder says that it holds exactly `parts`.

        ray: address of the cluster whose workers compute it; None = threads of this process.
        """
        self.manifest.write(self.folder)
        missing: list[ShardSource] = [*self.missing(parts)]
        if ray is None:
            employer = lanes_here(self.records)
        else:
            employer = lanes_on_ray(ray, MakeLane(
                self.regenerator.args, self.checkpoint.dataset.unnorm_key,
                self.regenerator.features, records_of_read))
            missing = [SentPart(part, self.read) for part in self.missing(parts)]
        write_shards(employer, self.folder, missing, self.regenerator.args.lanes, console)
        replace(self.manifest, complete=True, frames=sum(map(len, parts)), episodes={
            part.name: part.part.episode.instruction for part in parts}).write(self.folder)

    def records(self, thinned: Thinned) -> Iterator[NDArray]:
        """Records (`frame_type`) of a part, a batch at a time."""
        return records_of_read(self.regenerator, self.read(thinned))

    def read(self, thinned: Thinned) -> ReadPart:
        """Read the frames of a part."""
        frames = [self._pixels(image) for number, image in enumerate(thinned.part.images())
                  if number % thinned.every == 0]
        nothing = np.zeros((len(frames), 0), np.float32)
        episode = Episode(thinned.name, thinned.part.episode.instruction, nothing, nothing,
                          np.stack(frames))
        return ReadPart(episode, thinned.said(self.manifest.length))

    def _pixels(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a frame as the network sees it, before its colours are normalised."""
        turned = mirrored(image) if self.manifest.mirror else image
        return self.checkpoint.transform.pixels(turned).cpu().numpy()


def spot_check(checkpoint: Checkpoint, parts: Sequence[Part], count: int = 16) -> tuple[int, int]:
    """
    Let the target say its action to some frames whose recorded words are said to be its own.

    So another checkpoint is found out, and frames that were prepared otherwise.

    :param count: frames at most, spread evenly
    :returns: how many were the same, of how many
    """
    from specvla_ros.configuration import load_preset
    from specvla_ros.policy import Policy

    length = checkpoint.space.length
    known = [(part, frame) for part in parts for frame in range(part.start, part.stop)
             if len(part.episode.said.get(frame, ())) == length]
    if not known:
        return 0, 0
    policy, same = Policy(checkpoint, load_preset('ar')), 0
    chosen = np.unique(np.linspace(0, len(known) - 1, min(count, len(known))).astype(int))
    for index in chosen:
        part, frame = known[index]
        image, = part.recording.images(part.episode, frame, frame + 1)
        policy.reset()
        with torch.inference_mode():
            said = policy.act(image, part.episode.instruction).tokens
        same += said == part.episode.said[frame]
    return same, len(chosen)


def _gigabytes(count: int) -> str:
    return f'{count / 1e9:.1f} GB'
