"""
`specvla demo`: the main job end to end, over ROS 2, with everything to look at afterwards.

Policy and simulator run as two ROS 2 nodes in processes of their own; the same initial states are
played under each decoder. The results are report.json, a table, a video and a plot.
"""

from collections.abc import Callable
import dataclasses
from dataclasses import dataclass
from pathlib import Path
import sys
from typing import Annotated, Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
import tyro

from specvla_ros import files
from specvla_ros.benchmark import checks, machine, plots, preflight, report, report_tables
from specvla_ros.benchmark.arguments import PolicyArgs
from specvla_ros.benchmark.episodes import video
from specvla_ros.benchmark.episodes.episode_progress import EpisodeProgress
from specvla_ros.benchmark.episodes.films import PlayedEpisode, read_episode
from specvla_ros.benchmark.episodes.trial import Playing
from specvla_ros.benchmark.interrupt import INTERRUPTED, sigterm_as_interrupt
from specvla_ros.benchmark.records import EpisodeRecord
from specvla_ros.benchmark.report_files import leave
from specvla_ros.benchmark.session import DemoSession, SessionDied
from specvla_ros.configuration import DecoderConfig
from specvla_ros.errors import SpecVLAError
from specvla_ros.libero import suites
from specvla_ros.libero.simulator_check import check_simulator
from specvla_ros.progress import terminal_bar

MAX_COLUMNS = 4  # of the video, side by side


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoArgs(PolicyArgs):
    """Policy node and LIBERO over ROS 2: live progress, a table, a video, a plot."""

    suite: str = ''
    """LIBERO suite. Default: one that the checkpoint was trained on, libero_object first."""
    tasks: tuple[int, ...] = (2,)
    """Task numbers, e.g. `--tasks 0 3`."""
    states: tuple[int, ...] = (0,)
    """Stored initial states to play of each task, 0 … 49."""
    decoder: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Preset of config/decoders or a YAML file; give it again for more, up to four. Default: ar,
    auto and auto_relaxed."""
    threads: int = 0
    """Torch threads of the policy; 0 = one less than there are cores."""
    max_steps: int | None = None
    """Control steps per episode at most. Default: the suite's own limit."""
    execute_steps: int | None = None
    """Control steps of an action that are executed before the next one: 1 to --chunk. Default:
    what the checkpoint recommends, else all."""
    video: bool = True
    """Draw demo.mp4."""
    out: Path | None = None
    """Folder for what the demo leaves. Default: runs/demo-<date and time>."""
    json: Path | None = None
    """Also write the report here, for machines."""


def run(args: DemoArgs, make_session: Callable[[dict[str, Any], Path], DemoSession] = DemoSession
        ) -> int:
    """
    Play the demo and leave its report, video and plot.

    :param make_session: makes the session that plays, from a specification and a folder
    :returns: the exit code
    :raises ValueError: bad input, in one line
    """
    args = dataclasses.replace(args, suite=preflight.suite_of(args, args.suite))
    decoders = _check(args)
    keys = preflight.check_policy(args, decoders.values())
    key = preflight.keys_of_suites([args.suite], keys, args.unnorm_key)[args.suite]
    chunk, execute_steps = preflight.execute_steps(args, args.execute_steps)
    decoders = {name: config.of_chunk(chunk) for name, config in decoders.items()}
    checkpoint = machine.checkpoint_sha256(args.checkpoint, args.drafter)
    if args.video:
        video.ffmpeg()  # before minutes of playing, not after
    if make_session is DemoSession:
        check_simulator({args.suite: args.tasks})
    folder = files.folder_of(args.out, 'demo')
    console, new = Console(), None
    try:
        with sigterm_as_interrupt(), files.new_folder(folder) as new:
            session = make_session(_specification(args, key), folder)
            records, episodes = _play(session, args, decoders, console, new.keep)
    except KeyboardInterrupt:
        kept = new is not None and new.is_kept
        console.print(f'interrupted; the episodes played so far are in {folder}/episodes' if kept
                      else 'interrupted before an episode was played')
        return INTERRUPTED
    except SessionDied as error:
        Console(stderr=True).print(f'error: {error}', markup=False, highlight=False)
        return 1
    rows = report.rows(records, list(decoders))
    document = report.report(
        sys.argv, _config(args, decoders, key, execute_steps if chunk > 1 else None),
        checkpoint, rows, decoders)
    report_tables.print_tables(document, console)
    _leave(args, folder, document, episodes, console)
    return 0


def _check(args: DemoArgs) -> dict[str, DecoderConfig]:
    """Check every argument before anything is started."""
    files.check_json_path(args.json)
    suites.check_suite(args.suite)
    if not args.tasks or not args.states:
        raise SpecVLAError('--tasks and --states need at least one number each')
    checks.check_tasks(args.suite, args.tasks)
    for state in args.states:
        if not 0 <= state < suites.N_INITIAL_STATES:
            raise SpecVLAError(f'--states {state}: LIBERO stores initial states 0 to '
                               f'{suites.N_INITIAL_STATES - 1}')
    checks.check_at_least('--threads', args.threads, 0)
    checks.check_chunk(args.chunk)
    checks.check_at_least('--max-steps', args.max_steps, 1)
    decoders = checks.check_decoders(args.decoder or checks.DECODERS)
    if len(decoders) > MAX_COLUMNS:
        raise SpecVLAError(f'{len(decoders)} decoders: the demo shows {MAX_COLUMNS} side by side '
                           'at most; `specvla eval` compares any number')
    return decoders


def _specification(args: DemoArgs, unnorm_key: str) -> dict[str, Any]:
    """Return the session's specification; `SessionSpec` defines the keys."""
    return {
        **args.source(checks.DECODERS[0]).parameters, 'unnorm_key': unnorm_key,
        'decoders': [checks.name_or_full_path(name) for name in args.decoder or checks.DECODERS],
        'suite': args.suite,
        'tasks': list(dict.fromkeys(args.tasks)), 'states': list(dict.fromkeys(args.states)),
        'max_steps': args.max_steps or 0, 'threads': args.threads,
        'execute_steps': args.execute_steps or 0,
    }


def _config(args: DemoArgs, decoders: dict[str, DecoderConfig], unnorm_key: str,
            execute_steps: int | None) -> dict[str, Any]:
    return {
        'ros': True, 'suite': args.suite, 'tasks': list(args.tasks),
        'states': list(args.states),
        'decoders': {name: dataclasses.asdict(config) for name, config in decoders.items()},
        'max_steps': args.max_steps, **args.source(checks.DECODERS[0]).facts,
        'unnorm_key': unnorm_key, 'threads': args.threads or None,
        'execute_steps': execute_steps,
    }


def _play(session: DemoSession, args: DemoArgs, decoders: dict[str, DecoderConfig],
          console: Console, on_episode: Callable[[], None]
          ) -> tuple[list[EpisodeRecord], list[PlayedEpisode]]:
    """
    Follow the session's events and read the episodes it leaves.

    :param on_episode: called when one is there
    :returns: a record of every episode; those with at least one step also with their pictures
    """
    names = list(decoders)
    total = len(set(args.tasks)) * len(set(args.states)) * len(names)
    records: list[EpisodeRecord] = []
    episodes: list[PlayedEpisode] = []
    playing: Playing | None = None
    with EpisodeProgress(console, total, [], names) as progress:
        for event in session.events():
            kind = event['event']
            if kind == 'ready':
                pids = event['pids']
                console.print(f'policy_node is process {pids["policy"]}, libero_bridge_node '
                              f'{pids["bridge"]}, on ROS domain {event["domain_id"]}')
            elif kind == 'episode_start':
                # By place, not by name: a preset's file is named by its path there.
                name = names[event['index'] % len(names)]
                playing = Playing(event['suite'], event['task'], event['state'], name)
                progress.playing(playing)
            elif kind == 'step' and playing is not None:
                note = f', {event["passes"]} passes, {event["ms_total"]:.0f} ms'
                playing = dataclasses.replace(
                    playing, steps=event.get('steps', event['step'] + 1), note=note)
                progress.playing(playing)
            elif kind == 'episode_end' and playing is not None:
                on_episode()
                episode = _ended(event, playing, decoders)
                if isinstance(episode, PlayedEpisode):
                    episodes.append(episode)
                    episode = episode.record
                records.append(episode)
                progress.finished(episode)
    return records, episodes


def _ended(event: dict[str, Any], playing: Playing, decoders: dict[str, DecoderConfig]
           ) -> PlayedEpisode | EpisodeRecord:
    if event['npz'] is None:  # it crashed before its first step
        return EpisodeRecord(playing.suite, playing.task, playing.state, playing.decoder,
                             success=False, steps=0, crash=event['message'] or 'crashed')
    return read_episode(Path(event['npz']), playing.decoder,
                        checks.drafter_and_rule(decoders[playing.decoder]))


def _leave(args: DemoArgs, folder: Path, document: report.Report,
           episodes: list[PlayedEpisode], console: Console) -> None:
    """Write report, plot and video, and say of each where it is."""
    drawings: dict[str, Callable[[Path], None]] = {
        'plot.png': lambda path: plots.write_plot(path, document)}
    if args.video and episodes:
        drawings['demo.mp4'] = lambda path: _draw(path, make_scenes(episodes), console)
    leave(document, folder, args.json, console, drawings)


def make_scenes(episodes: list[PlayedEpisode]) -> list[video.Scene]:
    """Put the episodes of one initial state side by side, in the order they were played."""
    places = dict.fromkeys((e.record.task, e.record.state) for e in episodes)
    scenes = []
    for task, state in places:
        group = [e for e in episodes if (e.record.task, e.record.state) == (task, state)]
        scenes.append(video.Scene(group[0].instruction, group[0].record.suite, task, state,
                                  tuple(episode.film for episode in group)))
    return scenes


def _draw(path: Path, scenes: list[video.Scene], console: Console) -> None:
    total = sum(video.count_pictures(scene) for scene in scenes)
    bar = terminal_bar(console, TextColumn('drawing the video'), BarColumn(),
                       TimeRemainingColumn(), transient=True)
    with bar:
        task = bar.add_task('', total=total)
        video.write_video(path, scenes, on_picture=lambda: bar.advance(task))
