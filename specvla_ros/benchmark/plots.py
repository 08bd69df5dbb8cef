"""plot.png: passes per action, time per action by stage, and how many tokens a pass gains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
from pathlib import Path
from typing import Any, TYPE_CHECKING

import numpy as np

from specvla_ros.benchmark.report import conditions, Report, Row
from specvla_ros.configuration import RELAXED, UNVERIFIED
from specvla_ros.files import whole_file

if TYPE_CHECKING:  # heavy
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers too.
STAGE_COLOURS = {'preprocess': '#999999', 'vision': '#56b4e9', 'prefill': '#0072b2',
                 'draft': '#009e73', 'verify': '#e69f00', 'generate': '#cc79a7',
                 'other': '#dddddd'}
STYLE: dict[Any, Any] = {  # matplotlib's names of its settings have a type since 3.11
    'font.size': 11, 'axes.spines.top': False, 'axes.spines.right': False,
    'axes.titlesize': 12, 'axes.titleweight': 'bold', 'axes.titlelocation': 'left'}
DECODER_COLOURS = ('#4d4d4d', '#cc79a7', '#d55e00', '#f0e442', '#56b4e9', '#009e73', '#0072b2',
                   '#e69f00')
_SHADES = ((0.0, 0.0), (0.5, 1.0), (0.5, 0.0))  # of colours: mixed with white, with black
_LENGTHS_SHOWN = 4  # acceptance lengths at least
_MOST_LEVEL_LABELS = 5  # bars of one axis whose labels fit side by side


def write_plot(path: Path, document: Report, title: str = '') -> None:
    """
    Draw a report's overall rows.

    :param title: default: suites and episodes solved
    :raises SpecVLAError: the file cannot be written
    """
    overall = [row for row in document['rows'] if row['task'] is None
               and row['subset'] == 'all' and row['actions']]
    if not overall:
        return
    named = len({row['suite'] for row in overall}) > 1
    labels = [decoder_label(row) + (f'\n{row["suite"]}' if named else '') for row in overall]
    width = max(15, 5 + 2.1 * len(overall))  # inches: bars and their labels
    with figure_file(path, (width, 5.2), (3, 4, 5)) as (figure, axes):
        _passes(axes[0], overall, labels)
        stage_bars(axes[1], overall, labels)
        _histogram(axes[2], overall, labels)
        figure.suptitle(title or _title(overall), fontsize=13, x=0.01, ha='left')
        figure.supxlabel(footnote(document), fontsize=9, color='#555555', x=0.01, ha='left')


def decoder_label(row: Row) -> str:
    """Return a decoder's name and, under it, what it promises if that is less than lossless."""
    name, kind = row['decoder'].removesuffix(f' ({UNVERIFIED})'), row.get('verification')
    return f'{name}\n({kind})' if kind in (RELAXED, UNVERIFIED) else row['decoder']


def decoder_colour(number: int) -> str:
    """Return the colour of a row by its place; after the last one lighter, then darker ones."""
    from matplotlib.colors import to_hex, to_rgb

    share, towards = _SHADES[number // len(DECODER_COLOURS) % len(_SHADES)]
    red, green, blue = (part + share * (towards - part) for part in
                        to_rgb(DECODER_COLOURS[number % len(DECODER_COLOURS)]))
    return to_hex((red, green, blue))


def _name_bars(axis: Any, places: Any, labels: Sequence[str]) -> None:
    """Write labels under bars, at an angle where they would meet."""
    axis.set_xticks(places, labels)
    if len(labels) > _MOST_LEVEL_LABELS:
        for text in axis.get_xticklabels():
            text.set(rotation=40, ha='right', rotation_mode='anchor', fontsize=9)


@contextlib.contextmanager
def figure_file(path: Path, size: tuple[float, float], widths: Sequence[float]
                ) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """
    Give a figure and its axes side by side to draw on; then it is written to `path`.

    :param size: of the figure, inches
    :param widths: of the axes, relative to each other
    :raises SpecVLAError: the file cannot be written
    """
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(widths), figsize=size, width_ratios=widths,
                                    layout='constrained', squeeze=False)
        try:
            yield figure, axes[0]
            with whole_file(path) as temporary:
                figure.savefig(temporary, dpi=120, format='png')
        finally:
            plt.close(figure)


def _passes(axis: Axes, rows: Sequence[Row], labels: Sequence[str]) -> None:
    places = np.arange(len(rows))
    # An action that is completed without a pass has no prefill either.
    first = np.array([1 - row['actions_without_pass'] / row['actions'] for row in rows])
    after = [row['target_passes_per_action'] for row in rows] - first
    axis.bar(places, first, 0.6, color=STAGE_COLOURS['prefill'], label='prefill')
    axis.bar(places, after, 0.6, bottom=first, color=STAGE_COLOURS['verify'], label='after it')
    for place, row in enumerate(rows):
        axis.text(place, row['target_passes_per_action'], ' '
                  f'{row["target_passes_per_action"]:.2f}', ha='center', va='bottom')
    axis.set_title('Passes of the target per action')
    _name_bars(axis, places, labels)
    _legend_below(axis, len(labels))


def stage_bars(axis: Axes, rows: Sequence[Row], labels: Sequence[str]) -> None:
    """Draw the mean time per action of each row, stages stacked."""
    places = np.arange(len(rows))
    bottom = np.zeros(len(rows))
    for stage, colour in STAGE_COLOURS.items():
        heights = np.array([_stage(row, stage) for row in rows])
        if heights.max() > 0.005 * max(row['ms_per_action']['mean'] for row in rows):
            axis.bar(places, heights, 0.6, bottom=bottom, color=colour, label=stage)
            bottom += heights
    for place, row in enumerate(rows):
        mean, speedup = row['ms_per_action']['mean'], row.get('speedup_vs_ar')
        text = f'{mean:.0f} ms' if mean >= 10 else f'{mean:.1f} ms'
        if speedup is not None and row['decoder'] != 'ar':
            text += f'\n{speedup:.2f}× ar'
        if row['decoder'] == 'ar' and row.get('speedup_ceiling'):
            limit = row['speedup_ceiling']
            axis.axhline(mean / limit, color='black', linestyle=':', linewidth=1,
                         label=f'ceiling, {limit:.2f}× ar')
        axis.text(place, mean, text, ha='center', va='bottom')
    axis.set_title('Mean time per action, by stage')
    axis.set_ylabel('ms')
    _name_bars(axis, places, labels)
    _legend_below(axis, len(labels))


def _stage(row: Row, stage: str) -> float:
    stages = row['stage_ms']
    if stage != 'other':
        return stages.get(stage, 0.0)
    known = sum(stages.get(name, 0.0) for name in STAGE_COLOURS)
    return max(0.0, row['ms_per_action']['mean'] - known)


def _histogram(axis: Axes, rows: Sequence[Row], labels: Sequence[str]) -> None:
    longest = max(len(row['acceptance_histogram']) for row in rows) - 1
    if longest < 1:
        axis.set_axis_off()
        axis.text(0.5, 0.5, 'no pass after the prefill', ha='center')
        return
    width = 0.8 / len(rows)
    for number, (row, label) in enumerate(zip(rows, labels)):
        counts = np.zeros(longest + 1)
        counts[:len(row['acceptance_histogram'])] = row['acceptance_histogram']
        share = 100 * counts / max(counts.sum(), 1)
        places = np.arange(1, longest + 1) + (number - (len(rows) - 1) / 2) * width
        name = label.replace('\n(', ' (').replace('\n', ', ')
        mean = row['acceptance_length']
        legend = f'{name}: mean {mean:.2f}' if mean is not None else name
        axis.bar(places, share[1:], 0.92 * width, label=legend,
                 color=decoder_colour(number))
    axis.set_title('Tokens gained by a pass after the prefill')
    axis.set_xlabel('acceptance length (bonus token included)')
    axis.set_ylabel('share of passes, %')
    shown = max(longest, _LENGTHS_SHOWN)  # `ar` alone: a bar as wide as the axis, under the legend
    axis.set_xlim(0.4, shown + 0.6)
    axis.set_xticks(np.arange(1, shown + 1))
    axis.legend(frameon=False, ncols=1 + (len(rows) > 8), fontsize=11 if len(rows) < 9 else 8)


def _legend_below(axis: Axes, n_labels: int) -> None:
    """Put the legend under the bars' labels; under long ones there is no room but above them."""
    axis.margins(y=0.12)
    if n_labels > _MOST_LEVEL_LABELS:
        axis.margins(y=0.3)
        axis.legend(frameon=False, loc='upper right', ncols=3, fontsize=10)
        return
    axis.legend(frameon=False, loc='upper center', bbox_to_anchor=(0.5, -0.16), ncols=3,
                fontsize=10)


def _title(rows: Sequence[Row]) -> str:
    suites = ', '.join(dict.fromkeys(row['suite'] for row in rows))
    solved = [f'{row["decoder"]} {row["successes"]}/{row["episodes"]}' for row in rows]
    lines = [', '.join(solved[first:first + 8]) for first in range(0, len(solved), 8)]
    return f'{suites}: episodes solved: ' + ',\n'.join(lines)


def footnote(document: Report) -> str:
    """Return the machine and versions that figures were measured on."""
    host = document['machine']
    device = ', '.join(host['gpus']) or host['cpu']
    sha256 = document['checkpoint'].get('target_sha256')
    weights = f'target {sha256[:12]}' if sha256 else 'random weights'
    moving = conditions(document['config'])
    return (f'{moving}{"; " if moving else ""}'
            f'{device}, {host["cores"]} cores; specvla {document["specvla"]}, torch '
            f'{document["versions"].get("torch", "?")}; {weights}')
