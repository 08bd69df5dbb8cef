"""
`specvla bench`: latency per action and stage, decoders and peers side by side in one run.

Each observation goes to all of them in a random order. The figures are compared with plain
autoregression, and with the floor that bytes, operations and this device's measured ceilings
give. Without a checkpoint, random weights of any size show what a device would do.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
from pathlib import Path
import sys
import time
from typing import Any, TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from specvla_ros import files
from specvla_ros.benchmark import checks, machine, preflight
from specvla_ros.benchmark.interrupt import sigterm_as_interrupt
from specvla_ros.benchmark.latency import projection
from specvla_ros.benchmark.latency.bench_arguments import BenchArgs, PEERS, REPLAYED
from specvla_ros.benchmark.report import BASELINE
from specvla_ros.benchmark.report_files import leave
from specvla_ros.configuration import DecoderConfig
from specvla_ros.data_sets import check_key
from specvla_ros.errors import SpecVLAError
from specvla_ros.execution import check_execute_steps
from specvla_ros.libero.simulator_check import check_simulator
from specvla_ros.progress import terminal_bar, titled_columns
from specvla_ros.unused_options import refuse_unused
from specvla_ros.writable import check_writable

if TYPE_CHECKING:
    from specvla_ros.benchmark.latency.contestants import Contestants
    from specvla_ros.benchmark.observations import Footage


def run(args: BenchArgs) -> int:
    """
    Measure, print the tables and write report.json and two plots.

    :returns: the exit code
    :raises ValueError: bad input, in one line
    """
    if args.frames is None and not args.random_weights:
        args = dataclasses.replace(args, suite=preflight.suite_of(args, args.suite))
    decoders = check(args)
    if not args.random_weights:
        args = dataclasses.replace(args, unnorm_key=_unnorm_key(args))
    # Heavy; `--help` and a refusal need none of it.
    from specvla_ros.benchmark.latency import plots as bench_plots
    from specvla_ros.benchmark.latency import report as bench_report
    from specvla_ros.benchmark.latency.contest import contest
    from specvla_ros.benchmark.latency.contestants import make_contestants, warm_up_all

    console = Console()
    with sigterm_as_interrupt(), _progress(console) as bar:
        field = make_contestants(args, decoders)
        episodes = _episodes(args, field, bar)
        policies = warm_up_all(field, episodes[0])
        n_frames = sum(len(episode.frames) for episode in episodes)
        console.print(f'{", ".join(policies)}: {n_frames} observations, {args.repeats} times each',
                      highlight=False)
        task = bar.add_task('actions', total=args.repeats * len(policies) * n_frames)
        samples = contest(policies, episodes, args.repeats, args.seed, lambda: bar.advance(task),
                          field.drawn, _execute_steps(args, field),
                          [name for name, config in decoders.items() if config.by_step])
    document = bench_report.make_report(
        sys.argv, _config(args, decoders, field), _hashes(args), field, episodes, samples,
        decoders)
    bench_report.print_tables(document, console)
    leave(document, _folder(args.out), args.json, console, {
        'stages.png': lambda path: bench_plots.write_stages(path, document),
        'roofline.png': lambda path: bench_plots.write_roofline(path, document)})
    return 0


def check(args: BenchArgs) -> dict[str, DecoderConfig]:
    """
    Check every argument before anything heavy is loaded; return the decoders, `ar` among them.

    :raises ValueError: what is wrong and what is allowed
    """
    files.check_json_path(args.json)
    names = args.decoder or (REPLAYED if args.random_weights else checks.DECODERS)
    decoders = checks.check_decoders(names if BASELINE in names else (BASELINE, *names))
    for name in args.peer:
        if name not in PEERS:
            raise SpecVLAError(f'--peer {name}: must be one of {", ".join(PEERS)}')
    if len(set(args.peer)) < len(args.peer):
        raise SpecVLAError(f'--peer {" ".join(args.peer)}: name each once')
    for option, value in (('--observations', args.observations), ('--repeats', args.repeats),
                          ('--threads', args.threads)):
        checks.check_at_least(option, value, 1)
    checks.check_seed(args.seed)
    checks.check_chunk(args.chunk)
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise SpecVLAError(f'--out {args.out} is a file; give a folder')
    check_writable('--out', args.out or Path('runs'))
    if args.random_weights:
        _check_random(args)
    else:
        _check_real(args, decoders)
    return decoders


def _execute_steps(args: BenchArgs, field: 'Contestants') -> int:
    """Return E, the control steps between two observations."""
    return args.execute_steps or field.checkpoint.execute_steps


def _check_random(args: BenchArgs) -> None:
    refuse_unused(args, ('checkpoint', 'drafter', 'unnorm_key'),
                  'with --random-weights none is loaded')
    refuse_unused(args, ('frames', 'instruction', 'suite', 'tasks'),
                  'random weights look at made-up frames')
    projection.read_acceptance(args.accept_from)
    check_execute_steps(args.execute_steps, args.chunk or 1)


def _check_real(args: BenchArgs, decoders: dict[str, DecoderConfig]) -> None:
    refuse_unused(args, ('shape', 'accept_from'), 'it is about --random-weights')
    if args.frames is None:
        refuse_unused(args, ('instruction',), 'it belongs to --frames, and LIBERO has its own')
        checks.check_tasks(args.suite, args.tasks)
    else:
        refuse_unused(args, ('suite', 'tasks'), 'LIBERO is not played with --frames')
        if not args.frames.exists():
            raise SpecVLAError(f'--frames {args.frames}: no such folder or file')
    preflight.check_policy(args, decoders.values())
    preflight.execute_steps(args, args.execute_steps)
    _unnorm_key(args)
    if args.frames is None:
        check_simulator({args.suite: args.tasks})


def _unnorm_key(args: BenchArgs) -> str:
    """Return the key of the statistics: the suite's own if the frames are LIBERO's."""
    keys = preflight.statistics_of(args)
    if args.frames is not None:
        return check_key(keys, args.unnorm_key)
    return preflight.keys_of_suites([args.suite], keys, args.unnorm_key)[args.suite]


def _episodes(args: BenchArgs, field: 'Contestants', bar: Progress) -> 'list[Footage]':
    """Return the observations, by episode."""
    from specvla_ros.benchmark import observations

    if args.random_weights:
        return [observations.made_up(args.observations)]
    if args.frames is not None:
        return [observations.read(args.frames, args.instruction, args.observations,
                                  _execute_steps(args, field))]
    from specvla_ros.libero.environment import LiberoEnv

    task = bar.add_task('observations', total=args.observations)
    return list(observations.played(
        lambda number: LiberoEnv(args.suite, number), checks.check_tasks(args.suite, args.tasks),
        field.policies[BASELINE], args.observations, args.seed, lambda: bar.advance(task),
        _execute_steps(args, field)))


def _config(args: BenchArgs, decoders: dict[str, DecoderConfig], field: 'Contestants'
            ) -> dict[str, Any]:
    model = field.checkpoint.model
    config: dict[str, Any] = {}
    if args.random_weights:
        config = {'shape': args.shape, 'acceptance': f'{projection.SOURCE}, {args.accept_from}'}
    elif args.frames is None:
        config = {'suite': args.suite, 'tasks': list(args.tasks)}
    else:
        config = {'frames': str(args.frames)}
    return config | {
        'decoders': {name: dataclasses.asdict(decoder) for name, decoder in decoders.items()},
        'peers': list(args.peer), 'observations': args.observations, 'repeats': args.repeats,
        'seed': args.seed, 'device': str(model.device),
        'dtype': str(model.dtype).removeprefix('torch.'), 'quantization': args.quantization,
        'unnorm_key': args.unnorm_key, 'chunk': field.checkpoint.space.chunk,
        'execute_steps': _execute_steps(args, field),
        'threads': field.threads, 'random_weights': args.random_weights,
    }


def _hashes(args: BenchArgs) -> dict[str, str | None]:
    if args.random_weights:
        return {'target_sha256': None, 'drafter_sha256': None}
    return machine.checkpoint_sha256(args.checkpoint, args.drafter)


def _folder(wanted: Path | None) -> Path:
    folder = wanted or Path('runs') / time.strftime('bench-%Y%m%d-%H%M%S')
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    """Bars with an estimate, on a terminal."""
    with terminal_bar(console, *titled_columns(), transient=True) as bar:
        yield bar
