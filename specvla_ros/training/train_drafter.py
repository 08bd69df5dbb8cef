"""
`specvla train drafter`: teach an EAGLE drafter to say what its target says.

It learns from `specvla regenerate`'s data, unrolled on its own guesses (`unroll.py`). `--out`
holds a whole drafter folder from the first measurement on, each replaced in one go; beside it
`<out>.training/` keeps the state to resume from and the learning curve (`curve.jsonl`). At the
end the deployed decoder tells the acceptance length on held-out frames, which neither the target
nor the drafter was trained on.
"""

from dataclasses import asdict, dataclass, field, replace
import json
import math
from pathlib import Path
import time
from typing import Annotated

import numpy as np
from rich.console import Console
import torch
from torch import Tensor
import tyro

from specvla_ros.decoding.drafters.eagle_head import EagleConfig, EagleHead
from specvla_ros.errors import SpecVLAError
from specvla_ros.hashing import folder_sha256
from specvla_ros.libero.assets import cache_folder
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.policy import Checkpoint
from specvla_ros.training.dataset import Dataset
from specvla_ros.training.draft_batches import DraftBatchMaker, NONE, Perturbation, ShardFrames
from specvla_ros.training.drafter_measures import acceptance_lengths, Accuracy, ConstantDrafter
from specvla_ros.training.files import replace_file, replace_folder
from specvla_ros.training.optimizer import Optimizer, OptimizerSettings
from specvla_ros.training.progress import TrainingProgress
from specvla_ros.training.regenerated import default_folder, open_shards
from specvla_ros.training.sampler import Sampler
from specvla_ros.training.unroll import distances, drafter_loss, DraftLoss, LossWeights

Help = tyro.conf.arg


@dataclass(frozen=True, slots=True)
class TrainDrafterArgs:
    """Train an EAGLE drafter for a target on what `specvla regenerate` made with it."""

    target: Annotated[Path, Help(help='checkpoint folder of the target')] = Path('runs/target')
    out: Annotated[Path | None, Help(help='drafter folder; default: TARGET/drafter')] = None
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
    device: Annotated[str, Help(help='cpu or cuda')] = 'cpu'
    seed: Annotated[int, Help(help='of weights, order, paths and noise')] = 0
    resume: Annotated[bool, Help(help='go on with the interrupted training of --out')] = False
    holdout: Annotated[float, Help(help="share of episodes for measuring; the target's")] = 0.03
    evaluate: Annotated[float, Help(help='minutes between measurements and saved states')] = 1.0
    decode_frames: Annotated[int, Help(help='held-out frames that are decoded at the end')] = 150
    mlp: Annotated[int, Help(help="width of the drafter's MLP; 0 = as the target's")] = 0
    weights: LossWeights = field(default_factory=LossWeights)
    perturbation: Perturbation = field(default_factory=Perturbation)
    # At 2e-3 and clip 1 the loss once jumped tenfold: layer 0 has no input norm, and a target's
    # projected patches may be thousands large.
    optimizer: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(
        learning_rate=1e-3, decay=0.6, weight_decay=0.02, clip=0.5))


def run(args: TrainDrafterArgs) -> int:
    """
    Train, measure and save until the end; returns an exit code.

    :raises SpecVLAError: no data of this target, settings that can't be, or an unfinished training
        in the way
    """
    _check(args)
    training = DrafterTraining(args)
    with training.progress:
        training.run()
    return 0


class DrafterTraining:
    """One training of a drafter, from the target's words to the drafter folder."""

    def __init__(self, args: TrainDrafterArgs) -> None:
        self.args = args
        self.out = args.out or args.target / 'drafter'
        self.state_folder = args.out.with_name(args.out.name + '.training') if args.out \
            else args.target.with_name(args.target.name + '.drafter.training')
        self.progress = TrainingProgress('train drafter', Console())
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
        dtype = getattr(torch, args.dtype)
        self.maker = DraftBatchMaker(self.model, dtype)
        self.action_head = self.maker.action_head.to(dtype)
        self.optimizer = Optimizer(self._head(), args.optimizer, args.lanes, dtype)
        self.sampler = Sampler(args.seed, args.batch)
        self.elapsed = 0.0  # seconds, over all resumed runs
        if saved:
            self._check_same(saved['settings'])
            self.optimizer.load_state_dict(saved['optimizer'])
            self.sampler.load_state_dict(saved['sampler'])
            self.elapsed = saved['elapsed']

    def run(self) -> None:
        """Train to the end, then decode."""
        args, started = self.args, time.monotonic() - self.elapsed
        self.progress.say(
            f'{sum(p.numel() for p in self.optimizer.module.parameters()) / 1e6:.2f} M '
            f'parameters, {len(self.frames)} training frames of {len(self.frames.shards)} '
            f'episodes, {len(self.held_out)} held out; target {self.target_sha256[:12]}')
        losses: list[DraftLoss] = []
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
        accuracy = self._evaluate_and_save(losses, speed) if losses else self._accuracy()
        for line in accuracy.lines(self.manifest.length) if accuracy else ():
            self.progress.say(line)
        self.progress.say(f'drafter in {self.out}')
        self._decode()

    def _done(self) -> float:
        """Share of the training that is done, 0 … 1."""
        if self.args.minutes:
            return min(1.0, self.elapsed / (60 * self.args.minutes))
        steps = max(1, math.floor(self.args.epochs * len(self.frames) / self.args.batch))
        return min(1.0, self.optimizer.steps / steps)

    def _step(self, done: float) -> list[DraftLoss]:
        """One optimiser step on the next batch."""
        args = self.args
        parts = np.array_split(self.sampler.next(), args.lanes)

        def lane(part: tuple[int, np.ndarray]) -> tuple[Tensor, DraftLoss]:
            number, chosen = part
            random = np.random.default_rng([args.seed, self.optimizer.steps, number])
            batch = self.maker(self.frames, chosen, random, args.perturbation)
            loss = drafter_loss(self.optimizer.replica, self.action_head, batch, args.weights)
            return loss.total, replace(loss, total=loss.total.detach())

        return self.optimizer.step(lane, list(enumerate(parts)), done)

    def _evaluate_and_save(self, losses: list[DraftLoss], speed: float) -> Accuracy | None:
        """Measure the averaged weights on held-out frames; write curve, state, drafter."""
        accuracy = self._accuracy()
        point = {
            'step': self.optimizer.steps, 'minutes': self.elapsed / 60,
            'epoch': self.optimizer.steps * self.args.batch / len(self.frames),
            'frames': len(self.frames), 'samples_per_s': speed,
            'loss': float(torch.stack([loss.tokens for loss in losses]).mean()),
            'feature_loss': float(torch.stack([loss.features for loss in losses]).mean()),
            'held_out_exact': accuracy and accuracy.by_depth(accuracy.exact),
            'held_out_within_9': accuracy and accuracy.by_depth(accuracy.near),
        }
        self.progress.point(point)
        self.state_folder.mkdir(parents=True, exist_ok=True)
        with (self.state_folder / 'curve.jsonl').open('a') as file:
            file.write(json.dumps(point) + '\n')
        self._save(point)
        return accuracy

    def _accuracy(self) -> Accuracy | None:
        """Accuracy on all held-out frames, None if there are none."""
        if not len(self.held_out):
            return None
        head: EagleHead = self.optimizer.averaged
        maker = DraftBatchMaker(self.model, torch.float32)

        def lane(indices: np.ndarray) -> Tensor:
            batch = maker(self.held_out, indices, np.random.default_rng(0), NONE)
            return distances(head, maker.action_head, batch).cpu()

        frames = np.arange(len(self.held_out))
        parts = np.array_split(frames, math.ceil(len(frames) / self.args.batch))
        return Accuracy.of(torch.cat(self.optimizer.map(lane, parts)))

    def _save(self, point: dict) -> None:
        """Write the averaged weights as a drafter, and the state to resume from."""
        with replace_folder(self.out) as folder:
            self.optimizer.averaged.save_pretrained(folder)
            (folder / 'training.json').write_text(json.dumps(
                {'target_sha256': self.target_sha256, 'measured': point}, indent=1) + '\n')
        state = {'settings': self._settings(), 'optimizer': self.optimizer.state_dict(),
                 'sampler': self.sampler.state_dict(), 'elapsed': self.elapsed}
        with replace_file(self.state_folder / 'state.pt') as path:
            torch.save(state, path)

    def _decode(self) -> None:
        """Tell what the deployed decoder makes of the drafter on held-out frames."""
        args, names = self.args, [shard.name for shard in self.held_out.shards]
        if not names or not args.decode_frames:
            return
        dataset = Dataset(args.data or cache_folder() / 'data', args.suite,
                          self.manifest.image_size, self.manifest.mirror)
        dataset.refresh(args.lanes, only=names)
        checkpoint = Checkpoint(self.model, args.unnorm_key or args.suite, self.out)
        lengths = acceptance_lengths(checkpoint, ConstantDrafter.of(self.frames.shards),
                                     dataset.episodes, args.decode_frames)
        self.progress.say('held-out acceptance length ' + ', '.join(
            f'{name} {length.drafter:.2f} (constant guess {length.constant:.2f})'
            for name, length in lengths.items()))

    def _saved_state(self) -> dict | None:
        """State of an interrupted training, if it is to be resumed."""
        path = self.state_folder / 'state.pt'
        if not self.args.resume:
            if path.exists():
                raise SpecVLAError(
                    f'{self.state_folder} holds a training: add --resume to go on with it, '
                    'choose another --out, or delete that folder')
            return None
        if not path.exists():
            raise SpecVLAError(f'{path} does not exist: nothing to resume, leave out --resume')
        return torch.load(path, weights_only=True, map_location=self.args.device)

    def _check_same(self, saved: dict) -> None:
        for name, value in self._settings().items():
            if saved[name] != value:
                raise SpecVLAError(
                    f'--resume with {name} {value!r}, but the training in {self.state_folder} '
                    f'began with {saved[name]!r}: use that, or another --out')

    def _settings(self) -> dict:
        """What a resumed training must have in common with the interrupted one."""
        names = ('suite', 'batch', 'lanes', 'dtype', 'seed', 'holdout', 'mlp')
        return {name: getattr(self.args, name) for name in names} | {
            'target_sha256': self.target_sha256, 'frames': len(self.frames),
            'weights': asdict(self.args.weights), 'perturbation': asdict(self.args.perturbation)}

    def _head(self) -> EagleHead:
        """Drafter with random weights; the same seed gives the same."""
        config = EagleConfig.like(self.model)
        if self.args.mlp:
            config = replace(config, intermediate_size=self.args.mlp)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.args.seed)
            return EagleHead(config).to(self.args.device)


def _check(args: TrainDrafterArgs) -> None:
    """Refuse settings that can't be."""
    for name in ('batch', 'lanes'):
        if getattr(args, name) < 1:
            raise SpecVLAError(f'{name} is {getattr(args, name)}, must be at least 1')
    if args.batch % args.lanes:
        raise SpecVLAError(f'batch {args.batch} must be a multiple of lanes {args.lanes}')
    if args.dtype not in ('bfloat16', 'float32'):
        raise SpecVLAError(f'dtype is {args.dtype!r}, must be bfloat16 or float32')
    if args.minutes <= 0 and args.epochs <= 0:
        raise SpecVLAError('minutes and epochs are both 0: one must be positive')
