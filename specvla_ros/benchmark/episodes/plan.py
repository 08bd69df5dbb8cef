"""A checked evaluation: its arguments, the order of play, and the folder of the run."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
import dataclasses
from dataclasses import dataclass
import json
import math
from pathlib import Path
from typing import Annotated, Any

import tyro

from specvla_ros import files
from specvla_ros.benchmark import checks, machine, preflight, run_folder
from specvla_ros.benchmark.arguments import PolicyArgs
from specvla_ros.benchmark.episodes.envelope import settings_for_json
from specvla_ros.benchmark.episodes.latency import Latency
from specvla_ros.benchmark.episodes.trial import Trial
from specvla_ros.benchmark.records import EpisodeLog, EpisodeRecord
from specvla_ros.configuration import DecoderConfig
from specvla_ros.data_sets import load_dataset
from specvla_ros.errors import SpecVLAError
from specvla_ros.execution import Execution
from specvla_ros.libero.drift import Drift, Drifting
from specvla_ros.safety_settings import SafetySettings
from specvla_ros.unused_options import refuse_unused

_OF_DRIFT = 'drift_object', 'drift_span'  # options that say how something drifts


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeArgs(PolicyArgs):
    """Which episodes are played, and by which decoders."""

    suite: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """LIBERO suite; give it again for more than one. Default: one that the checkpoint was trained
    on, libero_object first."""
    tasks: tuple[int, ...] = ()
    """Task numbers, e.g. `--tasks 0 3`. Default: all of the suite."""
    trials: int = 5
    """Initial states per task: the stored states 0 … trials − 1 (LIBERO stores 50)."""
    decoder: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Preset of config/decoders or a YAML file; give it again for more. Default: ar, auto and
    auto_relaxed. `ar` is the baseline that speed-ups and errors are against."""
    workers: int = 1
    """Workers that play episodes, each with a simulator and a model. More finish earlier;
    times per action are clean with one."""
    threads: int | None = None
    """Torch threads per worker. Default: the cores divided by the workers."""
    max_steps: int | None = None
    """Control steps per episode at most. Default: the suite's own limit, as published results
    have it."""
    ray: str | None = None
    """Play on a Ray cluster: HOST:PORT of its head, `auto` for the one that this machine is part
    of, `local` for this machine alone. Default: processes of this machine."""
    safety: str | None = None
    """Play under an envelope: safety or safety_arm (files of config/), or a YAML file. The decoder
    chooses among the bins it allows, and what is executed fits it, as in the node. Default:
    none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalArgs(EpisodeArgs):
    """LIBERO success, acceptance length and time per action, decoders side by side."""

    reference_every: int = 10
    """Run `ar` beside the other decoders on every Nth action, for their error on the same
    observation; 0 = never. Its time isn't counted."""
    execute_steps: int | None = None
    """Control steps of an action that are executed before the next one: 1 to --chunk. Default:
    what the checkpoint recommends, else all."""
    latency_s: float | str = 0.0
    """Seconds that pass in the simulation before an action is there, in whole control periods:
    steps that are over by then are skipped, and older actions go on meanwhile. FIRST+PASS, e.g.
    0.05+0.02: seconds of the image and the first pass, and of each further pass that the action
    takes. `measured`: what each action takes on this machine."""
    drift: float | None = None
    """Let an object of the task drift over the table at so many cm/s, in a direction of its own
    in each initial state. Default: the world stands still."""
    drift_object: Drifting | None = None
    """What drifts: the object to be taken (target), or where it is to be put (basket). Default:
    target."""
    drift_span: float | None = None
    """How far it drifts from where it began, along x and along y, before it turns back, cm.
    Default: to the end of the robot's reach."""
    compare: bool = False
    """Also hold the decoders against each other: a table and compare.png, success against time per
    action with 95 % intervals, `ar` the reference. A finished run is not played again for it."""
    out: Path | None = None
    """Folder of the run. Default: runs/eval-<hash of the configuration>, so that the same command
    continues an interrupted run."""
    json: Path | None = None
    """Also write the report here, for machines."""


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """
    A checked evaluation: the episodes, the decoders, the weights and the folder of the run.

    unnorm_keys: whose statistics turn tokens into motion, by suite. execution: how many steps of
    an action are executed, and how late. latency: how late each action is, None = as `execution`
    says. drift: of an object, None = the world stands still. ray: cluster that plays, None = this
    machine. weights: folders that are loaded.
    """

    suites: tuple[str, ...]
    unnorm_keys: dict[str, str]
    tasks: dict[str, tuple[int, ...]]
    trials: int
    decoders: dict[str, DecoderConfig]
    config: dict[str, Any]
    checkpoint: dict[str, str | None]
    folder: Path
    execution: Execution
    latency: Latency | None = None
    drift: Drift | None = None
    ray: str | None = None
    weights: tuple[Path, ...] = ()

    def identity(self) -> dict[str, Any]:
        """
        Return the settings that must stay the same to continue a run.

        More or fewer trials of the same tasks are the same run.
        """
        config = {name: value for name, value in self.config.items() if name != 'trials'}
        return {'config': config, 'checkpoint': self.checkpoint,
                'machine': machine.machine(), 'versions': machine.versions()}

    def places(self) -> list[tuple[str, int, int]]:
        """Return all (suite, task, state) in the order of play."""
        return [(suite, task, state) for suite in self.suites for task in self.tasks[suite]
                for state in range(self.trials)]

    @property
    def n_episodes(self) -> int:
        """How many episodes there are in all, over all decoders."""
        return len(self.places()) * len(self.decoders)

    def trials_left(self, finished: Sequence[EpisodeRecord]) -> list[Trial]:
        """Return the trials that are left. The order of the decoders rotates with the state."""
        done = {episode.key for episode in finished}
        names = tuple(self.decoders)
        trials: list[Trial] = []
        for place in self.places():
            turn = (place[1] + place[2]) % len(names)
            order = names[turn:] + names[:turn]
            trials += [Trial(*place, name) for name in order if (*place, name) not in done]
        return trials

    def select(self, episodes: Sequence[EpisodeRecord]) -> list[EpisodeRecord]:
        """Return those of the episodes that belong to the plan."""
        places = set(self.places())
        return [episode for episode in episodes
                if (episode.suite, episode.task, episode.state) in places]


def make_plan(args: EvalArgs) -> EvaluationPlan:
    """
    Check every argument before anything heavy is loaded.

    :raises ValueError: what is wrong and what is allowed
    """
    files.check_json_path(args.json)
    if args.drift is not None:
        refuse_still(args, (args.drift,))
    names = args.suite or (preflight.suite_of(args, ''),)
    tasks = {name: checks.check_tasks(name, args.tasks) for name in dict.fromkeys(names)}
    decoders = checks.check_decoders(args.decoder or checks.DECODERS)
    checks.check_at_least('--workers', args.workers, 1)
    checks.check_at_least('--threads', args.threads, 1)
    checks.check_at_least('--max-steps', args.max_steps, 1)
    checks.check_at_least('--reference-every', args.reference_every, 0)
    trials = checks.check_states(args.trials)
    keys = preflight.check_policy(args, decoders.values())
    unnorm_keys = preflight.keys_of_suites(tuple(tasks), keys, args.unnorm_key)
    chunk, _ = preflight.execute_steps(args, args.execute_steps)
    decoders = {name: config.of_chunk(chunk) for name, config in decoders.items()}
    threads = args.threads or max(1, machine.available_cores() // args.workers)
    config = {
        'suites': list(tasks), 'tasks': {name: list(ids) for name, ids in tasks.items()},
        'trials': trials,
        # As it is read back: JSON has no tuples.
        'decoders': json.loads(json.dumps({
            name: dataclasses.asdict(decoder) for name, decoder in decoders.items()})),
        'max_steps': args.max_steps, 'reference_every': args.reference_every,
        'unnorm_keys': unnorm_keys, **args.source(next(iter(decoders.values()))).facts,
        'workers': args.workers, 'threads': threads,
    }
    if args.ray is not None:  # no key otherwise, so that runs without one go on
        config['ray'] = True  # times are those of other machines
    if args.safety is not None:  # no key otherwise, so that runs without one go on
        config['safety'] = settings_for_json(read_safety(args.safety))
    checkpoint = machine.checkpoint_sha256(args.checkpoint, args.drafter)
    target, drafters = machine.checkpoint_folders(args.checkpoint, args.drafter)
    plan = under(args, EvaluationPlan(tuple(tasks), unnorm_keys, tasks, trials, decoders, config,
                            checkpoint, folder=args.out or Path(), execution=Execution(),
                            ray=args.ray, weights=(target, *drafters.values())))
    if args.out is None:
        folder = run_folder.default_folder('eval', plan.identity())
        plan = dataclasses.replace(plan, folder=folder)
    return plan


def under(args: EvalArgs, plan: EvaluationPlan) -> EvaluationPlan:
    """
    Return the same plan with the E, the latency, the drift and the folder of `args`.

    :raises ValueError: what is wrong and what is allowed
    """
    chunk, execute_steps = preflight.execute_steps(args, args.execute_steps)
    period = load_dataset(next(iter(plan.unnorm_keys.values()))).period_s
    latency, drift = Latency.read(args.latency_s), drift_of(args)
    config = plan.config | {
        # Of an action of one step, at once, there is nothing to say.
        'execute_steps': execute_steps if chunk > 1 else None, 'latency_s': latency.said}
    if drift is not None:  # no key otherwise, so that runs without one go on
        config['drift'] = {'cm_per_s': args.drift, 'object': drift.body,
                           'span_cm': args.drift_span}
    return dataclasses.replace(
        plan, config=config, folder=args.out or Path(), drift=drift,
        execution=Execution.late(execute_steps, latency.fixed_s or 0.0, period),
        latency=latency if latency.fixed_s is None else None)


def drift_of(args: EvalArgs) -> Drift | None:
    """
    Return how the world moves; None where it stands still.

    :raises SpecVLAError: a drift that can't be
    """
    if args.drift is None:
        refuse_unused(args, _OF_DRIFT, 'the world stands still without --drift CM_PER_S')
        return None
    span = math.inf if args.drift_span is None else args.drift_span / 100
    return Drift(args.drift / 100, args.drift_object or 'target', span)


def refuse_still(args: EpisodeArgs, speeds: Sequence[float]) -> None:
    """
    Refuse options that say how something drifts where nothing does.

    :param args: of `eval` or of `drift`
    :param speeds: all that are played, cm/s
    :raises SpecVLAError: such an option is given
    """
    if not any(speeds):
        refuse_unused(args, _OF_DRIFT, 'the world stands still at --drift 0')


def read_safety(name: str) -> SafetySettings:
    """
    Read the envelope that `--safety` names.

    :raises SpecVLAError: no such file, or what can't be in one
    """
    try:
        return SafetySettings.read(name)
    except OSError as error:
        raise SpecVLAError(f'--safety {name}: {error.strerror or error}; give safety, safety_arm '
                           'or the path of a YAML file') from error


def open_run(plan: EvaluationPlan) -> AbstractContextManager[EpisodeLog]:
    """Open the plan's folder; see `run_folder.open_run`."""
    return run_folder.open_run(plan.folder, plan.identity(), EpisodeLog)
