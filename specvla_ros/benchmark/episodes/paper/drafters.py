"""Drafters of several recipes side by side: same target, same held-out frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specvla_ros.benchmark.bootstrap import difference_interval, ratio_intervals
from specvla_ros.benchmark.episodes.paper.contents import (
    Cell,
    interval_text,
    line,
    ReportTable,
    Section,
    TableLine,
)
from specvla_ros.drafter_verdict import DecodedEpisode, DrafterVerdict
from specvla_ros.errors import SpecVLAError

_CONSTANT = ' constant'  # behind a decoder's name: its drafter always says the same


def read_drafters(folders: Sequence[Path]) -> list[DrafterVerdict]:
    """
    Read what several trainings ended with.

    :raises SpecVLAError: one is missing or damaged, or two can't be compared: another target,
        other held-out frames, other decoders
    """
    verdicts = [DrafterVerdict.read(folder) for folder in folders]
    for folder, verdict in zip(folders, verdicts):
        for what in ('target_sha256', 'suite', 'device'):
            mine, first = getattr(verdict, what), getattr(verdicts[0], what)
            if mine != first:
                raise SpecVLAError(f'--training {folder}: has {what} {mine[:12]}, that of '
                                   f'{folders[0]} is {first[:12]}; give drafters of one target, '
                                   'decoded alike')
        if _frames(verdict) != _frames(verdicts[0]):
            raise SpecVLAError(f'--training {folder}: was decoded on other held-out frames, or by '
                               f'other decoders, than {folders[0]}; train both on the same data '
                               'with the same --holdout and --decode-frames')
        if verdict.drafter_sha256 in [other.drafter_sha256 for other in verdicts
                                      if other is not verdict]:
            raise SpecVLAError(f'--training {folder}: is the same drafter as another one given; '
                               'give each once')
    return verdicts


def _frames(verdict: DrafterVerdict) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    return {name: [(episode.name, episode.frames) for episode in episodes]
            for name, episodes in verdict.episodes.items()}


def drafters_section(verdicts: Sequence[DrafterVerdict]) -> Section:
    """Return the acceptance lengths of drafters by decoder; the first one is the reference."""
    lines: list[TableLine] = []
    first = verdicts[0]
    for decoder in [name for name in first.episodes if not name.endswith(_CONSTANT)]:
        for verdict in verdicts:
            lines.append(_line(decoder, verdict, first))
        if decoder + _CONSTANT in first.episodes:
            lines.append(line('ours', decoder, 'a constant action', length_cell(
                first.episodes[decoder + _CONSTANT]), '', '', ''))
    episodes = next(iter(first.episodes.values()))
    return Section('Drafters by recipe', (
        f'EAGLE drafters of one target ({first.target_sha256[:12]}, {first.suite}), taught by the '
        'same frames with the settings of each recipe (`paper`: its Table 4), and decoded on the '
        f'same {sum(len(episode.frames) for episode in episodes)} frames of {len(episodes)} '
        f'held-out episodes ({first.device}). Length: tokens a verification gains, bonus token '
        'included; intervals draw episodes, the same ones for a difference. `wide tree`: the '
        'tree of the paper (top_k 8, 50 nodes), which presets have on a GPU.'),
        ReportTable(('decoder', 'recipe', 'length', f'less that of {first.recipe}', 'trained',
                     'drafter, sha256'), tuple(lines)), 'drafters.png')


def _line(decoder: str, verdict: DrafterVerdict, first: DrafterVerdict) -> TableLine:
    episodes, said = verdict.episodes[decoder], verdict.trained
    difference = Cell('')
    if verdict is not first:
        own, other = _sums(episodes), _sums(first.episodes[decoder])
        value = own[:, 0].sum() / own[:, 1].sum() - other[:, 0].sum() / other[:, 1].sum()
        difference = Cell(f'{value:+.2f}', interval_text(difference_interval(own, other), '+.2f'))
    trained = Cell(f'{said["epoch"]:.1f} epochs', (
        f'{said["step"]:.0f} steps of {said["batch"]:.0f}, {said["frames"]:,.0f} frames, '
        f'{said["minutes"]:.1f} min, rate {said["learning_rate"]:g}'))
    return line('ours', decoder, verdict.recipe, length_cell(episodes), difference, trained,
                verdict.drafter_sha256[:12])


def length_cell(episodes: Sequence[DecodedEpisode]) -> Cell:
    """Return the acceptance length over held-out episodes."""
    figure = length_figure(episodes)
    if figure['value'] is None:
        return Cell('–')
    return Cell(f'{figure["value"]:.2f}', f'{interval_text(figure["interval"], ".2f")}, '
                f'n {figure["n"]:,}')


def length_figure(episodes: Sequence[DecodedEpisode]) -> dict[str, Any]:
    """Return value, interval over episodes and n, the verifications."""
    sums = _sums(episodes)
    gained, passes = sums.sum(axis=0)
    return {'value': float(gained / passes) if passes else None, 'n': int(passes),
            'interval': ratio_intervals(sums[:, :1], sums[:, 1:])[0]}


def _sums(episodes: Sequence[DecodedEpisode]) -> NDArray[np.float64]:
    """Return tokens gained and verifications of each episode, [episodes, 2]."""
    return np.array([(sum(n * count for n, count in enumerate(episode.gained)),
                      sum(episode.gained)) for episode in episodes], float)


def length_figures(verdicts: Sequence[DrafterVerdict]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the acceptance lengths to draw: by decoder, then by recipe."""
    first, made = verdicts[0], {}
    for decoder in [name for name in first.episodes if not name.endswith(_CONSTANT)]:
        made[decoder] = {verdict.recipe: length_figure(verdict.episodes[decoder])
                         for verdict in verdicts}
        if decoder + _CONSTANT in first.episodes:
            made[decoder]['a constant action'] = length_figure(first.episodes[decoder + _CONSTANT])
    return made
