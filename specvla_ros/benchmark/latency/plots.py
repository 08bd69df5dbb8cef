"""Plots of a bench: time per action by stage, and each kind of pass under the device's roof."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from specvla_ros.benchmark.plots import (
    decoder_colour,
    decoder_label,
    figure_file,
    footnote,
    stage_bars,
)
from specvla_ros.benchmark.report import Report

if TYPE_CHECKING:  # heavy
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_MARKERS = {'vision': 'o', 'prefill': 's', 'verify': '^', 'generate': 'D'}


def write_stages(path: Path, document: Report) -> None:
    """
    Draw the mean time per action of each contestant, stages stacked.

    :raises SpecVLAError: the file cannot be written
    """
    rows = document['rows']
    width = max(6.5, 1.6 * min(len(rows), 5) + 0.8 * max(0, len(rows) - 5) + 2)
    with figure_file(path, (width, 5.5), (1,)) as (figure, axes):
        stage_bars(axes[0], rows, [decoder_label(row).replace('-', '-\n') for row in rows])
        _frame(figure, document)


def write_roofline(path: Path, document: Report) -> None:
    """
    Draw each contestant's passes by operations per byte and operations per second.

    :raises SpecVLAError: the file cannot be written
    """
    tall = 1.5 + 0.26 * (len(document['rows']) + len(_MARKERS))  # the legend's entries
    with figure_file(path, (9, max(5.5, tall)), (1,)) as (figure, axes):
        _roof(axes[0], document)
        seen = _points(axes[0], document)
        axes[0].set_xscale('log')
        axes[0].set_yscale('log')
        axes[0].set_xlabel('operations per byte')
        axes[0].set_ylabel('GFLOP/s')
        axes[0].set_title('Passes under the roof of this device')
        axes[0].legend(handles=seen, frameon=False, loc='center left', bbox_to_anchor=(1, 0.5))
        _frame(figure, document)


def _roof(axis: Axes, document: Report) -> None:
    """Draw the measured ceilings over the range of the points, and a little beyond."""
    bandwidth, rate = (document['ceilings'][key] for key in ('bytes_per_s', 'flops_per_s'))
    places = [own['flops_per_byte'] for row in document['rows'] for own in row['passes'].values()]
    ridge = rate / bandwidth
    low, high = min([*places, ridge]) / 2, 2 * max([*places, ridge])
    axis.plot([low, ridge, high], np.array([low * bandwidth, rate, rate]) / 1e9, color='#555555')
    axis.text(high, rate / 1e9, f'matrix product {rate / 1e9:.0f} GFLOP/s', ha='right',
              va='bottom', color='#555555', fontsize=10)
    axis.text(low, low * bandwidth / 1e9, f'  copy {bandwidth / 1e9:.1f} GB/s', ha='left',
              va='top', color='#555555', fontsize=10)


def _points(axis: Axes, document: Report) -> list[Line2D]:
    """Draw a point for each kind of pass; return the entries of the legend: colours, marks."""
    from matplotlib.lines import Line2D

    handles, marks = [], {}
    for number, row in enumerate(document['rows']):
        colour = decoder_colour(number)
        handles.append(Line2D([], [], color=colour, lw=6,
                              label=decoder_label(row).replace('\n', ' ')))
        for stage, own in row['passes'].items():
            axis.plot(own['flops_per_byte'], own['flops_per_s'] / 1e9, _MARKERS[stage],
                      color='none', markersize=10, markeredgecolor=colour, markeredgewidth=2)
            marks[stage] = Line2D([], [], color='none', marker=_MARKERS[stage], markersize=10,
                                  markeredgecolor='#555555', markeredgewidth=2, label=stage)
    return [*handles, *marks.values()]


def _frame(figure: Figure, document: Report) -> None:
    """Write the observations above, and machine and versions below."""
    config, actions = document['config'], document['rows'][0]['actions']
    if config['random_weights']:
        said = f'acceptance drawn, speed projected: random weights ({config["shape"]})'
    else:
        said = config.get('suite') or config['frames']
    figure.suptitle(f'{said}, {actions} actions each, {config["dtype"]}', fontsize=12, x=0.01,
                    ha='left')
    figure.supxlabel(footnote(document), fontsize=8, color='#555555', x=0.01, ha='left')
