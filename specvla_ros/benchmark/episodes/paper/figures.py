"""The PNG files of a report: an axis per suite of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from specvla_ros.benchmark.acceptance_figures import LIBERO_TOKENS
from specvla_ros.benchmark.episodes.paper.measured import MeasuredRun
from specvla_ros.benchmark.episodes.paper.published import published, settings, SOURCE, SUITES
from specvla_ros.benchmark.episodes.paper.roles import (
    AR,
    MeasuredDecoder,
    of_suite,
    RELAXED,
    ROLES,
    STRICT,
    swept,
)
from specvla_ros.benchmark.episodes.paper.sections import positions_of, recommended, shares_of
from specvla_ros.benchmark.plots import figure_file

# Okabe and Ito's, told apart by colour-blind readers; the paper's are the same ones, hatched.
_COLOURS = {AR: '#4d4d4d', STRICT: '#0072b2', RELAXED: '#e69f00'}
_PAPER: dict[str, Any] = {'facecolor': 'white', 'hatch': '////'}
_NOTE = f'hatched or hollow: {SOURCE}, its own machine and 7B model; bars: 95 % intervals'
_GREY = '#777777'
_MISSING = 'ours: not measured'


def write_main(path: Path, runs: Sequence[MeasuredRun]) -> None:
    """Draw Table 1: success, acceptance length and speed-up, the paper's bars beside ours."""
    with figure_file(path, (16, 5), (1, 1, 1)) as (figure, axes):
        for axis, (title, of_paper, of_ours) in zip(axes, (
                ('Episodes solved, %', lambda row: row.success, _success),
                ('Tokens a verification gains', lambda row: (None, *row.length), _length),
                ('Speed-up against ar', lambda row: (None, *row.speedup), _speed))):
            for place, suite in enumerate(SUITES):
                _main_bars(axis, place, of_paper(published()[suite]), of_suite(runs, suite),
                           of_ours)
            axis.set_xticks(range(len(SUITES)), [
                _short(suite) + ('' if of_suite(runs, suite) else '\n(ours: not\nmeasured)')
                for suite in SUITES], fontsize=9)
            axis.set_title(title)
            axis.margins(y=0.12)
        _legend(figure, ROLES)


def _main_bars(axis: Any, place: int, of_paper: Sequence[float | None],
               decoders: Sequence[MeasuredDecoder], of_ours: Any) -> None:
    width = 0.13
    for number, role in enumerate(ROLES):
        ours = next((decoder for decoder in decoders if decoder.role == role), None)
        at, value = place + (number - 1) * 2.1 * width, of_paper[number]
        if value is not None:
            axis.bar(at - width / 2, value, width, edgecolor=_COLOURS[role], **_PAPER)
        figure = None if ours is None else of_ours(ours)
        if figure is not None and figure['value'] is not None:
            axis.bar(at + width / 2, figure['value'], width, color=_COLOURS[role],
                     yerr=_reach(figure), capsize=2, error_kw={'elinewidth': 0.9})


def _success(decoder: MeasuredDecoder) -> dict[str, Any]:
    low, high = decoder.row['success_interval']
    return {'value': 100 * decoder.row['success_rate'], 'interval': [100 * low, 100 * high]}


def _length(decoder: MeasuredDecoder) -> dict[str, Any] | None:
    if decoder.role == AR:  # gains one token a pass, by definition
        return None
    known = decoder.row.get('acceptance') or {}
    return known.get('length') or {'value': decoder.row.get('acceptance_length'), 'interval': None}


def _speed(decoder: MeasuredDecoder) -> dict[str, Any] | None:
    if decoder.role == AR:
        return None
    return {'value': decoder.row.get('speedup_vs_ar'),
            'interval': decoder.row.get('speedup_interval')}


def _reach(figure: Mapping[str, Any]) -> list[list[float]] | None:
    """Return how far an interval reaches below and above its figure, as matplotlib takes it."""
    if figure['interval'] is None:
        return None
    low, high = figure['interval']
    return [[max(0.0, figure['value'] - low)], [max(0.0, high - figure['value'])]]


def write_distribution(path: Path, runs: Sequence[MeasuredRun]) -> None:
    """Draw Table 2: shares of verifications by accepted draft tokens."""
    with figure_file(path, (16, 4.6), (1,) * len(SUITES)) as (figure, axes):
        for axis, suite in zip(axes, SUITES):
            decoders = of_suite(runs, suite)
            for number, role in enumerate((STRICT, RELAXED)):
                of_paper = published()[suite].accepted[number]
                places = np.arange(len(of_paper)) + (number - 0.5) * 0.42
                axis.bar(places - 0.1, of_paper, 0.19, edgecolor=_COLOURS[role], **_PAPER)
                ours = next((one for one in decoders if one.role == role
                             and shares_of(one.row)), None)
                for n, share in enumerate(shares_of(ours.row) if ours else ()):
                    scaled = {'value': 100 * share['value'], 'interval': share['interval'] and [
                        100 * end for end in share['interval']]}
                    axis.bar(n + (number - 0.5) * 0.42 + 0.1, scaled['value'], 0.19,
                             color=_COLOURS[role], yerr=_reach(scaled), capsize=2,
                             error_kw={'elinewidth': 0.8})
            _frame(axis, suite, decoders, 'accepted draft tokens')
        axes[0].set_ylabel('share of verifications, %')
        _legend(figure, (STRICT, RELAXED))


def write_positions(path: Path, runs: Sequence[MeasuredRun]) -> None:
    """Draw Table 3: accepted draft tokens by the first token that may be accepted."""
    with figure_file(path, (16, 4.6), (1,) * len(SUITES)) as (figure, axes):
        for axis, suite in zip(axes, SUITES):
            decoders = of_suite(runs, suite)
            for role, mark in ((STRICT, 'o'), (RELAXED, 's')):
                ours = next((one for one in decoders if one.role == role), None)
                at = positions_of(ours.row) if ours else {}
                for name, each in at.items():
                    axis.errorbar(LIBERO_TOKENS.index(name), each['value'], yerr=_reach(each),
                                  fmt=mark, color=_COLOURS[role], capsize=2, markersize=6)
                axis.plot([LIBERO_TOKENS.index(name) for name in at],
                          [each['value'] for each in at.values()], color=_COLOURS[role],
                          linewidth=1, alpha=0.6)
            _frame(axis, suite, decoders, 'first token that may be accepted')
            axis.set_xticks(range(len(LIBERO_TOKENS)), LIBERO_TOKENS, fontsize=9, rotation=30)
            axis.set_xlim(-0.5, len(LIBERO_TOKENS) - 0.5)
            axis.set_ylim(-0.2, len(LIBERO_TOKENS) - 1)
        axes[0].set_ylabel('accepted draft tokens, mean')
        _legend(figure, (STRICT, RELAXED), paper=False)


def write_sweep(path: Path, runs: Sequence[MeasuredRun]) -> None:
    """Draw Figure 4: success and acceptance length over the threshold r."""
    with figure_file(path, (16, 4.8), (1,) * len(SUITES)) as (figure, axes):
        for axis, suite in zip(axes, SUITES):
            decoders = of_suite(runs, suite)
            points, reach = list(swept(decoders)), settings().threshold(suite)
            lengths = axis.twinx()
            lengths.spines['right'].set_visible(True)
            row = published()[suite]
            axis.plot((0, reach), row.success[1:], 'o', mfc='none', mec='#0072b2', markersize=8)
            lengths.plot((0, reach), row.length, 's', mfc='none', mec='#e69f00', markersize=8)
            _swept(axis, points, _success, 'o', '#0072b2')
            _swept(lengths, points, _length, 's', '#e69f00', beside=0.3)
            if (best := recommended(points)) is not None:
                axis.axvline(best.threshold or 0, color='black', linestyle=':', linewidth=1,
                             zorder=0)
            for baseline in (one for one in decoders if one.role == AR):
                axis.axhline(_success(baseline)['value'], color=_COLOURS[AR], linestyle='--',
                             linewidth=1)
            _frame(axis, suite, points, 'threshold r, bins')
            axis.set_xlim(-0.7, 15.7)
            axis.set_xticks(range(0, 16, 3))
            axis.set_ylim(-4, 104)
            lengths.set_ylim(1, 6.2)
        axes[0].set_ylabel('episodes solved, % (circles)', color='#0072b2')
        lengths.set_ylabel('tokens a verification gains (squares)', color='#b87800')
        figure.supxlabel(f'{_NOTE}; dashed: ar of ours; dotted: recommended threshold',
                         fontsize=9, color='#555555', x=0.01, ha='left')


def _swept(axis: Any, points: Sequence[MeasuredDecoder], of_ours: Any, mark: str, colour: str,
           beside: float = 0.0) -> None:
    """Draw figures over r; beside: bins to the right, lest two intervals hide each other."""
    for point in points:
        if (figure := of_ours(point)) is not None and figure['value'] is not None:
            axis.errorbar((point.threshold or 0) + beside, figure['value'], yerr=_reach(figure),
                          fmt=mark, color=colour, capsize=2, markersize=6)


def write_drafters(path: Path, figures: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """
    Draw the acceptance lengths of drafters.

    :param figures: by decoder, then by recipe
    """
    with figure_file(path, (3 + 2.6 * len(figures), 4.4), (1,)) as (figure, axes):
        recipes = list(dict.fromkeys(name for of in figures.values() for name in of))
        width = 0.8 / len(recipes)
        for number, recipe in enumerate(recipes):
            for place, of_decoder in enumerate(figures.values()):
                each = of_decoder.get(recipe)
                if each is None or each['value'] is None:
                    continue
                at = place + (number - (len(recipes) - 1) / 2) * width
                axes[0].bar(at, each['value'], 0.92 * width, yerr=_reach(each), capsize=2,
                            color=('#0072b2', '#e69f00', '#999999', '#009e73')[number % 4],
                            label=recipe if not place else None)
                axes[0].annotate(f'{each["value"]:.2f}', (at, 0), (0, 3), ha='center',
                                 textcoords='offset points', color='white', fontsize=9)
        axes[0].set_xticks(range(len(figures)), list(figures))
        axes[0].set_title('Tokens a verification gains on held-out frames')
        figure.legend(loc='outside lower center', ncols=len(recipes), frameon=False)


def _frame(axis: Any, suite: str, decoders: Sequence[MeasuredDecoder], label: str) -> None:
    axis.set_title(_short(suite))
    axis.set_xlabel(label)
    if not decoders:
        axis.text(0.5, 0.92, _MISSING, transform=axis.transAxes, ha='center',
                  color=_GREY)


def _short(suite: str) -> str:
    return suite.removeprefix('libero_').replace('10', 'long (10)')


def _legend(figure: Any, roles: Sequence[str], paper: bool = True) -> None:
    """Put one legend under all axes, and what hatching means."""
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=_COLOURS[role], label=f'ours, {role}') for role in roles]
    if paper:
        handles += [Patch(edgecolor=_COLOURS[role], label=f'paper, {role}', **_PAPER)
                    for role in roles]
    figure.legend(handles=handles, loc='outside lower center', ncols=len(handles), frameon=False)
    note = _NOTE if paper else 'bars: 95 % intervals over episodes'
    figure.suptitle(note, fontsize=9, color='#555555', x=0.01, ha='left', fontweight='normal')
