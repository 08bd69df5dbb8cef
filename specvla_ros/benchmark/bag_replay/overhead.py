"""
`specvla overhead`: what ROS adds to an action, from the image published to the action received.

A real policy node, in a process and a ROS domain of its own, gets one image after the other over
real topics, the next as soon as the one before has been answered: the session of `specvla replay
--live`, on a bag of made-up frames. The node measures inference itself, from the image taken to
the action decoded; the rest is ROS: two messages through DDS, executors, the envelope, Python.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from dataclasses import dataclass
from pathlib import Path
import sys
import tempfile
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
import tyro

from specvla_ros import files
from specvla_ros.bags.frames import IMAGE
from specvla_ros.bags.writer import BagWriter, offered_qos
from specvla_ros.benchmark import checks, machine, plots, preflight, report, report_tables
from specvla_ros.benchmark.arguments import PolicyArgs
from specvla_ros.benchmark.bag_replay import live as live_replay
from specvla_ros.benchmark.interrupt import INTERRUPTED, sigterm_as_interrupt
from specvla_ros.benchmark.report_files import leave
from specvla_ros.benchmark.session import DemoSession, SessionDied
from specvla_ros.configuration import DecoderConfig
from specvla_ros.data_sets import check_key
from specvla_ros.errors import SpecVLAError
from specvla_ros.progress import terminal_bar

DECODER, CHUNK_DECODER = 'relaxed', 'glance_jacobi_relaxed'
WARM_UP = 20  # actions that aren't counted: discovery, caches, the first of everything
SIDES = (16, 4096)  # pixels
_TIMEOUT_S, _START_TIMEOUT_S = 60.0, 300.0
_FRAMES = 20  # different ones, then `observations.made_up` begins again
_INTERVAL = 50_000_000  # ns between two stamps in the bag; what counts is when they are played
_COLUMNS = {'image_to_action_ms': 'image to action', 'ms_per_action': 'inference',
            'ros_ms_per_action': 'ROS around it'}


@dataclass(frozen=True, slots=True, kw_only=True)
class OverheadArgs(PolicyArgs):
    """What ROS adds to an action: image published to action received, less the inference."""

    decoder: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Preset of config/decoders or a YAML file; give it again for more. Default: relaxed;
    where an action has several control steps glance_jacobi_relaxed."""
    actions: int = 300
    """Actions that are counted, after 20 that aren't, for each decoder."""
    side: int = 224
    """Width and height of the images, rgb8, pixels."""
    instruction: str = 'pick up the milk and place it in the basket'
    """What the policy is told."""
    threads: int = 0
    """Torch threads of the policy; 0 = one less than there are cores."""
    out: Path | None = None
    """Folder for report.json and plot.png. Default: runs/overhead-<date and time>."""
    json: Path | None = None
    """Also write the report here, for machines."""


def run(args: OverheadArgs) -> int:
    """
    Measure, print the table and write report.json and plot.png.

    :returns: the exit code
    :raises ValueError: bad input, in one line
    """
    decoders = _check(args)
    check_key(preflight.check_policy(args, decoders.values()), args.unnorm_key)
    hashes = machine.checkpoint_sha256(args.checkpoint, args.drafter)
    console = Console()
    folder = files.folder_of(args.out, 'overhead')
    try:
        with sigterm_as_interrupt(), files.new_folder(folder):
            samples = _measure(args, decoders, folder, console)
    except KeyboardInterrupt:
        console.print('interrupted: nothing was written')
        return INTERRUPTED
    except SessionDied as error:
        Console(stderr=True).print(f'error: {error}', markup=False, highlight=False)
        return 1
    document = report.report(sys.argv, _config(args, decoders), hashes, [
        _row(name, samples[name]) for name in decoders], decoders)
    console.print(_table(document))
    console.print(report_tables.provenance(document), style='dim', highlight=False, markup=False)
    leave(document, folder, args.json, console,
          {'plot.png': lambda path: _write_plot(path, document)})
    return 0


def _named(args: OverheadArgs) -> tuple[str, ...]:
    return args.decoder or preflight.usual_decoders(args, (DECODER,), (CHUNK_DECODER,))


def _check(args: OverheadArgs) -> dict[str, DecoderConfig]:
    files.check_json_path(args.json)
    checks.check_at_least('--actions', args.actions, 1)
    checks.check_at_least('--threads', args.threads, 0)
    checks.check_chunk(args.chunk)
    if not SIDES[0] <= args.side <= SIDES[1]:
        raise SpecVLAError(f'--side {args.side}: give {SIDES[0]} to {SIDES[1]} pixels')
    if not args.instruction.strip():
        raise SpecVLAError('--instruction is empty: without one the policy does not act')
    return checks.check_decoders(_named(args))


def _measure(args: OverheadArgs, decoders: dict[str, DecoderConfig], folder: Path,
             console: Console) -> dict[str, NDArray[np.float64]]:
    """Return for each decoder [actions, 2]: ms of inference, and of ROS around it."""
    asked = [checks.name_or_full_path(name) for name in _named(args)]
    names = dict(zip(asked, decoders))
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in decoders}
    with tempfile.TemporaryDirectory(prefix='specvla-') as temporary, _bar(console) as bar:
        bag = Path(temporary) / 'frames'
        _write_bag(bag, args.actions + WARM_UP, args.side)
        task = bar.add_task('', total=len(decoders) * (args.actions + WARM_UP))
        session = DemoSession(_specification(args, bag, list(names)), folder,
                              (sys.executable, '-m', live_replay.MODULE))
        for event in session.events():
            if event['event'] == 'answer':
                bar.advance(task)
                stages = event['stage_ms']
                samples[names[event['decoder']]].append(
                    (stages['total'] - stages['publish'], event['ros_ms']))
    return {name: np.array(measured[WARM_UP:]) for name, measured in samples.items()}


def _write_bag(path: Path, count: int, side: int) -> None:
    """Write a bag of `count` images, each under a stamp of its own."""
    from specvla_ros.benchmark import observations

    frames = observations.made_up(_FRAMES, side).frames
    with files.writing(path):
        writer = BagWriter(path)
        make = writer.types.make
        writer.add_topic('/image', IMAGE, [offered_qos()])
        for number in range(count):
            seconds, nanoseconds = divmod((number + 1) * _INTERVAL, 10**9)
            stamp = make('builtin_interfaces/msg/Time', sec=seconds, nanosec=nanoseconds)
            image = make(IMAGE, header=make('std_msgs/msg/Header', stamp=stamp, frame_id=''),
                         height=side, width=side, encoding='rgb8', is_bigendian=0, step=3 * side,
                         data=frames[number % _FRAMES].ravel())
            writer.write('/image', (number + 1) * _INTERVAL, writer.types.serialize(image))
        writer.finish()


def _specification(args: OverheadArgs, bag: Path, decoders: list[str]) -> dict[str, Any]:
    """Return the session's specification; the keys are `ReplaySpec`'s and `policy_node`'s."""
    return {
        'bag': str(bag), 'decoders': decoders, 'image_topic': '/image',
        'instruction_topic': '', 'instruction': args.instruction, 'rate': 0.0,
        'policy': {**args.source(decoders[0]).parameters, 'threads': args.threads},
        'action_timeout_s': _TIMEOUT_S, 'start_timeout_s': _START_TIMEOUT_S,
    }


def _bar(console: Console) -> Progress:
    return terminal_bar(console, BarColumn(), MofNCompleteColumn(), TextColumn('actions, left'),
                        TimeRemainingColumn(), transient=True)


def _config(args: OverheadArgs, decoders: dict[str, DecoderConfig]) -> dict[str, Any]:
    return {
        'ros': True, 'side': args.side, 'instruction': args.instruction, 'warm_up': WARM_UP,
        'decoders': {name: dataclasses.asdict(config) for name, config in decoders.items()},
        **args.source(next(iter(decoders))).facts, 'threads': args.threads or None,
    }


def _row(decoder: str, samples: NDArray[np.float64]) -> report.Row:
    """Return the figures of samples [actions, 2]: ms of inference, and of ROS around it."""
    inference, ros = samples.T
    return {'decoder': decoder, 'suite': None, 'task': None, 'subset': 'all',
            'actions': len(samples), 'image_to_action_ms': _distribution(inference + ros),
            'ms_per_action': _distribution(inference), 'ros_ms_per_action': _distribution(ros),
            'ros_ms': ros.round(3).tolist()}


def _distribution(values: NDArray[np.float64]) -> dict[str, float]:
    percentiles = zip(('p50', 'p95', 'p99'), np.percentile(values, (50, 95, 99)).tolist())
    return {'mean': float(values.mean()), **dict(percentiles), 'max': float(values.max())}


def _table(document: report.Report) -> Table:
    config = document['config']
    table = Table(title=f'{config["side"]} × {config["side"]} pixels, '
                        f'{document["rows"][0]["actions"]} actions each',
                  title_justify='left', title_style='bold', header_style='bold')
    for heading in ('', 'ms', 'median', 'p95', 'p99', 'mean', 'max'):
        table.add_column(heading, justify='right' if heading not in ('', 'ms') else 'left')
    for row in document['rows']:
        for key, name in _COLUMNS.items():
            table.add_row('' if key != 'image_to_action_ms' else row['decoder'], name, *(
                f'{row[key][figure]:.2f}' for figure in ('p50', 'p95', 'p99', 'mean', 'max')))
        table.add_section()
    return table


def _write_plot(path: Path, document: report.Report) -> None:
    """
    Draw a histogram of the time that ROS took; times beyond the 99th percentile stand there.

    :raises SpecVLAError: the file cannot be written
    """
    with plots.figure_file(path, (8, 4.5), (1,)) as (figure, axes):
        for row, colour in zip(document['rows'], _colours(document['rows'])):
            figures = row['ros_ms_per_action']
            axes[0].hist(np.minimum(row['ros_ms'], figures['p99']), bins=40, histtype='stepfilled',
                         alpha=0.6, color=colour,
                         label=f'{row["decoder"]}: median {figures["p50"]:.2f} ms, '
                               f'p99 {figures["p99"]:.2f} ms')
        axes[0].set_title('What ROS adds to an action')
        axes[0].set_xlabel('image published to action received, less the inference, ms')
        axes[0].set_ylabel('actions')
        axes[0].legend(frameon=False)
        figure.supxlabel(plots.footnote(document), fontsize=8, color='#555555', x=0.01, ha='left')


def _colours(rows: Sequence[report.Row]) -> list[str]:
    return [plots.decoder_colour(number) for number in range(len(rows))]
