"""A replayed bag over time: milliseconds, tokens and errors of every frame, and some pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from specvla_ros.bags.frames import Frame
from specvla_ros.benchmark.bag_replay.offline import Replayed
from specvla_ros.benchmark.plots import decoder_colour, STYLE
from specvla_ros.benchmark.records import ActionRecord
from specvla_ros.benchmark.report import BASELINE
from specvla_ros.files import whole_file

if TYPE_CHECKING:  # heavy
    from matplotlib.axes import Axes

_PICTURES = 8


@dataclass(frozen=True, slots=True)
class _Line:
    """The line of one decoder; seconds: since the first frame, one for each action."""

    name: str
    colour: str
    seconds: list[float]
    actions: list[ActionRecord]


def write_timeline(path: Path, frames: Sequence[Replayed], decoders: Sequence[str]) -> None:
    """
    Draw time per action, target passes and, where `ar` was played, the error of every frame.

    :raises SpecVLAError: the file cannot be written
    """
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    lines = [_line(name, colour, frames)
             for name, colour in zip(decoders, map(decoder_colour, range(len(decoders))))]
    compared = any(action.deviation is not None for line in lines for action in line.actions)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2 + compared, 1, figsize=(15, 7.5), sharex=True,
                                    layout='constrained')
        _times(axes[0], lines, frames)
        _passes(axes[1], lines)
        if compared:
            _errors(axes[2], lines)
        for axis in axes:
            axis.set_ylim(bottom=0)
            for frame, before in zip(frames[1:], frames):
                if frame.segment != before.segment:
                    axis.axvline(_seconds(frame, frames), color='#bbbbbb')
        axes[-1].set_xlabel('time in the bag, s')
        try:
            with whole_file(path) as temporary:
                figure.savefig(temporary, dpi=120, format='png')
        finally:
            plt.close(figure)


def _seconds(frame: Replayed, frames: Sequence[Replayed]) -> float:
    return (frame.received - frames[0].received) * 1e-9


def _line(name: str, colour: str, frames: Sequence[Replayed]) -> _Line:
    acted = [frame for frame in frames if name in frame.actions]
    return _Line(name, colour, [_seconds(frame, frames) for frame in acted],
                 [frame.actions[name] for frame in acted])


def _times(axis: Axes, lines: Sequence[_Line], frames: Sequence[Replayed]) -> None:
    for line in lines:
        axis.plot(line.seconds, [action.stage_ms['total'] for action in line.actions],
                  color=line.colour, label=line.name, linewidth=1.6)
    if len(frames) > 1:
        period = 1e-6 * float(np.median(np.diff([frame.received for frame in frames])))
        axis.axhline(period, color='#000000', linewidth=1, linestyle=':',
                     label=f'between two frames: {period:.0f} ms')
    axis.set_title('Time per action, ms')
    axis.legend(frameon=False, ncols=len(lines) + 1, loc='upper right', bbox_to_anchor=(1, 1.2))


def _passes(axis: Axes, lines: Sequence[_Line]) -> None:
    for line in lines:
        axis.step(line.seconds, [action.target_passes for action in line.actions],
                  color=line.colour, where='mid', linewidth=1.6)
    axis.set_title('Passes of the target, the prefill counted')


def _errors(axis: Axes, lines: Sequence[_Line]) -> None:
    for line in lines:
        compared = [(seconds, action.deviation.mm)
                    for seconds, action in zip(line.seconds, line.actions)
                    if action.deviation is not None]
        axis.plot(*zip(*compared) if compared else ([], []), color=line.colour, linewidth=1.6)
    axis.set_title(f'Mean error of the translation against {BASELINE}, mm')


def pictures(frames: Iterable[Frame], count: int) -> list[tuple[int, np.ndarray]]:
    """
    Pick some frames for a look at the recording.

    :param count: of all frames
    :returns: a few, evenly spread: (when it came, ns; uint8 [H, W, 3] RGB)
    """
    wanted = set(np.linspace(0, count - 1, min(count, _PICTURES)).astype(int).tolist())
    return [(frame.received, frame.image) for frame in frames if frame.number in wanted]
