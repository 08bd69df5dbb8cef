"""
`specvla adapt`: from recordings of a robot to a drafter that knows what it sees.

Frames and instructions are read from whatever was recorded, the target says its action to each,
a drafter learns these, and the new weights stay only if they are better on frames that it did not
learn from. Under a strict rule nothing can change but the time.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from specvla_ros.data_sets import check_key
from specvla_ros.drafter_folders import beside, check_given
from specvla_ros.embedded import checkpoint_folder
from specvla_ros.errors import counted, SpecVLAError
from specvla_ros.policy_check import check_policy
from specvla_ros.progress import say, terminal_bar
from specvla_ros.recordings.episode import Recording
from specvla_ros.recordings.look_through import look_through, unread
from specvla_ros.training.adapting.adaptation import Adaptation, DRAFTERS, REPORT, WORDS, WORK
from specvla_ros.training.adapting.arguments import AdaptArgs
from specvla_ros.training.adapting.card import instructions
from specvla_ros.training.adapting.split import Division, split
from specvla_ros.writable import check_writable

__all__ = ['AdaptArgs', 'run']


def run(args: AdaptArgs) -> int:
    """
    Read, label, teach, measure, and keep what is better; returns an exit code.

    :raises SpecVLAError: recordings that can't be read, settings that can't be, a full disk
    """
    args.check()
    target = checkpoint_folder(args.checkpoint)
    present = args.drafter or beside(target)
    keys = check_policy(target, present, (), args.device)
    check_given(args.drafter)
    key = check_key(keys, args.unnorm_key)
    _check_out(args.out, args.source)
    console = Console()
    recordings = args.recordings()
    _read_all(recordings, console)
    division = split(recordings)
    _tell_found(recordings, division, console)
    Adaptation(args, target, present, key, recordings, division, console).run()
    return 0


def _check_out(out: Path, sources: Sequence[Path]) -> None:
    """Refuse a folder that something else stands in, and one inside of the recordings."""
    for source in sources:
        if source.is_dir() and source.resolve() in out.resolve().parents:
            raise SpecVLAError(f'--out {out} is inside of {source}, in which nothing is written; '
                               'give another folder')
    if os.path.lexists(out) and not out.is_dir():
        raise SpecVLAError(f'--out {out} is there and is no folder; give another one')
    known = {WORK, WORDS, DRAFTERS, REPORT}
    others = sorted({it.name for it in out.iterdir()} - known) if out.is_dir() else []
    if others:
        raise SpecVLAError(f'--out {out} holds {", ".join(others[:3])}, which `specvla adapt` did '
                           'not write; give another folder')
    check_writable('--out', out)


def _read_all(recordings: Sequence[Recording], console: Console) -> None:
    """Look at every frame now: a file that is cut off must not end the work after an hour."""
    if not (count := unread(recordings)):
        return
    columns = (TextColumn('read'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with terminal_bar(console, *columns) as bar:
        task = bar.add_task('', total=count)
        look_through(recordings, lambda: bar.advance(task))


def _tell_found(recordings: Sequence[Recording], division: Division, console: Console) -> None:
    """Say what was found, and what is done with it."""
    for recording in recordings:
        say(console, f'found {recording.path}: {recording.kind}, '
                      f'{counted(len(recording.episodes), "episode")}, '
                      f'{counted(recording.frames, "frame")}')
        for remark in recording.remarks:
            say(console, f'  {remark}')
    told = instructions(recordings)
    more = f' and {len(told) - 1} more' if len(told) > 1 else ''
    say(console, f'told: {told[0]!r}{more}')
    learned, held_out = (sum(map(len, parts)) for parts in (division.learned, division.held_out))
    kind = ('episode', 'episodes') if division.whole else ('stretch', 'stretches')
    say(console, f'to learn from: {counted(learned, "frame")} of '
                  f'{counted(len(division.learned), *kind)}; to measure with: {held_out} of '
                  f'{len(division.held_out)}')
