"""
`specvla replay`: a rosbag2 recording played to the policy, decoders side by side.

In this process, frame by frame and without ROS, so that the same bag, weights and decoder always
give the same tokens; or, with `--live`, over real topics to a policy node.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from dataclasses import dataclass
from pathlib import Path
import sys
from typing import Annotated, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
import tyro

from specvla_ros import files
from specvla_ros.bags.folder import METADATA
from specvla_ros.bags.frames import FrameReader, live_actions, only_camera
from specvla_ros.bags.looks import looks
from specvla_ros.bags.reader import Bag
from specvla_ros.benchmark import checks, machine, plots, preflight, report
from specvla_ros.benchmark.arguments import PolicyArgs
from specvla_ros.benchmark.bag_replay import page as replay_page
from specvla_ros.benchmark.bag_replay import plots as replay_plots
from specvla_ros.benchmark.bag_replay import rows as replay_rows
from specvla_ros.benchmark.bag_replay.live import play_live
from specvla_ros.benchmark.bag_replay.offline import Chunks, replay, Replayed
from specvla_ros.benchmark.interrupt import INTERRUPTED, sigterm_as_interrupt
from specvla_ros.benchmark.report_files import leave
from specvla_ros.benchmark.session import SessionDied
from specvla_ros.configuration import DecoderConfig
from specvla_ros.data_sets import check_key
from specvla_ros.errors import SpecVLAError
from specvla_ros.hashing import files_sha256
from specvla_ros.progress import terminal_bar
from specvla_ros.unused_options import refuse_unused

DECODERS = ('ar', 'strict', 'relaxed')
CHUNK_DECODERS = ('ar', 'glance_jacobi', 'glance_jacobi_relaxed')
MAX_RATE = 100.0  # times the recording's speed
ACTION_TIMEOUT_S, START_TIMEOUT_S = 60.0, 300.0  # of a policy on a machine that is busy


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayArgs(PolicyArgs):
    """Play a recorded bag to the policy: latency, passes, errors against ar, missed frames."""

    bag: Annotated[Path, tyro.conf.Positional]
    """rosbag2 folder, or a single .mcap or .db3 file."""
    decoder: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Preset of config/decoders or a YAML file; give it again for more. Default: ar, strict and
    relaxed; where an action has several control steps ar, glance_jacobi and glance_jacobi_relaxed.
    `ar` is the baseline that speed-ups and errors are against."""
    threads: int = 0
    """Torch threads of the policy; 0 = torch's own choice, with --live the node's."""
    image_topic: str = ''
    """Camera in the bag, sensor_msgs Image or CompressedImage. Default: /image, or the only camera
    there is."""
    instruction_topic: str = '/instruction'
    """What the robot was told, std_msgs String; a frame gets the one in force when it came."""
    instruction: str = ''
    """Follow this text instead, whatever the bag says."""
    live: bool = False
    """Play it over ROS 2 topics to a policy node, in a process and a ROS domain of its own."""
    rate: float | None = None
    """With --live: times the speed of the recording, like 1.0; what the policy has no time for is
    missed. Default: lockstep, every frame waits for its action."""
    execute_steps: int | None = None
    """Control steps of an action that are executed before the policy looks at a frame again: 1
    to --chunk. Default: what the checkpoint recommends, else all."""
    out: Path | None = None
    """Folder for report.json, the plots and report.html. Default: runs/replay-<date and time>."""
    html: bool = True
    """Write report.html: one file with everything in it."""
    json: Path | None = None
    """Also write the report here, for machines."""


def run(args: ReplayArgs) -> int:
    """
    Replay a bag; print the table and write the report.

    :returns: the exit code
    :raises ValueError: bad input, in one line
    """
    decoders = _check(args)
    key = check_key(preflight.check_policy(args, decoders.values()), args.unnorm_key)
    chunk, execute_steps = preflight.execute_steps(args, args.execute_steps)
    args = dataclasses.replace(args, decoder=tuple(args.decoder or _usual(args)))
    decoders = {name: config.of_chunk(chunk) for name, config in decoders.items()}
    checkpoint = machine.checkpoint_sha256(args.checkpoint, args.drafter)
    console = Console()
    with Bag(args.bag) as bag:
        image_topic = args.image_topic or only_camera(bag)
        reader = FrameReader(bag, image_topic, args.instruction_topic, args.instruction)
        _tell_missing(bag, '', console)
        missing = bag.missing
        folder = files.folder_of(args.out, 'replay')
        live = live_actions(bag)
        chunks = Chunks(chunk, execute_steps, live) if chunk > 1 else None
        play = _play_live if args.live else _play_here
        try:
            with sigterm_as_interrupt(), files.new_folder(folder):
                frames = play(args, reader, decoders, chunks, folder, console)
        except KeyboardInterrupt:
            console.print('interrupted: a report needs the whole bag, nothing was written')
            return INTERRUPTED
        except SessionDied as error:
            Console(stderr=True).print(f'error: {error}', markup=False, highlight=False)
            return 1
        _tell_missing(bag, missing, console)
        rows = replay_rows.rows(frames, live, list(decoders))
        config = _config(args, key, image_topic, decoders)
        config['execute_steps'] = None if chunks is None else execute_steps
        document = report.report(sys.argv, config, checkpoint, rows, decoders)
        document['bag'] = _bag_facts(reader, frames)
        _leave(args, folder, document, reader, frames, console)
    return 0


def _check(args: ReplayArgs) -> dict[str, DecoderConfig]:
    """Check every argument before anything heavy is loaded."""
    _check_outside(args.bag, '--out', args.out or Path('runs'))
    _check_outside(args.bag, '--json', args.json)
    files.check_json_path(args.json)
    checks.check_at_least('--threads', args.threads, 0)
    checks.check_chunk(args.chunk)
    if args.instruction:
        refuse_unused(args, ('instruction_topic',), '--instruction is followed instead')
    if args.rate is not None and not (args.live and 0 < args.rate <= MAX_RATE):
        raise SpecVLAError(f'--rate {args.rate:g}: give more than 0, at most {MAX_RATE:g}, and '
                           '--live')
    return checks.check_decoders(args.decoder or _usual(args))


def _usual(args: ReplayArgs) -> tuple[str, ...]:
    return preflight.usual_decoders(args, DECODERS, CHUNK_DECODERS)


def _check_outside(bag: Path, option: str, path: Path | None) -> None:
    """Refuse to write anything into the folder of the bag that is read."""
    home = bag.resolve() if bag.is_dir() else bag.resolve().parent
    is_bag = bag.is_dir() or (home / METADATA).exists()
    if path is not None and is_bag and home in (path.resolve(), *path.resolve().parents):
        raise SpecVLAError(f'{option} {path} is inside of the bag {bag}, in which nothing is '
                           f'written; give another {option}')


def _play_here(args: ReplayArgs, reader: FrameReader, decoders: dict[str, DecoderConfig],
               chunks: Chunks | None, _: Path, console: Console) -> list[Replayed]:
    """
    Load the weights once, and replay every frame to each decoder's own policy, with a bar.

    :raises SpecVLAError: there is no frame that could be replayed
    """
    import torch

    from specvla_ros.policy import Policy

    if args.threads:
        torch.set_num_threads(args.threads)
    policy = Policy.of(args.source(next(iter(decoders.values()))))
    policies = {name: policy.with_decoder(config) for name, config in decoders.items()}
    played = []
    with _bar(console) as bar:
        task = bar.add_task('', total=reader.n_images)
        for frame in replay(reader, policies, chunks):
            played.append(frame)
            bar.update(task, completed=frame.number + 1)
    _tell_skipped(reader, bool(played), console)
    return played


def _play_live(args: ReplayArgs, reader: FrameReader, decoders: dict[str, DecoderConfig],
               chunks: Chunks | None, folder: Path, console: Console) -> list[Replayed]:
    """
    Let a session play the bag once per decoder, with a bar.

    :raises SpecVLAError: there is no frame that could be replayed
    """
    # What it will send.
    count = sum(1 for _ in (reader if chunks is None or args.rate else looks(
        reader, chunks.live, chunks.execute_steps)))
    _tell_skipped(reader, bool(count), console)
    with _bar(console) as bar:
        task = bar.add_task('', total=count * len(decoders))

        def show(event: dict[str, Any]) -> None:
            if event['event'] == 'ready':
                bar.console.print(f'policy_node is process {event["pids"]["policy"]}, on ROS '
                                  f'domain {event["domain_id"]}', highlight=False)
            elif event['event'] == 'frame':
                bar.advance(task)

        specification = _specification(args, reader)
        if chunks is not None:
            specification['execute_steps'] = chunks.execute_steps
        return play_live(specification, folder, list(decoders), show)


def _specification(args: ReplayArgs, reader: FrameReader) -> dict[str, Any]:
    """Return the session's specification; the keys are `ReplaySpec`'s and `policy_node`'s."""
    steps = {} if args.execute_steps is None else {'execute_steps': args.execute_steps}
    return {
        'bag': str(args.bag.resolve()),
        'decoders': [checks.name_or_full_path(name) for name in args.decoder or _usual(args)],
        'image_topic': reader.image_topic, 'instruction_topic': args.instruction_topic,
        'instruction': args.instruction, 'rate': args.rate or 0.0,
        'policy': {**args.source(DECODERS[0]).parameters, 'threads': args.threads, **steps},
        'action_timeout_s': ACTION_TIMEOUT_S, 'start_timeout_s': START_TIMEOUT_S,
    }


def _bar(console: Console) -> Progress:
    return terminal_bar(console, BarColumn(), MofNCompleteColumn(), TextColumn('frames, left'),
                        TimeRemainingColumn())


def _tell_missing(bag: Bag, told: str, console: Console) -> None:
    """Say what of the bag can't be read, unless that has been told."""
    if bag.missing != told:
        console.print(f'{bag.path} is not whole: {bag.missing}', style='yellow', highlight=False,
                      markup=False, soft_wrap=True)


def _tell_skipped(reader: FrameReader, any_played: bool, console: Console) -> None:
    """
    Say which images were left out, and why.

    :raises SpecVLAError: all of them
    """
    if not any_played:
        raise SpecVLAError(f'no frame of {reader.bag.path} can be replayed: {reader.why_none()}')
    for line in reader.remarks():
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _bag_facts(reader: FrameReader, frames: list[Replayed]) -> dict[str, Any]:
    """Return the facts about the bag for the report."""
    bag = reader.bag
    seconds = (frames[-1].received - frames[0].received) * 1e-9
    return {
        'path': str(bag.path), 'sha256': files_sha256(bag.files),
        'missing': bag.missing, 'frames': len(frames), 'duration_s': seconds,
        'frame_rate_hz': (len(frames) - 1) / seconds if seconds else None,
        'segments': frames[-1].segment + 1,
        'instructions': list(dict.fromkeys(frame.instruction for frame in frames)),
        'skipped': dataclasses.asdict(reader.skipped),
    }


def _config(args: ReplayArgs, unnorm_key: str, image_topic: str,
            decoders: dict[str, DecoderConfig]) -> dict[str, Any]:
    return {
        'ros': args.live, 'rate': args.rate, 'image_topic': image_topic,
        'instruction_topic': args.instruction_topic, 'instruction': args.instruction or None,
        'decoders': {name: dataclasses.asdict(config) for name, config in decoders.items()},
        **args.source(DECODERS[0]).facts, 'unnorm_key': unnorm_key,
        'threads': args.threads or None,
    }


def _leave(args: ReplayArgs, folder: Path, document: report.Report, reader: FrameReader,
           frames: list[Replayed], console: Console) -> None:
    """Print the table, write report, plots and page, and say of each where it is."""
    title = title_of(document)
    replay_rows.print_table(document, title, console)
    decoders = [row['decoder'] for row in document['rows']]
    others: dict[str, Callable[[Path], None]] = {
        'plot.png': lambda path: plots.write_plot(path, document, title),
        'timeline.png': lambda path: replay_plots.write_timeline(path, frames, decoders)}
    if args.html:
        pictures = [folder / name for name in others]
        others['report.html'] = lambda path: replay_page.write_page(
            path, document, title, replay_plots.pictures(reader, frames[-1].number + 1), pictures)
    leave(document, folder, args.json, console, others)


def title_of(document: report.Report) -> str:
    """Say in one line what was replayed."""
    bag = document['bag']
    rate = f' at {bag["frame_rate_hz"]:.1f} Hz' if bag['frame_rate_hz'] else ''
    return f'{Path(bag["path"]).name}: {bag["frames"]} frames{rate}'
