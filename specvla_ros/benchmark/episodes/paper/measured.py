"""What `specvla eval` has measured, read back for a report: its folders, or its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from specvla_ros.benchmark import report
from specvla_ros.benchmark.episodes.comparison import (
    comparison,
    outcomes,
    Place,
    success_against,
)
from specvla_ros.benchmark.episodes.paper.decoder_json import decoder_of
from specvla_ros.benchmark.episodes.paper.row_check import check_row
from specvla_ros.benchmark.records import EpisodeLog
from specvla_ros.benchmark.report import Row
from specvla_ros.benchmark.run_folder import differences, EPISODES
from specvla_ros.configuration import BASELINE, DecoderConfig
from specvla_ros.errors import SpecVLAError
from specvla_ros.typed_files import read_json, value_of

# Settings that make an evaluation another one than the paper's, with the option that sets them.
_NOT_THE_PAPERS = {'drift': '--drift', 'latency_s': '--latency-s', 'safety': '--safety'}
# Settings that two runs of one suite need not share: which episodes, decoders and comparisons.
_FREE = ('suites', 'tasks', 'trials', 'decoders', 'unnorm_keys', 'reference_every')


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """
    A run of `specvla eval`.

    identity: config, checkpoint, machine and versions; command: words, () where not known;
    decoders: by name; rows: figures by suite and decoder; outcomes: by decoder, which initial
    states it solved, {} where only finished figures are known.
    """

    path: Path
    identity: dict[str, Any]
    command: tuple[str, ...]
    decoders: dict[str, DecoderConfig]
    rows: dict[tuple[str, str], Row]
    outcomes: dict[str, dict[Place, bool]] = field(default_factory=dict)

    @property
    def suites(self) -> tuple[str, ...]:
        """Suites that it has figures of."""
        return tuple(dict.fromkeys(suite for suite, _ in self.rows))


def read_run(path: Path) -> MeasuredRun:
    """
    Read a run's folder, or the file that `--json` wrote.

    A file holds finished figures: without `--compare` there are no intervals of times in it.

    :raises SpecVLAError: it is neither, is damaged, or was played otherwise than the paper does
    """
    if path.is_dir():
        run = _read_folder(path)
    elif path.is_file():
        run = _read_document(path)
    else:
        raise SpecVLAError(f'--run {path}: there is no such folder or file; give the folder of '
                           '`specvla eval`, or what its --json wrote')
    _check_world(run)
    if not run.rows:
        raise SpecVLAError(f'--run {path}: no episode is finished; the same `specvla eval` goes '
                           'on from there')
    return run


def check_together(runs: Sequence[MeasuredRun]) -> None:
    """
    Refuse runs whose figures would stand in one table but can't be compared.

    Runs of different suites may be of different weights and machines: the report says so.

    :raises SpecVLAError: two runs of a suite differ in weights, machine or settings, or have a
        decoder of one name and different settings; or a run is given twice
    """
    for number, run in enumerate(runs):
        for other in runs[:number]:
            shared = [suite for suite in run.suites if suite in other.suites]
            if run.path.resolve() == other.path.resolve():
                raise SpecVLAError(f'--run {run.path} is given twice; give each once')
            if shared:
                _check_same(shared[0], other, run)


def paired(runs: Sequence[MeasuredRun]) -> list[MeasuredRun]:
    """
    Return runs with success held against `ar`'s also where `ar` was played in another of them.

    A stored initial state is the same in all; times are not compared over runs. Of several other
    runs the first one with `ar` on the suite counts, as in the tables.
    """
    made = []
    for run in runs:
        rows = {}
        for (suite, name), row in run.rows.items():
            others = (other.outcomes[BASELINE] for other in runs
                      if BASELINE in other.outcomes and (suite, BASELINE) in other.rows)
            known = name == BASELINE or 'success_vs_ar' in row
            rows[suite, name] = row if known else row | success_against(
                run.outcomes.get(name, {}), next(others, {}))
        made.append(replace(run, rows=rows))
    return made


def _check_same(suite: str, one: MeasuredRun, other: MeasuredRun) -> None:
    first, second = _comparable(one), _comparable(other)
    if found := differences(first | {'checkpoint': _weights(first, second)},
                            second | {'checkpoint': _weights(second, first)}):
        raise SpecVLAError(f'--run {other.path}: has {suite} as {one.path} has, with another '
                           f'{found}; give runs of the same weights, machine and settings, or '
                           'make a report of each')
    for name in one.decoders.keys() & other.decoders.keys():
        if one.decoders[name] != other.decoders[name]:
            raise SpecVLAError(f'--run {other.path}: its decoder {name} has other settings than '
                               f'that of {one.path}; give one of them')


def _comparable(run: MeasuredRun) -> dict[str, Any]:
    identity = run.identity
    config = {name: value for name, value in identity['config'].items() if name not in _FREE}
    weights = identity['checkpoint']
    if run.decoders.keys() == {BASELINE}:  # the drafters beside it were not used
        weights = {name: value for name, value in weights.items()
                   if name == 'target_sha256' or not name.endswith('_sha256')}
    return {'config': config, 'checkpoint': weights,
            **{part: identity[part] for part in ('machine', 'versions')}}


def _weights(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights of one that another has as well: a run without a drafter used none."""
    return {name: value for name, value in one['checkpoint'].items()
            if value is not None and other['checkpoint'].get(name) is not None}


def _read_folder(folder: Path) -> MeasuredRun:
    if not (folder / 'run.json').is_file():
        raise SpecVLAError(f'--run {folder}: holds no run.json, so it is no run of '
                           '`specvla eval`; give the folder that its --out named')
    identity = _identity(folder / 'run.json', read_json(folder / 'run.json'))
    decoders = _decoders(folder / 'run.json', identity)
    episodes = EpisodeLog(folder / EPISODES).episodes
    figures = comparison(episodes, decoders)
    command: tuple[str, ...] = ()
    if (folder / 'report.json').is_file():
        command = _command(read_json(folder / 'report.json'))
    rows = _rows(folder, report.rows(episodes, list(decoders)), figures)
    return MeasuredRun(folder, identity, command, decoders, rows, {
        name: outcomes(one for one in episodes if one.decoder == name) for name in decoders})


def _read_document(path: Path) -> MeasuredRun:
    document = read_json(path)
    identity = _identity(path, document)
    rows = document.get('rows')
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SpecVLAError(f'--run {path}: has no list of rows; give what --json of '
                           '`specvla eval` wrote')
    return MeasuredRun(path, identity, _command(document), _decoders(path, identity),
                       _rows(path, rows, document.get('comparison') or {}))


def _identity(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    parts = ('config', 'checkpoint', 'machine', 'versions')
    for part in parts:
        if not isinstance(content.get(part), dict):
            raise SpecVLAError(f'--run {path}: has no {part}; give a run of `specvla eval`')
    value_of(tuple[str, ...], content['machine'].get('gpus', []), f'--run {path}: machine.gpus')
    return {part: content[part] for part in parts}


def _decoders(path: Path, identity: Mapping[str, Any]) -> dict[str, DecoderConfig]:
    found = identity['config'].get('decoders')
    if not isinstance(found, dict) or not found:
        raise SpecVLAError(f'--run {path}: config names no decoders; give a run of `specvla eval`')
    return {name: decoder_of(one, f'--run {path}: the decoder {name}')
            for name, one in found.items()}


def _command(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the words of a command, the program by its name."""
    words = document.get('command')
    return ('specvla', *map(str, words[1:])) if isinstance(words, list) and words else ()


def _rows(path: Path, rows: Sequence[Row], compared: Mapping[str, Any]
          ) -> dict[tuple[str, str], Row]:
    """Join the figures of all tasks with what the comparison says of them."""
    made: dict[tuple[str, str], Row] = {}
    try:
        for row in (*rows, *compared.get('rows', ())):
            if row['subset'] == 'all' and row.get('task') is None and row['episodes']:
                made.setdefault((row['suite'], row['decoder']), {}).update(row)
    except (KeyError, TypeError, AttributeError) as error:
        raise SpecVLAError(f'--run {path}: a row is none of `specvla eval` ({error})') from error
    for (suite, decoder), row in made.items():
        check_row(row, f'--run {path}: {suite}, {decoder}')
    return made


def _check_world(run: MeasuredRun) -> None:
    """Refuse what is not the paper's evaluation: its world stands still, its actions are late."""
    config = run.identity['config']
    for name, option in _NOT_THE_PAPERS.items():
        if config.get(name):
            raise SpecVLAError(f"--run {run.path}: was played with {option}, as the paper's "
                               'evaluation was not; give a run without it')
