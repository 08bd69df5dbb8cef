"""Which frames of the recordings are learned from, and which are kept for measuring."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
import math
import zlib

import numpy as np
from numpy.typing import NDArray

from specvla_ros.errors import counted
from specvla_ros.recordings.episode import RecordedEpisode, Recording

SHARE = 0.2  # of the parts that are kept for measuring
FEWEST_PARTS = 3  # kept for measuring: an interval over fewer says nothing
FEWEST_FRAMES = 500  # to learn from
_EPISODES = 10  # from so many on they are the parts; fewer are cut
_STRETCH = 100  # frames that a part has at least where episodes are cut
_STRETCHES = 25  # parts at most, where they are


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of an episode, the frames from `start` to below `stop`."""

    recording: Recording
    episode: RecordedEpisode
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def name(self) -> str:
        """Name that is unique over all recordings, and the same in every run."""
        return f'{self.recording.sign}/{self.episode.name}_{self.start}_{self.stop}'

    def within(self, start: int, stop: int) -> Part:
        """Return a stretch of this one, counted from its first frame."""
        return Part(self.recording, self.episode, self.start + start, self.start + stop)

    def images(self) -> Iterator[NDArray[np.uint8]]:
        """Read its frames."""
        return self.recording.images(self.episode, self.start, self.stop)


@dataclass(frozen=True, slots=True)
class Division:
    """
    Parts to learn from, and parts to measure with.

    whole: they are whole episodes. Else neighbours of what is measured were learned, and the
    figures are a little kind.
    """

    learned: tuple[Part, ...]
    held_out: tuple[Part, ...]
    whole: bool

    @property
    def kind(self) -> str:
        """Say what is measured with."""
        return 'whole episodes' if self.whole else 'stretches of the same episodes'

    @property
    def too_little(self) -> str:
        """Say why this is too little to replace a drafter by; '' = it is enough."""
        frames, parts = sum(map(len, self.learned)), len(self.held_out)
        if frames >= FEWEST_FRAMES and parts >= FEWEST_PARTS:
            return ''
        return (f'{counted(frames, "frame")} to learn from and '
                f'{counted(parts, "stretch", "stretches")} to measure with are too little, '
                f'must be at least {FEWEST_FRAMES} and {FEWEST_PARTS}: give more '
                'recordings')


def split(recordings: Sequence[Recording]) -> Division:
    """
    Keep a fifth of the episodes for measuring, of each instruction that has several.

    Fewer than ten episodes are cut into stretches; a single stretch keeps its end.
    """
    whole = [Part(recording, episode, 0, len(episode)) for recording in recordings
             for episode in recording.episodes if len(episode)]
    if len(whole) >= _EPISODES:
        return Division(*_chosen(whole), whole=True)
    longest = max(_STRETCH, math.ceil(sum(map(len, whole)) / _STRETCHES))
    parts = [piece for part in whole for piece in cut(part, longest)]
    if len(parts) > 1:
        return Division(*_chosen(parts), whole=len(parts) == len(whole))
    part, = parts
    kept = max(1, round(SHARE * len(part)))
    if kept == len(part):  # a single frame
        return Division((part,), (part,), whole=False)
    return Division((part.within(0, len(part) - kept),),
                    (part.within(len(part) - kept, len(part)),), whole=False)


def cut(part: Part, longest: int) -> list[Part]:
    """Cut a part into stretches of `longest` frames or a little more, all about as long."""
    count = max(1, len(part) // longest)
    bounds = [round(number * len(part) / count) for number in range(count + 1)]
    return [part.within(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def _chosen(parts: list[Part]) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """Choose by the names, so that another run chooses alike."""
    told: dict[str, list[Part]] = defaultdict(list)
    drawn = sorted(parts, key=lambda part: zlib.crc32(part.name.encode()))
    for part in drawn:
        told[part.episode.instruction].append(part)
    kept: set[str] = set()
    for alike in told.values():
        if len(alike) > 1:
            kept |= {part.name for part in alike[:max(1, round(SHARE * len(alike)))]}
    if len(kept) < FEWEST_PARTS:  # few parts, or many instructions that are said once
        more = [part.name for part in drawn if part.name not in kept]
        kept |= set(more[:min(FEWEST_PARTS, len(parts) - 1) - len(kept)])
    return (tuple(part for part in parts if part.name not in kept),
            tuple(part for part in parts if part.name in kept))
