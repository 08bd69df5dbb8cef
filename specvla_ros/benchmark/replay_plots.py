"""A replayed bag over time: milliseconds, tokens and errors of every frame, and what was seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from specvla_ros.bags.frames import Frame
from specvla_ros.benchmark.bag_replay import Replayed
from specvla_ros.benchmark.files import whole_file
from specvla_ros.benchmark.plots import DECODER_COLOURS, STYLE
from specvla_ros.benchmark.report import BASELINE

_PICTURES = 8


def write_timeline(path: Path, frames: Sequence[Replayed]) -> None:
    """
    Draw time per action, target passes and, where `ar` was played, the error of every frame.

    :raises SpecVLAError: the file cannot be written
    """
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    names = list(frames[0].actions)
    colours = dict(zip(names, DECODER_COLOURS * len(names)))
    seconds = (np.array([frame.received for frame in frames]) - frames[0].received) * 1e-9
    compared = [name for name in names if frames[0].actions[name].deviation is not None]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2 + bool(compared), 1, figsize=(15, 7.5), sharex=True,
                                    layout='constrained')
        _times(axes[0], frames, seconds, colours)
        _passes(axes[1], frames, seconds, colours)
        if compared:
            _errors(axes[2], frames, seconds, {name: colours[name] for name in compared})
        for axis in axes[:-1]:
            axis.tick_params(labelbottom=False)
        for frame, before in zip(frames[1:], frames):
            if frame.segment != before.segment:
                for axis in axes:
                    axis.axvline((frame.received - frames[0].received) * 1e-9, color='#bbbbbb')
        axes[-1].set_xlabel('time in the bag, s')
        try:
            with whole_file(path) as temporary:
                figure.savefig(temporary, dpi=120, format='png')
        finally:
            plt.close(figure)


def _times(axis: Any, frames: Sequence[Replayed], seconds: np.ndarray, colours: dict[str, str]
           ) -> None:
    for name, colour in colours.items():
        axis.plot(seconds, [frame.actions[name].stage_ms['total'] for frame in frames],
                  color=colour, label=name, linewidth=1.6)
    if len(seconds) > 1:
        period = 1e3 * float(np.median(np.diff(seconds)))
        axis.axhline(period, color='#000000', linewidth=1, linestyle=':',
                     label=f'between two frames: {period:.0f} ms')
    axis.set_ylim(bottom=0)
    axis.set_title('Time per action, ms')
    axis.legend(frameon=False, ncols=len(colours) + 1, loc='upper right',
                bbox_to_anchor=(1, 1.2))


def _passes(axis: Any, frames: Sequence[Replayed], seconds: np.ndarray, colours: dict[str, str]
            ) -> None:
    for name, colour in colours.items():
        axis.step(seconds, [frame.actions[name].target_passes for frame in frames],
                  color=colour, where='mid', linewidth=1.6)
    axis.set_ylim(bottom=0)
    axis.set_title('Passes of the target, the prefill counted')


def _errors(axis: Any, frames: Sequence[Replayed], seconds: np.ndarray, colours: dict[str, str]
            ) -> None:
    for name, colour in colours.items():
        axis.plot(seconds, [frame.actions[name].deviation.mm for frame in frames], color=colour,
                  linewidth=1.6)
    axis.set_ylim(bottom=0)
    axis.set_title(f'Mean error of the translation against {BASELINE}, mm')


def pictures(frames: Iterable[Frame], count: int) -> list[tuple[int, np.ndarray]]:
    """
    Pick some frames for a look at the recording.

    :param count: of all frames
    :returns: a few, evenly spread: (when it came, ns; uint8 [H, W, 3] RGB)
    """
    wanted = set(np.linspace(0, count - 1, min(count, _PICTURES)).astype(int).tolist())
    return [(frame.received, frame.image) for frame in frames if frame.number in wanted]
