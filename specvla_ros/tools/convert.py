"""
`specvla convert`: recordings of a robot to a LeRobot data set, which `lerobot` itself can load.

Whatever the readers know can be the source: bags, HDF5 demonstrations, pictures, `specvla
collect`'s episodes, other LeRobot data sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
import os
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
import tyro

from specvla_ros.errors import counted, SpecVLAError
from specvla_ros.files import whole_folder
from specvla_ros.progress import say, terminal_bar
from specvla_ros.recordings.episode import RecordedEpisode, Recording
from specvla_ros.recordings.lerobot_writer import LeRobotWriter, Shape, VERSION
from specvla_ros.recordings.source_arguments import SourceArgs
from specvla_ros.writable import check_writable

Help = tyro.conf.arg
_MOST_FPS = 1000  # what no camera of a robot reaches


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertArgs(SourceArgs):
    """Convert recordings of a robot to a LeRobot data set."""

    out: Annotated[Path, Help(help='folder to write; it must not be there')]
    to: Annotated[Literal['lerobot'], Help(help='format: LeRobot v3.0')] = 'lerobot'
    images: Annotated[bool, Help(
        help='write the frames as PNG files in the rows, exact to the bit; else as H.264 videos, '
             'which are a tenth as large')] = False
    fps: Annotated[int, Help(help='frames a second; 0: by the stamps of the frames')] = 0
    name: Annotated[str, Help(help='of the camera: observation.images.NAME')] = 'image'


@dataclass(frozen=True, slots=True)
class Taken:
    """An episode and the numbers of those of its frames that are converted."""

    recording: Recording
    episode: RecordedEpisode
    frames: tuple[int, ...]

    def images(self) -> Iterator[NDArray[np.uint8]]:
        """Read these frames."""
        wanted, last = set(self.frames), self.frames[-1]
        images = self.recording.images(self.episode, self.frames[0], last + 1)
        for number, image in enumerate(images, self.frames[0]):
            if number in wanted:
                yield image

    def rows(self, values: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        """Return the rows of these frames."""
        return None if values is None else values[list(self.frames)]


def run(args: ConvertArgs) -> int:
    """
    Read, write, and say what was written; returns an exit code.

    :raises SpecVLAError: recordings that can't be read or don't fit together, a full disk
    """
    _check(args)
    console = Console()
    recordings = args.recordings()
    taken = _taken(recordings)
    shape = _shape(args, taken)
    for recording in recordings:
        say(console, f'found {recording.path}: {recording.kind}, '
                     f'{counted(len(recording.episodes), "episode")}, '
                     f'{counted(recording.frames, "frame")}')
        for remark in recording.remarks:
            say(console, f'  {remark}')
    columns = (TextColumn('convert'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with whole_folder(args.out) as folder, terminal_bar(console, *columns) as bar:
        task, writer = bar.add_task('', total=len(taken)), LeRobotWriter(folder, shape)
        for each in taken:
            episode = each.episode
            writer.add(episode.instruction, each.images(),
                       each.rows(episode.actions) if shape.action else None,
                       each.rows(episode.poses) if shape.state else None, len(each.frames))
            bar.advance(task)
        writer.finish()
    _tell(console, args, recordings, taken, shape)
    return 0


def _check(args: ConvertArgs) -> None:
    """Refuse settings that can't be."""
    if not args.source:
        raise SpecVLAError('give the recordings to convert: folders or files')
    if os.path.lexists(args.out):
        raise SpecVLAError(f'--out {args.out} exists; give a folder that is not there')
    if not 0 <= args.fps <= _MOST_FPS:
        raise SpecVLAError(f'--fps {args.fps}: must be 1 to {_MOST_FPS}, or 0 for that of the '
                           'stamps')
    if not args.name.replace('_', '').isalnum():
        raise SpecVLAError(f'--name {args.name!r}: must be of letters, digits and _')
    for source in args.source:
        if source.is_dir() and source.resolve() in args.out.resolve().parents:
            raise SpecVLAError(f'--out {args.out} is inside of {source}, in which nothing is '
                               'written; give another folder')
    check_writable('--out', args.out)


def _taken(recordings: Sequence[Recording]) -> list[Taken]:
    """
    Choose the frames: where actions are known, those that have one.

    Where no episode has actions, all frames are taken, without actions.
    """
    known = any(_has_action(episode).any() for recording in recordings
                for episode in recording.episodes)
    found = []
    for recording in recordings:
        for episode in recording.episodes:
            wanted = _has_action(episode) if known else np.ones(len(episode), bool)
            if wanted.any():
                found.append(Taken(recording, episode, tuple(np.flatnonzero(wanted).tolist())))
    return found


def _has_action(episode: RecordedEpisode) -> NDArray[np.bool_]:
    """Whether what was done at each frame is known, [T]."""
    if episode.actions is None:
        return np.zeros(len(episode), bool)
    return np.isfinite(episode.actions).all(1)


def _shape(args: ConvertArgs, taken: Sequence[Taken]) -> Shape:
    """Find out what all episodes have in common; refuse what doesn't fit together."""
    first = next(taken[0].images())
    actions = {it.episode.actions.shape[1] for it in taken if _has_action(it.episode).any()
               and it.episode.actions is not None}
    if len(actions) > 1:
        raise SpecVLAError(f'the actions are of {sorted(actions)} dimensions: recordings of one '
                           'robot make one data set')
    states = {0 if it.episode.poses is None else it.episode.poses.shape[1] for it in taken}
    return Shape(
        f'observation.images.{args.name}', *first.shape[:2], action=max(actions, default=0),
        state=states.pop() if len(states) == 1 else 0, fps=args.fps or _fps(taken),
        as_video=not args.images)


def _fps(taken: Sequence[Taken]) -> int:
    """Return the frames a second by the stamps: the median, in whole numbers."""
    steps = [np.diff(it.episode.stamps[list(it.frames)]) for it in taken
             if it.episode.stamps is not None]
    known = np.concatenate(steps) if steps else np.zeros(0)
    known = known[known > 0]
    if not len(known):
        raise SpecVLAError('nothing says how many frames a second there are: give --fps')
    rate = 1 / float(np.median(known))
    if not 0.5 <= rate <= _MOST_FPS:
        raise SpecVLAError(f'by their stamps there are {rate:.3g} frames a second, must be 1 to '
                           f'{_MOST_FPS}: give --fps')
    return max(1, round(rate))


def _tell(
    console: Console, args: ConvertArgs, recordings: Sequence[Recording], taken: Sequence[Taken],
    shape: Shape,
) -> None:
    count = sum(len(it.frames) for it in taken)
    left_out = sum(it.frames for it in recordings) - count
    if left_out:
        say(console, f'left out: {counted(left_out, "frame")} without a recorded action')
    if not shape.state and any(it.episode.poses is not None for it in taken):
        say(console, 'left out: the poses: not all episodes have them, or of another size')
    size = f'{shape.width} x {shape.height}'
    frames = f'video, H.264, {size}' if shape.as_video else f'PNG, {size}'
    numbers = ', '.join(f'{name} [{size}]' for name, size in (
        ('action', shape.action), ('observation.state', shape.state)) if size)
    say(console, f'{args.out}: LeRobot {VERSION}, {counted(len(taken), "episode")}, '
                 f'{counted(count, "frame")}, {shape.fps} a second; {shape.camera} ({frames})'
                 f'{", " * bool(numbers)}'
                 f'{numbers or "; no action was recorded"}')
