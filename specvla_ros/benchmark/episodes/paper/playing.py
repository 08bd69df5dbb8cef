"""What the runs of a report lack, as evaluations: `specvla eval` plays them, resumably."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
from dataclasses import fields
from pathlib import Path
import tempfile
from typing import Any

import yaml

from specvla_ros.benchmark import preflight
from specvla_ros.benchmark.episodes.paper.arguments import ReportArgs
from specvla_ros.benchmark.episodes.paper.measured import MeasuredRun
from specvla_ros.benchmark.episodes.paper.published import settings, SUITES
from specvla_ros.benchmark.episodes.paper.roles import AR, of_suite
from specvla_ros.benchmark.episodes.plan import EpisodeArgs, EvalArgs, EvaluationPlan, make_plan
from specvla_ros.config_folder import config_folder
from specvla_ros.configuration import load_preset
from specvla_ros.libero import suites
from specvla_ros.typed_files import read_yaml

FOLDER = 'play-'  # and the suite: within the report's folder


def missing_plans(args: ReportArgs, runs: Sequence[MeasuredRun], folder: Path
                  ) -> list[tuple[EvalArgs, EvaluationPlan]]:
    """
    Return an evaluation for each suite that lacks a decoder, `ar` in each: it is the baseline.

    :param folder: of the report
    :raises ValueError: what is wrong and what is allowed
    """
    shared = {field.name: getattr(args, field.name) for field in fields(EpisodeArgs)}
    made = []
    for suite in args.suite or suites_of(args):
        with _presets(args, suite, runs) as decoders:
            if len(decoders) < 2 and of_suite(runs, suite):
                continue
            own = EvalArgs(**shared | {'suite': (suite,), 'decoder': decoders},
                           reference_every=0, out=folder / f'{FOLDER}{suite}')
            made.append((own, make_plan(own)))
    return made


def suites_of(args: ReportArgs) -> tuple[str, ...]:
    """
    Return the paper's suites that a checkpoint has statistics of.

    :raises ValueError, FileNotFoundError: it can't be read
    """
    own = suites.suites_of(preflight.statistics_of(args))
    return tuple(suite for suite in SUITES if suite in own)


@contextlib.contextmanager
def _presets(args: ReportArgs, suite: str, runs: Sequence[MeasuredRun]
             ) -> Iterator[tuple[str, ...]]:
    """Give `ar` and what is not measured of a suite: names of presets, and files for a moment."""
    there = {decoder.threshold for decoder in of_suite(runs, suite)}
    named = {decoder.name for decoder in of_suite(runs, suite)}
    reaches = dict.fromkeys((0, settings().threshold(suite), *args.thresholds))
    with tempfile.TemporaryDirectory() as place:
        wanted = [AR, *(_preset(args, reach, Path(place)) for reach in reaches
                        if reach not in there)]
        wanted += [name for name in args.decoder if load_preset(name).name not in named]
        yield tuple(dict.fromkeys(wanted))


def _preset(args: ReportArgs, reach: int, place: Path) -> str:
    """Return the preset of EAGLE within so many bins: a name, or a file made of the preset."""
    name = 'relaxed' if reach else 'strict'
    content = read_yaml(config_folder() / 'decoders' / f'{name}.yaml')
    made = replace_tree(content) if args.tree == 'paper' else content
    if reach and reach != content['rule']['r']:
        made = made | {'rule': content['rule'] | {'r': reach}}
        name = f'relaxed_r{reach}'
    if made is content:
        return name
    path = place / f'{name}{"_tree" if args.tree == "paper" else ""}.yaml'
    path.write_text(yaml.safe_dump(made), encoding='utf-8')
    return str(path)


def replace_tree(content: dict[str, Any]) -> dict[str, Any]:
    """Return a preset of EAGLE with the paper's tree on every device."""
    table = settings()
    tree = {'top_k': table.top_k, 'depth': table.tree_depth, 'max_nodes': table.max_nodes}
    return content | {'drafter': {'name': content['drafter']['name'], 'cpu': tree, 'cuda': tree}}


def identity_run(plan: EvaluationPlan) -> MeasuredRun:
    """Return a plan as a run without episodes, to be held against the runs that were given."""
    rows: dict[tuple[str, str], Any] = {
        (suite, name): {} for suite in plan.suites for name in plan.decoders}
    return MeasuredRun(plan.folder, plan.identity(), (), plan.decoders, rows)
