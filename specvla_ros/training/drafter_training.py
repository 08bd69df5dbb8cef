"""
The training that all drafters share: frames, steps, measurements, files.

A drafter learns from `specvla regenerate`'s data. Its folder is whole from the first measurement
on, each replaced in one go; beside it a folder `….training/` keeps the state to resume from and
the learning curve (`curve.jsonl`). At the end the deployed decoder measures the drafter on
held-out frames, which neither the target nor the drafter was trained on.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
import copy
from dataclasses import dataclass
import json
import math
from pathlib import Path
import time
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
import torch
from torch import nn, Tensor
import tyro

from specvla_ros.errors import SpecVLAError
from specvla_ros.files import whole_file, whole_folder
from specvla_ros.hashing import folder_sha256
from specvla_ros.libero.assets import cache_folder
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training.dataset import Dataset, Episode
from specvla_ros.training.draft_batches import ShardFrames
from specvla_ros.training.optimizer import check_schedule, Optimizer, OptimizerSettings
from specvla_ros.training.regenerated import default_folder, open_shards
from specvla_ros.training.sampler import Sampler
from specvla_ros.training.saved_state import load_state
from specvla_ros.training.target_check import check_place, check_same, check_target
from specvla_ros.training.training_progress import HasTokens, TrainingProgress
from specvla_ros.writable import check_writable

Help = tyro.conf.arg


@dataclass(frozen=True, slots=True)
class DrafterTrainingArgs:
    """Arguments of every drafter's training."""

    target: Annotated[Path, Help(
        help='checkpoint of the target: a folder, or the name of an embedded one')
        ] = Path('runs/target')
    suite: Annotated[str, Help(help='suite the data are of')] = 'libero_object'
    regenerated: Annotated[Path | None, Help(
        help='folder that `specvla regenerate` wrote; default in the cache')] = None
    data: Annotated[Path | None, Help(help='data folder; default in the cache')] = None
    unnorm_key: Annotated[str | None, Help(help='name of the statistics; default: suite')] = None
    minutes: Annotated[float, Help(help='wall-clock time to train for; 0 = count epochs')] = 0.0
    epochs: Annotated[float, Help(help='passes over the frames, where --minutes is 0')] = 10.0
    batch: Annotated[int, Help(help='frames a step, over all lanes')] = 64
    lanes: Annotated[int, Help(help='threads, each on a core of its own')] = 2
    dtype: Annotated[str, Help(help='bfloat16 or float32: what the lanes compute in')] = 'float32'
    store: Annotated[str, Help(
        help='bfloat16 or float32: what the weights are written in; half the size in bfloat16')
        ] = 'float32'
    device: Annotated[str, Help(help='cpu or cuda')] = 'cpu'
    seed: Annotated[int, Help(help='of weights, order, paths and noise')] = 0
    resume: Annotated[bool, Help(help='go on with an interrupted training')] = False
    holdout: Annotated[float, Help(help="share of episodes for measuring; the target's")] = 0.03
    evaluate: Annotated[float, Help(help='minutes between measurements and saved states')] = 1.0
    decode_frames: Annotated[int, Help(help='held-out frames that are decoded at the end')] = 150


class Measurement(Protocol):
    """The measurement of a network on held-out frames."""

    def point(self) -> dict[str, Any]:
        """Return its part of a point of the learning curve."""
        ...

    def lines(self, action_dim: int) -> list[str]:
        """Return a table for people."""
        ...


class DrafterTraining(ABC):
    """
    One training of a drafter, from the target's words to a folder.

    name: of the command; option: of its that says where the drafter goes; keep: folders in that
    place which are not this training's.
    """

    name: ClassVar[str]
    option: ClassVar[str]
    keep: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, args: DrafterTrainingArgs, optimizer: OptimizerSettings, out: Path, state: Path
    ) -> None:
        check_schedule(args)
        self.unnorm_key = check_target(args.target, args.suite, args.unnorm_key, args.device)
        check_place(self.option, out, self.keep)
        check_writable(self.option, state)
        self.args, self.out, self.state_folder = args, out, state
        self.progress = TrainingProgress(self.name, Console())
        saved = self._saved_state()
        self.target_sha256 = folder_sha256(args.target)
        folder = args.regenerated or default_folder(args.suite, self.target_sha256)
        self.manifest, shards = open_shards(folder, self.target_sha256)
        self.model = OpenVLA.from_pretrained(args.target, args.device).requires_grad_(False)
        self.frames, self.held_out = (
            ShardFrames([shard for shard in shards if shard.is_held_out(args.holdout) is out])
            for out in (False, True))
        if len(self.frames) < args.batch:
            raise SpecVLAError(f'{folder} holds {len(self.frames)} training frames (holdout '
                               f'{args.holdout}), must be at least a batch of {args.batch}')
        self._check_episodes()
        self.dtype = getattr(torch, args.dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(args.seed)  # the same seed gives the same weights
            head = self.new_head().to(args.device)
        self.optimizer = Optimizer(head, optimizer, args.lanes, self.dtype)
        self.sampler = Sampler(args.seed, args.batch)
        self.elapsed = 0.0  # seconds, over all resumed runs
        if saved:
            check_same(self._settings(), saved['settings'], state, self.option)
            self.optimizer.load_state_dict(saved['optimizer'])
            self.sampler.load_state_dict(saved['sampler'])
            self.elapsed = saved['elapsed']

    @abstractmethod
    def new_head(self) -> nn.Module:
        """Return the network with random weights; `model` and `manifest` are there."""

    @abstractmethod
    def loss(
        self, chosen: NDArray[np.int64], random: np.random.Generator
    ) -> tuple[Tensor, HasTokens]:
        """Loss of training frames with `optimizer.replica`, and its parts, detached."""

    @abstractmethod
    def curve(self, losses: Sequence[HasTokens]) -> dict[str, float]:
        """Return what a point of the learning curve says of the losses since the last."""

    @abstractmethod
    def measure(self) -> Measurement:
        """Hold the averaged weights against all held-out frames; there are some."""

    @abstractmethod
    def verdict(self, episodes: list[Episode]) -> str:
        """Say what the deployed decoder makes of the drafter in `out`, on held-out episodes."""

    def own_settings(self) -> dict[str, Any]:
        """What else a resumed training must have in common with the interrupted one."""
        return {}

    def run(self) -> None:
        """Train to the end, then decode."""
        args, started = self.args, time.monotonic() - self.elapsed
        self.progress.say(
            f'{sum(p.numel() for p in self.optimizer.module.parameters()) / 1e6:.2f} M '
            f'parameters, {len(self.frames)} training frames of {len(self.frames.shards)} '
            f'episodes, {len(self.held_out)} held out; target {self.target_sha256[:12]}')
        losses: list[HasTokens] = []
        last, counted = time.monotonic(), self.optimizer.steps
        while (done := self._done()) < 1:
            if self.sampler.at_end:
                self.sampler.begin(len(self.frames))
            losses += self._step(done)
            now = time.monotonic()
            self.elapsed = now - started
            speed = args.batch * (self.optimizer.steps - counted) / max(now - last, 1e-9)
            self.progress.update(self._done(), self.elapsed, speed, losses)
            if now - last > 60 * args.evaluate:
                self._evaluate_and_save(losses, speed)
                losses, last, counted = [], time.monotonic(), self.optimizer.steps
        measured = self._evaluate_and_save(losses, speed) if losses else self._measured()
        for line in measured.lines(self.manifest.length) if measured else ():
            self.progress.say(line)
        self.progress.say(f'drafter in {self.out}')
        self._decode()

    def held_out_parts(self) -> list[NDArray[np.int64]]:
        """Running indices of all held-out frames, in parts of a batch."""
        frames = np.arange(len(self.held_out))
        return np.array_split(frames, math.ceil(len(frames) / self.args.batch))

    def _done(self) -> float:
        """Share of the training that is done, 0 … 1."""
        if self.args.minutes:
            return min(1.0, self.elapsed / (60 * self.args.minutes))
        steps = max(1, math.floor(self.args.epochs * len(self.frames) / self.args.batch))
        return min(1.0, self.optimizer.steps / steps)

    def _step(self, done: float) -> list[HasTokens]:
        """One optimiser step on the next batch."""
        parts = np.array_split(self.sampler.next(), self.args.lanes)

        def lane(part: tuple[int, NDArray]) -> tuple[Tensor, HasTokens]:
            number, chosen = part
            random = np.random.default_rng([self.args.seed, self.optimizer.steps, number])
            return self.loss(chosen, random)

        return self.optimizer.step(lane, list(enumerate(parts)), done)

    def _measured(self) -> Measurement | None:
        return self.measure() if len(self.held_out) else None

    def _evaluate_and_save(self, losses: Sequence[HasTokens], speed: float) -> Measurement | None:
        """Measure the averaged weights on held-out frames; write curve, state, drafter."""
        measured = self._measured()
        point = {
            'step': self.optimizer.steps, 'minutes': self.elapsed / 60,
            'epoch': self.optimizer.steps * self.args.batch / len(self.frames),
            'frames': len(self.frames), 'samples_per_s': speed,
            **self.curve(losses), **(measured.point() if measured else {}),
        }
        self.progress.point(point)
        self.state_folder.mkdir(parents=True, exist_ok=True)
        with (self.state_folder / 'curve.jsonl').open('a') as file:
            file.write(json.dumps(point) + '\n')
        self._save(point)
        return measured

    def _save(self, point: dict) -> None:
        """Write the averaged weights as a drafter, and the state to resume from."""
        with whole_folder(self.out, self.keep) as folder:
            written = copy.deepcopy(self.optimizer.averaged).to(getattr(torch, self.args.store))
            written.save_pretrained(folder)
            (folder / 'training.json').write_text(json.dumps(
                {'target_sha256': self.target_sha256, 'measured': point}, indent=1) + '\n')
        state = {'settings': self._settings(), 'optimizer': self.optimizer.state_dict(),
                 'sampler': self.sampler.state_dict(), 'elapsed': self.elapsed}
        with whole_file(self.state_folder / 'state.pt') as path:
            torch.save(state, path)

    def _decode(self) -> None:
        """Tell what the deployed decoder makes of the drafter on held-out frames."""
        args, names = self.args, [shard.name for shard in self.held_out.shards]
        if not names or not args.decode_frames:
            return
        dataset = Dataset(args.data or cache_folder() / 'data', args.suite,
                          self.manifest.image_size, self.manifest.mirror,
                          image=self.manifest.preparation)
        dataset.refresh(args.lanes, only=names)
        self.progress.say(self.verdict(dataset.episodes))

    def _check_episodes(self) -> None:
        """Refuse to train for hours if the episodes that are decoded at the end aren't there."""
        folder = (self.args.data or cache_folder() / 'data') / self.args.suite
        if self.args.decode_frames:
            for shard in self.held_out.shards:
                if not (path := folder / f'{shard.name}.npz').is_file():
                    raise SpecVLAError(f'{path} is missing, which is decoded at the end: give '
                                       '--data, or --decode-frames 0')

    def _saved_state(self) -> dict | None:
        """State of an interrupted training, if it is to be resumed."""
        path = self.state_folder / 'state.pt'
        if not self.args.resume:
            if path.exists():
                raise SpecVLAError(
                    f'{self.state_folder} holds a training: add --resume to go on with it, '
                    f'choose another {self.option}, or delete that folder')
            return None
        if not path.exists():
            raise SpecVLAError(f'{path} does not exist: nothing to resume, leave out --resume')
        keys = ('settings', 'optimizer', 'sampler', 'elapsed')
        return load_state(path, keys, weights_only=True, map_location=self.args.device)

    def _settings(self) -> dict:
        """What a resumed training must have in common with the interrupted one."""
        names = ('suite', 'batch', 'lanes', 'dtype', 'seed', 'holdout')
        return {name: getattr(self.args, name) for name in names} | {
            'target_sha256': self.target_sha256, 'frames': len(self.frames)} | self.own_settings()
