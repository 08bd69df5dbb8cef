"""A checked calibration: its arguments, what is looked at, what is promised, where it is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from dataclasses import dataclass
import math
from pathlib import Path
from typing import Annotated, Any

import tyro

from specvla_ros import files
from specvla_ros.benchmark import checks, machine, preflight, run_folder
from specvla_ros.benchmark.arguments import PolicyArgs
from specvla_ros.benchmark.calibration import control, family
from specvla_ros.benchmark.calibration.sources import (
    LiberoEpisodes,
    RecordedBag,
    RecordedBags,
    UnitSource,
)
from specvla_ros.benchmark.calibration.units import DeviationLimits, Promise
from specvla_ros.configuration import decoder_name, DecoderConfig
from specvla_ros.data_sets import check_key
from specvla_ros.errors import SpecVLAError
from specvla_ros.libero.simulator_check import check_simulator
from specvla_ros.unused_options import refuse_unused
from specvla_ros.writable import check_writable

SCALES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
LEAST_SPLITS = 20
MOST_DELTA = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateArgs(PolicyArgs):
    """Find the loosest thresholds that keep a promise, and write them as a preset."""

    mm: float = 10.0
    """Promised: a control step's translation is at most this many mm from the target's own."""
    deg: float = 5.0
    """Promised: a control step's rotation is at most this many degrees from the target's own."""
    gripper: float = 0.5
    """Promised: the gripper is at most this share of its way from the target's own, 0 to 1."""
    delta: float = 0.1
    """Promised: share of the episodes in which an action may be farther off, above 0, at most
    0.5."""
    confidence: float = 0.99
    """Share of all calibrations that keep the promise, 0 to below 1. 0: conformal risk control
    alone, which keeps it in the mean over calibrations; 0.99: at most delta of as many further
    episodes are off, in 19 of 20 calibrations."""
    promise: Promise = 'episodes'
    """Of what delta is a share: `episodes` with an action farther off, or an episode's `actions`,
    the mean."""
    decoder: str = 'tolerance'
    """Preset of config/decoders or a YAML file with the rule tolerance or bins: its drafter, and
    the thresholds that a scale of 1 stands for."""
    scales: tuple[float, ...] = SCALES
    """Scales to choose from, rising, each a factor of the preset's thresholds. 0 is exact."""
    bag: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """rosbag2 folder, or a single .mcap or .db3 file, of your robot; give it again for more. Each
    part under one instruction, or of one episode, counts as an episode. Default: LIBERO."""
    image_topic: str = ''
    """Camera in the bags. Default: /image, or the only camera there is."""
    instruction_topic: str = '/instruction'
    """What the robot was told, std_msgs String."""
    instruction: str = ''
    """What the robot was told, whatever the bags say."""
    suite: str = ''
    """LIBERO suite. Default: one that the checkpoint was trained on, libero_object first."""
    tasks: tuple[int, ...] = ()
    """Task numbers; the episodes are shared out among them. Default: all of the suite."""
    episodes: int = 100
    """LIBERO episodes, from random starts: none of the stored initial states."""
    seed: int = 0
    """First seed of the random starts, and seed of --check's splits."""
    max_steps: int | None = None
    """Control steps per LIBERO episode at most. Default: the suite's own limit."""
    drive: float = 1.0
    """Scale under which the LIBERO episodes are driven: one of --scales; 0 = the target itself."""
    check: bool = False
    """Write no preset, but measure what the promise is worth: calibrate on a random half of the
    episodes and count the violations in the other, --splits times."""
    splits: int = LEAST_SPLITS
    """Random splits of --check, at least 20."""
    workers: int = 1
    """Workers that play LIBERO episodes, each with a simulator and a model."""
    ray: str | None = None
    """Play LIBERO on a Ray cluster: HOST:PORT of its head, `auto` for the one that this machine is
    part of, `local` for this machine alone. Default: processes of this machine."""
    threads: int | None = None
    """Torch threads. Default: torch's own choice; with more workers, the cores divided by them."""
    preset: Path | None = None
    """Where the preset is written, a name ending in .yaml. Default: calibrated.yaml in --out."""
    out: Path | None = None
    """Folder of the run. Default: runs/calibrate-<hash of the configuration>, so that the same
    command continues an interrupted run, and one with another promise measures nothing anew."""
    json: Path | None = None
    """Also write the report here, for machines."""

    @property
    def limits(self) -> DeviationLimits:
        """How far off an action may be."""
        return DeviationLimits(self.mm, self.deg, self.gripper)


@dataclass(frozen=True, slots=True)
class CalibrationPlan:
    """A checked calibration."""

    args: CalibrateArgs
    base: DecoderConfig
    unnorm_key: str
    source: UnitSource
    config: dict[str, Any]
    checkpoint: dict[str, Any]
    folder: Path
    weights: tuple[Path, ...] = ()  # folders that are loaded
    is_made_up: bool = False  # the world is no LIBERO and stays in this process

    @property
    def threads(self) -> int:
        """Torch threads of a worker."""
        return self.args.threads or max(1, machine.available_cores() // self.args.workers)

    @property
    def preset(self) -> Path:
        """Where the preset is written."""
        return self.args.preset or self.folder / 'calibrated.yaml'

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a run to be continued: not what is promised."""
        return {'config': self.config, 'checkpoint': self.checkpoint,
                'versions': machine.versions()}


def make_plan(
    args: CalibrateArgs, make_environment: Callable[[str, int], Any] | None = None
) -> CalibrationPlan:
    """
    Check everything before anything long is computed.

    :param make_environment: of a suite's task; None = LIBERO's own
    :raises ValueError, FileNotFoundError: what is wrong and what is allowed
    """
    if not args.bag:
        args = dataclasses.replace(args, suite=preflight.suite_of(args, args.suite))
    base = _check(args)
    keys = preflight.check_policy(args, [base])
    source: UnitSource
    places: dict[str, Any]
    if args.bag:
        unnorm_key = check_key(keys, args.unnorm_key)
        bags = _read_bags(args)
        source = RecordedBags(bags)
        check_enough(args, len(source.names))
        places = {'bags': [bag.sha256 for bag in bags], 'image_topic': args.image_topic,
                  'instruction_topic': args.instruction_topic, 'instruction': args.instruction}
    else:
        tasks = checks.check_tasks(args.suite, args.tasks)
        unnorm_key = preflight.keys_of_suites([args.suite], keys, args.unnorm_key)[args.suite]
        if make_environment is None:
            check_simulator({args.suite: tasks})
        source = LiberoEpisodes(args.suite, tasks, args.episodes, args.seed, args.drive,
                                args.max_steps, make_environment or _libero)
        places = {'suite': args.suite, 'tasks': list(tasks), 'seed': args.seed,
                  'max_steps': args.max_steps, 'drive': args.drive}
    config = {**places, 'decoder': dataclasses.asdict(base), 'scales': list(args.scales),
              **args.source(base).facts, 'unnorm_key': unnorm_key}
    target, drafters = machine.checkpoint_folders(args.checkpoint, args.drafter)
    plan = CalibrationPlan(args, base, unnorm_key, source, config,
                machine.checkpoint_sha256(args.checkpoint, args.drafter), args.out or Path(),
                (target, *drafters.values()), make_environment is not None)
    if args.out is None:
        folder = run_folder.default_folder('calibrate', plan.identity())
        plan = dataclasses.replace(plan, folder=folder)
    return plan


def check_enough(args: CalibrateArgs, episodes: int) -> None:
    """Raise a SpecVLAError where the episodes are too few for the promise."""
    parts = 2 if args.check else 1
    needed = control.needed(args.delta, args.confidence)
    if episodes // parts >= needed:
        return
    n = episodes // parts
    of_half = f', of which --check calibrates on half, {n}' if args.check else ''
    smallest = control.smallest_delta(n, args.confidence)
    instead = f'--delta {_up(smallest)} or more' if smallest <= MOST_DELTA else \
        f'no delta up to {MOST_DELTA:g}'
    alone = '' if not args.confidence else \
        f'; with --confidence 0 it takes {parts * control.needed(args.delta, 0.0)}'
    raise SpecVLAError(
        f"{episodes} episodes{of_half} can't carry --delta {args.delta:g} with --confidence "
        f'{args.confidence:g}: it takes at least {parts * needed}; {episodes} carry {instead}'
        f'{alone}')


def _up(delta: float) -> str:
    """Round a share up to four digits, so that it may be typed in."""
    return f'{math.ceil(1e4 * delta - 1e-6) / 1e4:g}'


def _check(args: CalibrateArgs) -> DecoderConfig:
    """Check what needs no file of weights; the promise first."""
    for option, value, most in (('--mm', args.mm, math.inf), ('--deg', args.deg, math.inf),
                                ('--gripper', args.gripper, 1.0)):
        if not (math.isfinite(value) and 0 <= value <= most):
            raise SpecVLAError(f'{option} {value:g}: give a number of at least 0'
                               f'{"" if most == math.inf else f", at most {most:g}"}')
    if not 0 < args.delta <= MOST_DELTA:
        raise SpecVLAError(f'--delta {args.delta:g}: give a share above 0, at most '
                           f'{MOST_DELTA:g}')
    if not 0 <= args.confidence < 1:
        raise SpecVLAError(f'--confidence {args.confidence:g}: give a share from 0 to below 1')
    checks.check_at_least('--splits', args.splits, LEAST_SPLITS)
    checks.check_at_least('--episodes', args.episodes, 1)
    checks.check_seed(args.seed)
    checks.check_at_least('--max-steps', args.max_steps, 1)
    checks.check_at_least('--threads', args.threads, 1)
    checks.check_at_least('--workers', args.workers, 1)
    if args.bag:
        refuse_unused(args, ('suite', 'tasks', 'episodes', 'max_steps', 'drive', 'workers', 'ray'),
                      'LIBERO is not played with --bag')
        if not args.check:
            refuse_unused(args, ('seed',), 'with --bag only --check draws anything')
    else:
        refuse_unused(args, ('image_topic', 'instruction_topic', 'instruction'),
                      'it is about --bag')
    if args.check:
        refuse_unused(args, ('preset',), '--check writes none')
    else:
        refuse_unused(args, ('splits',), 'it is about --check')
    _check_scales(args)
    if not args.bag:
        check_enough(args, args.episodes)
    files.check_json_path(args.json)
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise SpecVLAError(f'--out {args.out} is a file; give a folder')
    check_writable('--out', args.out or Path('runs'))
    if args.preset is not None:
        if args.preset.suffix not in ('.yaml', '.yml') or args.preset.is_dir():
            raise SpecVLAError(f'--preset {args.preset}: give the name of a .yaml file')
        decoder_name(args.preset)  # so that the file can be used
        check_writable('--preset', args.preset)
    (base,) = checks.check_decoders([args.decoder]).values()
    family.check_family(base)
    return base


def _check_scales(args: CalibrateArgs) -> None:
    scales = args.scales
    if not scales or not all(math.isfinite(scale) and scale >= 0 for scale in scales) \
            or list(scales) != sorted(set(scales)):
        raise SpecVLAError(f'--scales {" ".join(f"{scale:g}" for scale in scales)}: give numbers '
                           'of at least 0, rising')
    if not args.bag and args.drive not in (0.0, *scales):
        raise SpecVLAError(f'--drive {args.drive:g}: must be 0 or one of --scales, '
                           f'{", ".join(f"{scale:g}" for scale in scales)}')


def _read_bags(args: CalibrateArgs) -> Sequence[RecordedBag]:
    bags = [RecordedBag.read(path, args.image_topic, args.instruction_topic, args.instruction)
            for path in args.bag]
    for number, bag in enumerate(bags):
        if any(bag.sha256 == other.sha256 for other in bags[:number]):
            raise SpecVLAError(f'--bag {bag.path}: the same recording is given twice')
    return bags


def _libero(suite: str, task: int) -> Any:
    from specvla_ros.libero.environment import LiberoEnv  # heavy

    return LiberoEnv(suite, task)
