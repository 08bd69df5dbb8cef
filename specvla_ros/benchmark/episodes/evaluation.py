"""
`specvla eval`: LIBERO success, acceptance length and time per action, decoders side by side.

Every initial state is played under all decoders one after the other, in an order that rotates from
state to state, on the same weights: other load on the machine hits them alike. Finished
episodes are kept in `episodes.jsonl`, so an interrupted run goes on where it stopped.
"""

from collections.abc import Callable, Sequence
import contextlib
import os
from pathlib import Path
import sys
import time

from rich.console import Console

from specvla_ros import files
from specvla_ros.benchmark import plots, report, report_tables
from specvla_ros.benchmark.episodes.comparison import comparison
from specvla_ros.benchmark.episodes.comparison_report import print_comparison, write_comparison
from specvla_ros.benchmark.episodes.episode_progress import EpisodeProgress
from specvla_ros.benchmark.episodes.plan import (
    EvalArgs,
    EvaluationPlan,
    make_plan,
    open_run,
    read_safety,
)
from specvla_ros.benchmark.episodes.player import LiberoPlayer
from specvla_ros.benchmark.episodes.rollout import RolloutConfig
from specvla_ros.benchmark.interrupt import INTERRUPTED, sigterm_as_interrupt
from specvla_ros.benchmark.records import EpisodeLog, EpisodeRecord
from specvla_ros.benchmark.report_files import leave
from specvla_ros.errors import counted
from specvla_ros.libero.simulator_check import check_simulator
from specvla_ros.workforce.crew import Crew, Done, GivenUp, News
from specvla_ros.workforce.where import workers_at
from specvla_ros.workforce.worker import MakeWorker, WorkersDied


def make_report(plan: EvaluationPlan, episodes: Sequence[EpisodeRecord], command: Sequence[str]
                ) -> report.Report:
    """Return the report of the plan's episodes that are finished."""
    rows = report.rows(plan.select(episodes), list(plan.decoders))
    return report.report(command, plan.config, plan.checkpoint, rows, plan.decoders)


def player_of(args: EvalArgs, plan: EvaluationPlan) -> LiberoPlayer:
    """Return what each worker needs."""
    return LiberoPlayer(
        source=args.source(next(iter(plan.decoders.values()))).absolute(),
        decoders=plan.decoders, unnorm_keys=plan.unnorm_keys,
        threads=plan.config['threads'],
        rollout=RolloutConfig(
            args.max_steps, args.reference_every, plan.execution,
            None if args.safety is None else read_safety(args.safety), plan.latency,
            frozenset(name for name, config in plan.decoders.items() if config.by_step)),
        drift=plan.drift)


class Unfinished(Exception):
    """A run ended early, and the user was told why: the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def run(args: EvalArgs, make_player: MakeWorker | None = None) -> int:
    """
    Evaluate, print the tables and write report.json and plot.png.

    :param make_player: makes the player in each worker; the default is LIBERO with the policy
    :returns: the exit code
    :raises ValueError: bad input, in one line
    """
    plan, console = make_plan(args), Console()
    try:
        episodes = finish(plan, make_player or player_of(args, plan), console)
    except Unfinished as end:
        return end.code
    document = make_report(plan, episodes, sys.argv)
    if args.compare:
        document['comparison'] = comparison(episodes, plan.decoders)
    report_tables.print_tables(document, console)
    if args.compare:
        print_comparison(document, console)
    leave(document, plan.folder, args.json, console, _drawings(document))
    return 0


def finish(plan: EvaluationPlan, make_player: MakeWorker, console: Console
           ) -> list[EpisodeRecord]:
    """
    Play what is missing of a plan, and return all of its episodes.

    :raises ValueError: bad input, in one line
    :raises Unfinished: the user stopped it, or no worker is left
    """
    with open_run(plan) as log:
        missing = plan.n_episodes - len(plan.select(log.episodes))
        if missing and isinstance(make_player, LiberoPlayer):
            check_simulator(plan.tasks)
        if missing < plan.n_episodes:
            console.print(f'{plan.n_episodes - missing} of {plan.n_episodes} episodes are in '
                          f'{plan.folder} already')
        started = time.monotonic()
        try:
            with sigterm_as_interrupt():
                _play(plan, log, make_player, console)
        except KeyboardInterrupt:
            console.print(f'interrupted: {len(plan.select(log.episodes))} of {plan.n_episodes} '
                          f'episodes are kept in {plan.folder}; the same command goes on from '
                          'there')
            raise Unfinished(INTERRUPTED) from None
        except WorkersDied as error:
            Console(stderr=True).print(f'error: {error}', markup=False, highlight=False)
            raise Unfinished(1) from error
        if missing:
            console.print(f'{counted(missing, "episode")} in {time.monotonic() - started:.0f} s')
        return plan.select(log.episodes)


def _play(plan: EvaluationPlan, log: EpisodeLog, make_player: MakeWorker, console: Console
          ) -> None:
    """Play what is missing and record it."""
    # Read by OpenMP and BLAS when they are loaded, in the workers.
    os.environ['OMP_NUM_THREADS'] = str(plan.config['threads'])
    employer = workers_at(
        plan.ray, make_player, threads=plan.config['threads'], device=plan.config['device'],
        folders=plan.weights, logs=plan.folder)
    crew = Crew(employer, plan.config['workers'], logs=plan.folder)
    with EpisodeProgress(console, plan.n_episodes, plan.select(log.episodes),
                         list(plan.decoders)) as progress:
        with contextlib.closing(crew.run(plan.trials_left(log.episodes))) as events:
            for event in events:
                if isinstance(event, News):
                    progress.playing(event.said)
                    continue
                episode = event.result if isinstance(event, Done) else _crashed(event)
                with files.writing(log.path):
                    log.append(episode)
                progress.finished(episode)


def _crashed(event: GivenUp) -> EpisodeRecord:
    """Return the record of an episode that took several workers with it: no failure to solve."""
    trial, playing = event.job, event.said
    return EpisodeRecord(
        trial.suite, trial.task, trial.state, trial.decoder, success=False,
        steps=0 if playing is None else playing.steps, crash=event.reason)


def _drawings(document: report.Report) -> dict[str, Callable[[Path], None]]:
    """Return what draws the pictures of a report, by their names."""
    drawings: dict[str, Callable[[Path], None]] = {
        'plot.png': lambda path: plots.write_plot(path, document)}
    if 'comparison' in document:
        drawings['compare.png'] = lambda path: write_comparison(path, document)
    return drawings
