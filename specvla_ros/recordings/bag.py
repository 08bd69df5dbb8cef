"""Episodes of a rosbag2 folder: its segments, in which instruction and episode stay the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from specvla_ros.bags.frames import (
    first_steps,
    FrameReader,
    live_actions,
    LiveAction,
    only_camera,
)
from specvla_ros.bags.reader import Bag
from specvla_ros.errors import counted, SpecVLAError
from specvla_ros.recordings.episode import RecordedEpisode, Recording, Selection, sign_of, size_of


@dataclass(slots=True)
class _Segment:
    """Frames of a segment; positions: which of the bag's images; stamps, received: ns."""

    instruction: str
    positions: list[int] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    received: list[int] = field(default_factory=list)


def read(path: Path, selection: Selection) -> Recording:
    """
    Look through a bag once: every image is decoded, so what can't be read is known.

    :raises SpecVLAError: it can't be read, no frame of it can be used, or the camera changes size
    """
    with Bag(path) as bag:
        topic = selection.image_topic or only_camera(bag)
        reader = FrameReader(bag, topic, selection.instruction_topic, selection.instruction)
        segments, shape, jumps = _segments(reader)
        if not segments:
            raise SpecVLAError(f'no frame of {path} can be used: {reader.why_none()}')
        recorded, done = live_actions(bag), first_steps(bag)
        # Of two images with one stamp, an action doesn't say which one it answers.
        unclear = _repeated(segments) & (recorded.keys() | done.keys())
        own = {stamp: action.tokens for stamp, action in recorded.items()
               if action.is_own and stamp not in unclear}
        done = {stamp: step for stamp, step in done.items() if stamp not in unclear}
        remarks = (*reader.remarks(), *_about(recorded, own), *_about_stamps(jumps, len(unclear)),
                   *filter(None, [bag.missing]))
        files = bag.files
    kind = f'bag, {size_of(shape)} from {topic}'
    episodes = tuple(_episode(path, topic, selection, number, segment, own, done)
                     for number, segment in enumerate(segments))
    # The same camera may be recorded raw one day and compressed the next.
    camera = topic.removesuffix('/compressed')
    return Recording(path, kind, sign_of(files), episodes, remarks, files=files, camera=camera,
                     is_decoded=True)


def _segments(reader: FrameReader) -> tuple[list[_Segment], tuple[int, ...], int]:
    """
    Return the segments, the shape that all images have, and how often their stamps went back.

    An episode ends where they go back, as when a simulation begins anew.
    """
    segments: list[_Segment] = []
    shape: tuple[int, ...] = ()
    number, jumps = -1, 0
    for frame in reader:
        shape = shape or frame.image.shape
        if frame.image.shape != shape:
            raise SpecVLAError(
                f'{reader.bag.path}: {reader.image_topic} changes its size from {size_of(shape)} '
                f'to {size_of(frame.image.shape)} at image {frame.position}: a camera keeps its '
                'size; choose another --image-topic, or leave this bag out')
        is_back = frame.segment == number and 0 < frame.stamp < segments[-1].stamps[-1]
        if frame.segment != number or is_back:
            segments.append(_Segment(frame.instruction))
        number, jumps = frame.segment, jumps + is_back
        segments[-1].positions.append(frame.position)
        segments[-1].stamps.append(frame.stamp)
        segments[-1].received.append(frame.received)
    return segments, shape, jumps


def _repeated(segments: list[_Segment]) -> set[int]:
    """Return the stamps that several images have, as where a simulation began anew."""
    counts = Counter(stamp for segment in segments for stamp in segment.stamps)
    return {stamp for stamp, count in counts.items() if count > 1}


def _about_stamps(jumps: int, unclear: int) -> Iterator[str]:
    """Say how often stamps went back, and how many actions were left out for their stamps."""
    if jumps:
        yield f'the stamps of the images went back {counted(jumps, "time")}: an episode ends there'
    if unclear:
        yield f'{counted(unclear, "recorded action")} left out: several images have the same stamp'


def _episode(
    path: Path, topic: str, selection: Selection, number: int, segment: _Segment,
    own: dict[int, tuple[int, ...]], done: dict[int, NDArray[np.float32]],
) -> RecordedEpisode:
    stamps = segment.stamps
    said = {index: own[stamp] for index, stamp in enumerate(stamps) if stamp and stamp in own}
    known = all(stamps)  # a stamp of 0 is none
    return RecordedEpisode(
        f'segment_{number:04d}', segment.instruction, len(stamps),
        partial(_images, path, topic, segment),
        stamps=(np.array(stamps) - stamps[0]) * 1e-9 if known else None,
        actions=_actions(stamps, done), said=said)


def _actions(
    stamps: list[int], done: dict[int, NDArray[np.float32]]
) -> NDArray[np.float32] | None:
    """Return the recorded control steps [T, 7], NaN where there is none; None = none at all."""
    nothing = np.full(7, np.nan, np.float32)
    rows = np.stack([done.get(stamp, nothing) if stamp else nothing for stamp in stamps])
    return None if np.isnan(rows).all() else rows


def _images(
    path: Path, topic: str, segment: _Segment, start: int, stop: int
) -> Iterator[NDArray[np.uint8]]:
    """Decode some frames of a segment, past all before them where the bag has an index."""
    with Bag(path) as bag:
        reader = FrameReader(bag, topic, '', segment.instruction,
                             only=segment.positions[start:stop], since=segment.received[start])
        for number, frame in enumerate(reader, start):
            if frame.received != segment.received[number]:
                raise SpecVLAError(f'{path}: its order of time changed while it was read: it is '
                                   'damaged or was changed; leave it out')
            yield frame.image


def _about(
    recorded: dict[int, LiveAction], own: dict[int, tuple[int, ...]]
) -> list[str]:
    """Say what the recorded actions are good for."""
    if not recorded:
        return []
    others = sorted({action.decoder or 'a decoder without a report' for action in
                     recorded.values() if not action.is_own})
    lines = [f'{counted(len(recorded), "recorded action")}, {len(own)} of them the own '
             'words of the target that played then']
    if others:
        lines[0] += f'; under {", ".join(others)} they may be off them'
    return lines
