"""
`specvla collect`: demonstrations by the scripted expert, from random placements.

The 50 stored initial states are never used: they are for evaluation. The executed action carries
noise, pushes and twists, while the label is the expert's clean answer to the state they led to, so
that the data teaches corrections. With `--checkpoint`, the policy drives part of each episode and
the expert labels what it got into (DAgger: Ross et al., arXiv 1011.0686). After as many steps as
`lengths.py` says, the expert drives alone: an episode is not solved by the policy just because
`--policy-share` is 1.

One file per episode, `<data>/<suite>/task<id>/seed<seed>.npz`: jpeg (object array of bytes, the
upright RGB frame, quality 95, 4:2:0), action float32 [T, 7] in the data set's units (robosuite's
input in [−1, 1]; gripper 1 = open), state float32 [T, 10] (see `TaskExpert.state`), frame
int32 [T] (its step in the episode), instruction, success, steps of the episode and, of these,
policy_steps. With `--stills`: still_jpeg, still_action and still_state [S …], see `stills.py`;
and, where other tasks can be done in the scene, other_instruction [K], other_action and
other_state [S, K …].

With `--count`, the same episodes are played, but nothing is rendered or written.
"""

from collections.abc import Callable, Mapping
import contextlib
from dataclasses import dataclass, replace
import io
import os
from pathlib import Path
import sys
import time
from typing import Annotated, Any, TYPE_CHECKING
from zipfile import BadZipFile
import zlib

import numpy as np
import tyro

from specvla_ros.configuration import load_preset
from specvla_ros.data_sets import load_dataset
from specvla_ros.drafter_folders import beside
from specvla_ros.embedded import checkpoint_folder, found_elsewhere
from specvla_ros.errors import SpecVLAError
from specvla_ros.execution import check_execute_steps
from specvla_ros.files import whole_file
from specvla_ros.libero import suites
from specvla_ros.libero.assets import data_folder
from specvla_ros.libero.simulator_check import check_simulator
from specvla_ros.recordings.collected import EpisodeFile
from specvla_ros.training.disturbance import Disturbance
from specvla_ros.training.lengths import LENGTHS, Stuck
from specvla_ros.training.tally import Outcome, Tally
from specvla_ros.unused_options import refuse_unused
from specvla_ros.workforce.crew import Crew, Done, GivenUp
from specvla_ros.workforce.where import RAY_HELP, workers_at
from specvla_ros.writable import check_writable

if TYPE_CHECKING:  # the workers import them: the simulator and torch take seconds
    from specvla_ros.libero.environment import LiberoEnv
    from specvla_ros.policy import Policy

SEED_BASE = 1_000_000  # far from the reference evaluation's seeds
BATCH = 10  # episodes of one task in a row: making an environment takes as long as two of them
ROUND = 6  # such batches a process
_STEPS = ('steps', 'policy_steps')  # of an episode's file
_USUAL_STEPS = 4  # of an answer that are executed
# Options of a policy that drives, and those of what is kept.
OF_POLICY = ('decoder', 'policy_share', 'execute_steps')
NOT_COUNTED = ('out', 'resolution', 'keep', 'stills', 'checkpoint', *OF_POLICY)


@dataclass(frozen=True, slots=True)
class CollectArgs:
    """Collect demonstrations for a suite with the scripted expert."""

    suite: Annotated[str, tyro.conf.arg(help='LIBERO suite')] = 'libero_object'
    tasks: Annotated[tuple[int, ...], tyro.conf.arg(help='task numbers; none = all')] = ()
    episodes: Annotated[int, tyro.conf.arg(help='episodes a task')] = 100
    seed: Annotated[int, tyro.conf.arg(help='first seed; one seed an episode')] = 0
    out: Annotated[Path | None, tyro.conf.arg(help='data folder; default in the cache')] = None
    workers: Annotated[int, tyro.conf.arg(help='processes, or workers on Ray')] = 1
    ray: Annotated[str | None, tyro.conf.arg(help=RAY_HELP)] = None
    resolution: Annotated[int, tyro.conf.arg(help='side of the frame, pixels')] = 256
    keep: Annotated[float, tyro.conf.arg(
        help='share of the frames in steady motion that is rendered and kept')] = 0.4
    stills: Annotated[int, tyro.conf.arg(
        help='further placements that are shown after each episode, solved or not: six still '
             'frames each, at moments to which the episode had come')] = 0
    noise: Annotated[float, tyro.conf.arg(help='noise in the executed action, 1 = full')] = 1.0
    count: Annotated[bool, tyro.conf.arg(
        help='only count how many of these placements the expert solves: nothing is rendered or '
             'written')] = False
    checkpoint: Annotated[Path | None, tyro.conf.arg(
        help='folder, or name of an embedded policy, that drives part of each episode (DAgger); '
             'the expert ends those that take long')] = None
    decoder: Annotated[str, tyro.conf.arg(
        help='preset it decodes with: relaxed ones get lost in places of their own')] = 'ar'
    policy_share: Annotated[float, tyro.conf.arg(
        help='share of the stretches (with --chunk: of the bursts) that the policy drives')] = 0.7
    chunk: Annotated[int, tyro.conf.arg(
        help='steps that each frame is labelled with; above 1 the expert plays clean stretches '
             'that are at least as long')] = 1
    execute_steps: Annotated[int | None, tyro.conf.arg(
        help='how many steps of each answer are executed, where the --checkpoint says chunks; '
             'default 4, or all if an answer has fewer')] = None


@dataclass(frozen=True, slots=True)
class Demonstration:
    """
    An episode to be collected.

    start: first seed of its batch. Batches go round the tasks, so that an interrupted collection
    is balanced.
    """

    task: int
    seed: int
    start: int

    @property
    def place(self) -> tuple[int, int]:
        """Its batch: a worker brings one to its end before it begins another."""
        return self.start, self.task


def run(args: CollectArgs) -> int:
    """Collect what isn't there yet; episodes already on disk are kept. Returns an exit code."""
    _check(args)
    if args.checkpoint is not None:
        folder = checkpoint_folder(args.checkpoint)
        args = replace(args, checkpoint=found_elsewhere(folder))
    tasks = list(args.tasks) or [task.task_id for task in suites.tasks(args.suite)]
    for task in tasks:
        suites.task(args.suite, task)
    if not args.count:
        check_writable('--out', data_folder(args.out))
    if args.chunk > 1 and not args.count:
        _check_there(args, tasks)
    if args.checkpoint is not None:
        from specvla_ros.policy_check import check_policy  # imports torch
        keys = check_policy(folder, beside(folder), [load_preset(args.decoder)])
        load_dataset(suites.statistics_key(args.suite, keys))
        args = replace(args, execute_steps=_execute_steps(args, folder))
    check_simulator({args.suite: tasks})
    end = args.seed + args.episodes
    return _collect(args, [
        Demonstration(task, seed, start) for start in range(args.seed, end, BATCH)
        for task in tasks for seed in range(start, min(start + BATCH, end))])


def _check(args: CollectArgs) -> None:
    if args.episodes < 1 or args.workers < 1 or not 0 < args.keep <= 1:
        raise ValueError('episodes and workers start at 1, keep is in (0, 1]: got '
                         f'{args.episodes}, {args.workers}, {args.keep}')
    for name, low, high in (('seed', 0, 2**31), ('resolution', 16, 4096), ('noise', 0, 10),
                            ('policy_share', 0, 1), ('chunk', 1, 64), ('stills', 0, 1000)):
        if not low <= getattr(args, name) <= high:
            raise ValueError(f'{name} is {getattr(args, name)}, must be {low} to {high}')
    if args.chunk > 1:
        refuse_unused(args, ('stills',), 'with --chunk a label is what was executed')
    if args.count:
        refuse_unused(args, NOT_COUNTED, '--count renders and writes nothing, and only the '
                      'expert drives')
    elif args.checkpoint is None:
        refuse_unused(args, OF_POLICY, 'only the expert drives without --checkpoint')
    elif args.chunk == 1:
        refuse_unused(args, ('execute_steps',), 'without --chunk each answer is one step')


def _execute_steps(args: CollectArgs, folder: Path) -> int:
    """Return how many steps of each answer of a policy, which was checked, are executed."""
    from specvla_ros.openvla.checkpoint import read_config
    steps = read_config(folder).get('chunk') or 1
    if steps == 1:
        refuse_unused(args, ('execute_steps',),
                      f'each answer of --checkpoint {args.checkpoint} is one step')
    check_execute_steps(args.execute_steps, steps)
    return args.execute_steps or min(_USUAL_STEPS, steps)


def _check_there(args: CollectArgs, tasks: list[int]) -> None:
    """Refuse to go on with episodes that were recorded without the executed actions."""
    for task in tasks:
        for seed in range(args.seed, args.seed + args.episodes):
            path = _path(args, task, seed)
            if not path.exists():
                continue
            try:
                with EpisodeFile(path) as episode:
                    known = 'executed' in episode
            except (OSError, ValueError, EOFError, BadZipFile) as error:
                raise SpecVLAError(f'{path} is no episode ({error}): delete it and collect again'
                                   ) from error
            if not known:
                raise SpecVLAError(f'{path} was collected without --chunk and teaches no chunks: '
                                   'give another --out, or another --seed')


def _path(args: CollectArgs, task: int, seed: int) -> Path:
    return data_folder(args.out) / args.suite / f'task{task}' / f'seed{seed}.npz'


def _collect(args: CollectArgs, jobs: list[Demonstration]) -> int:
    """Let workers play what isn't there yet, and write it; returns an exit code."""
    from rich.progress import Progress

    from specvla_ros.progress import titled_columns
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    there = [job for job in jobs if not args.count and _path(args, job.task, job.seed).exists()]
    # Of chunks the expert always plays stretches of its own.
    tally = Tally(of_policy=args.checkpoint is not None and args.chunk == 1)
    for job in there:
        tally.add(job.task, job.seed, _outcome(args, job))
    lost = 0
    folders = () if args.checkpoint is None else (checkpoint_folder(args.checkpoint),)
    employer = workers_at(args.ray, Collector(args), threads=1, device='cpu', folders=folders)
    # Every environment made leaves some 200 MB behind: fresh processes after a few of them.
    crew = Crew(employer, args.workers, lifetime=ROUND * BATCH)
    missing = [job for job in jobs if job not in set(there)]
    verb = 'count' if args.count else 'collect'
    with (Progress(*titled_columns()) as progress,
          contextlib.closing(crew.run(missing)) as events):
        bar = progress.add_task(f'{verb} {args.suite}', total=len(jobs), completed=tally.played)
        for event in events:
            if isinstance(event, Done):
                content, outcome = event.result
                if not args.count:
                    with whole_file(_path(args, event.job.task, event.job.seed)) as path:
                        path.write_bytes(content)
                tally.add(event.job.task, event.job.seed, outcome)
            elif isinstance(event, GivenUp):
                lost += 1
                print(f'task {event.job.task} seed {event.job.seed} is left out: {event.reason}',
                      file=sys.stderr)
            progress.update(bar, completed=tally.played,
                            description=f'{verb} {args.suite}: {tally.summary}')
            if not progress.console.is_terminal and tally.played % BATCH == 0:
                print(f'{time.strftime("%H:%M:%S")} {tally.summary}', flush=True)
    tally.print(f'{verb}ed: {args.suite}', {
        task: suites.task(args.suite, task).instruction for task in tally.tasks})
    return 1 if lost else 0


def _outcome(args: CollectArgs, job: Demonstration) -> Outcome:
    path = _path(args, job.task, job.seed)
    try:
        with EpisodeFile(path) as episode:
            return _outcome_of({name: episode[name] for name in ('success', *_STEPS)
                                if name in episode})
    except (OSError, ValueError, EOFError, KeyError, BadZipFile, zlib.error) as error:
        raise SpecVLAError(f'{path} is no episode ({error}): delete it and collect again'
                           ) from error


def _outcome_of(episode: Mapping[str, Any]) -> Outcome:
    steps, policy_steps = map(episode.get, _STEPS)  # older files have none
    return Outcome(bool(episode['success']), steps is not None and bool(policy_steps == steps))


@dataclass(frozen=True, slots=True)
class Collector:
    """Makes itself the worker that plays demonstrations, in its process; picklable."""

    args: CollectArgs

    def __call__(self) -> 'Collector':
        """Make nothing yet: simulator and policy come with the first episode."""
        return self

    def do(self, job: Demonstration, tell: Callable[[Any], None]) -> tuple[bytes, Outcome]:
        """Play an episode; return its file's content, none of a count, and how it ended."""
        episode = _episode(_environment(self.args, job.task), self.args, job.seed)
        if self.args.count:
            return b'', _outcome_of(episode)
        file = io.BytesIO()
        np.savez(file, **episode)
        return file.getvalue(), _outcome_of(episode)


_open: dict = {}  # this process's environment and expert: making one takes 9 s, a reset 0.2 s


def _environment(args: CollectArgs, task: int) -> 'LiberoEnv':
    from specvla_ros.libero.environment import LiberoEnv
    if _open.get('task') != (args.suite, task):
        if 'env' in _open:
            _open.pop('env').close()
        env = LiberoEnv(args.suite, task, args.resolution, render=not args.count)
        _open.update(env=env, task=(args.suite, task))
    return _open['env']


def _policy(args: CollectArgs) -> 'Policy | None':
    if args.checkpoint is None:
        return None
    if 'policy' not in _open:
        import torch

        from specvla_ros.openvla.checkpoint import read_config, read_norm_stats
        from specvla_ros.policy import Policy
        torch.set_num_threads(1)
        folder = checkpoint_folder(args.checkpoint)
        keys = read_norm_stats(folder, read_config(folder))
        _open['policy'] = Policy.load(folder, decoder=args.decoder,
                                      unnorm_key=suites.statistics_key(args.suite, keys))
    return _open['policy']


def _episode(env: 'LiberoEnv', args: CollectArgs, seed: int) -> dict:
    if args.chunk == 1:
        return _collect_episode(env, args, seed)
    from specvla_ros.training.chunk_play import play
    return play(env, _policy(args), np.random.default_rng([SEED_BASE, seed, env.task_id]),
                chunk=args.chunk, execute=args.execute_steps or 1, policy_share=args.policy_share,
                strength=args.noise, keep=args.keep, start_seed=SEED_BASE + seed,
                lengths=LENGTHS[args.suite])


def _collect_episode(env: 'LiberoEnv', args: CollectArgs, seed: int) -> dict:
    """Run one episode; the executed action is noisy or the policy's, the label the expert's."""
    from specvla_ros.libero.environment import ROTATION_SCALE, TRANSLATION_SCALE
    from specvla_ros.libero.experts.task_expert import TaskExpert
    from specvla_ros.training.stills import Stills
    random = np.random.default_rng([SEED_BASE, seed, env.task_id])
    stills = Stills(env, np.random.default_rng([SEED_BASE, seed, env.task_id, 1]))
    scale = np.array([TRANSLATION_SCALE] * 3 + [ROTATION_SCALE] * 3 + [1.0])
    env.reset_random(SEED_BASE + seed, render=False)
    expert, policy = TaskExpert(env), _policy(args)
    disturbance, lengths = Disturbance(random, args.noise), LENGTHS[args.suite]
    stuck = Stuck(lengths.disturbed)
    jpegs, actions, states, frames = [], [], [], []
    policy_until = expert_until = policy_steps = 0
    for step in range(lengths.most):
        label = expert.act() / scale
        if args.stills:
            stills.note(expert)
        if policy is not None and step >= max(policy_until, expert_until):
            stretch = step + int(random.integers(5, 40))
            if random.random() < args.policy_share:
                policy_until = stretch
            else:
                expert_until = stretch
        drives = policy is not None and step < min(policy_until, lengths.disturbed)
        # Motion at full speed tells a policy little that is new: some of it isn't rendered.
        steady = np.abs(label[:3]).max() > 0.999 and step > 0
        # A count draws the same random numbers, so that its episodes are the same.
        wanted = drives or not steady or random.random() < args.keep
        image = env.frame() if wanted and env.render else None
        if image is not None and (not steady or not drives or random.random() < args.keep):
            jpegs.append(_jpeg(image))
            actions.append(label.astype(np.float32))
            states.append(expert.state())
            frames.append(step)
        executed = policy.act(image, env.instruction).si[0].astype(np.float64) / scale \
            if drives else disturbance(label) if step < lengths.disturbed else label
        policy_steps += drives
        observation = env.step(executed * scale, render=False)
        if observation.success or stuck(step, observation.eef_position):
            break
    episode = dict(jpeg=_boxed(jpegs), action=np.array(actions), state=np.array(states),
                   frame=np.array(frames, np.int32), instruction=env.instruction,
                   success=observation.success, steps=step + 1, policy_steps=policy_steps)
    if shown := list(stills.take(args.stills)):
        action = np.array([it.actions / scale for it in shown], np.float32)
        state = np.array([it.states for it in shown])
        episode |= dict(still_jpeg=_boxed([_jpeg(it.image) for it in shown]),
                        still_action=action[:, 0], still_state=state[:, 0])
        if stills.others:
            episode |= dict(other_instruction=np.array(stills.others), other_action=action[:, 1:],
                            other_state=state[:, 1:])
    return episode


def _jpeg(image: np.ndarray) -> bytes:
    import cv2
    return cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def _boxed(jpegs: list[bytes]) -> np.ndarray:
    boxed = np.empty(len(jpegs), dtype=object)
    boxed[:] = jpegs
    return boxed
