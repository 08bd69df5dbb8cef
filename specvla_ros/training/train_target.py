"""
`specvla train target`: teach an OpenVLA of small dimensions to imitate the collected episodes.

The folder `--out` holds a whole checkpoint (averaged weights) from the first evaluation on, each
replaced in one go, so that it can be tried while the training goes on. Beside it
`<out>.training/` keeps the state to resume from and the learning curve (`curve.jsonl`, one object
an evaluation).
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
from torch import nn, Tensor
import tyro

from specvla_ros.data_sets import load_dataset
from specvla_ros.devices import resolve_device
from specvla_ros.embedded import checkpoint_folder
from specvla_ros.errors import SpecVLAError
from specvla_ros.files import whole_file, whole_folder
from specvla_ros.libero import suites
from specvla_ros.libero.assets import cache_folder
from specvla_ros.openvla.action_tokenizer import ActionStatistics
from specvla_ros.openvla.config import MOST_STEPS
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training.batches import Augmentation, BatchMaker, NONE, StateScale
from specvla_ros.training.dataset import action_statistics, Dataset, Frames
from specvla_ros.training.objective import (
    action_hidden,
    Batch,
    Loss,
    StateHeads,
    target_loss,
    vision_loss,
)
from specvla_ros.training.optimizer import check_schedule, Optimizer, OptimizerSettings
from specvla_ros.training.sampler import Sampler
from specvla_ros.training.saved_state import load_state
from specvla_ros.training.shape import new_target, TargetShape
from specvla_ros.training.target_check import check_place, check_same, check_target
from specvla_ros.training.tokenizer import build_tokenizer, prompt_text
from specvla_ros.training.training_progress import TrainingProgress

Help = tyro.conf.arg
# What a resumed training needs.
_SAVED = ('settings', 'optimizer', 'sampler', 'elapsed', 'samples', 'instructions', 'scale',
          'statistics', 'episodes')
_TRANSLATION = 3  # an action begins with it


@dataclass(frozen=True, slots=True)
class TrainTargetArgs:
    """Train the target on collected episodes; ends after `--minutes`, or else `--epochs`."""

    out: Annotated[Path, Help(help='checkpoint folder to write')] = Path('runs/target')
    suite: Annotated[str, Help(help='suite the episodes are of')] = 'libero_object'
    tasks: Annotated[tuple[int, ...], Help(help='task numbers; none = all')] = ()
    data: Annotated[Path | None, Help(help='data folder; default in the cache')] = None
    unnorm_key: Annotated[str | None, Help(help='name of the statistics; default: suite')] = None
    chunk: Annotated[int, Help(
        help='control steps of an action; above 1 the data must be collected with --chunk')] = 1
    execute_steps: Annotated[int | None, Help(
        help='of these, how many to recommend to execute; default: half of them')] = None
    minutes: Annotated[float, Help(help='wall-clock time to train for; 0 = count epochs')] = 0.0
    epochs: Annotated[float, Help(help='passes over the frames, where --minutes is 0')] = 10.0
    batch: Annotated[int, Help(help='frames a step, over all lanes')] = 64
    lanes: Annotated[int, Help(help='threads, each on a core of its own')] = 2
    dtype: Annotated[str, Help(help='bfloat16 or float32: what the lanes compute in')] = 'bfloat16'
    store: Annotated[str, Help(
        help='bfloat16 or float32: what the weights are written in; half the size in bfloat16')
        ] = 'float32'
    device: Annotated[str, Help(help='cpu or cuda')] = 'cpu'
    seed: Annotated[int, Help(help='of weights, order and augmentation')] = 0
    resume: Annotated[bool, Help(help='go on with the interrupted training of --out')] = False
    init: Annotated[Path | None, Help(
        help='checkpoint to start from: a folder, or the name of an embedded one')] = None
    freeze_vision: Annotated[bool, Help(help='leave the vision towers as --init has them')] = False
    vision_only: Annotated[bool, Help(
        help='train the vision towers alone, on the privileged state; go on with --init')] = False
    holdout: Annotated[float, Help(help='share of episodes kept for measuring')] = 0.03
    rescan: Annotated[float, Help(help='minutes between looks for new episodes')] = 5.0
    evaluate: Annotated[float, Help(help='minutes between measurements and saved states')] = 3.0
    eval_frames: Annotated[int, Help(help='held-out frames a measurement takes')] = 512
    text_tokens: Annotated[int, Help(help='ids of the tokenizer below the action tokens')] = 384
    sigma_start: Annotated[float, Help(help='width of the smoothed labels at first, bins')] = 6.0
    sigma_end: Annotated[float, Help(help='width at last, of a translation, bins')] = 4.0
    sigma_rotation: Annotated[float, Help(help='width at last, of a rotation, bins')] = 1.0
    state_weight: Annotated[float, Help(help='weight of the privileged-state loss')] = 0.3
    shape: TargetShape = field(default_factory=TargetShape)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    augmentation: Augmentation = field(default_factory=Augmentation)


def run(args: TrainTargetArgs) -> int:
    """
    Train, measure and save until the end; returns an exit code.

    :raises SpecVLAError: no data, settings that can't be, or an unfinished training in the way
    """
    if args.init is not None:
        args = replace(args, init=checkpoint_folder(args.init))
    _check(args)
    training = Training(args)
    with training.progress:
        training.run()
    return 0


class Training:
    """One training of a target, from its data to its checkpoint."""

    def __init__(self, args: TrainTargetArgs) -> None:
        self.args = args
        self.state_folder = args.out.with_name(args.out.name + '.training')
        self.progress = TrainingProgress('train target', Console())
        saved = self._saved_state()
        settings = load_dataset(args.unnorm_key or args.suite)
        self.dataset = Dataset(args.data or cache_folder() / 'data', args.suite,
                               self._image_size(), settings.mirror_image, args.tasks,
                               settings.image, args.chunk)
        self.dataset.refresh(args.lanes, only=saved and saved['episodes'],
                             on_progress=self.progress.loading)
        if not self.dataset.episodes:
            raise SpecVLAError(
                f'no successful episodes under {self.dataset.folder}: `specvla collect` makes '
                'them')
        torch.manual_seed(args.seed)
        self.statistics = self._statistics(saved)
        self.scale = StateScale(**saved['scale']) if saved \
            else StateScale.of(self.dataset.episodes)
        self.instructions = saved['instructions'] if saved else self._instructions()
        self.module = self._module()
        self.model: OpenVLA = self.module['model']
        self.optimizer = Optimizer(self.module, args.optimizer, args.lanes,
                                   getattr(torch, args.dtype))
        self.maker = BatchMaker(
            self.model, self.statistics, self.scale, self.instructions, args.chunk)
        self.sampler = Sampler(args.seed, args.batch)
        self.elapsed = 0.0  # seconds, over all resumed runs
        self.samples = 0
        if saved:
            self.optimizer.load_state_dict(saved['optimizer'])
            self.sampler.load_state_dict(saved['sampler'])
            self.elapsed, self.samples = saved['elapsed'], saved['samples']
        self._divide()

    def run(self) -> None:
        """Train to the end."""
        started = time.monotonic() - self.elapsed
        last_scan = last_evaluation = time.monotonic()
        self.progress.say(
            f'{sum(p.numel() for p in self.model.parameters()) / 1e6:.2f} M parameters, '
            f'{len(self.frames)} training frames of {len(self.frames.episodes)} episodes, '
            f'{len(self.held_out)} frames held out')
        losses: list[Loss] = []
        counted_from, counted = time.monotonic(), self.samples
        while (done := self._done()) < 1:
            now = time.monotonic()
            due = self.args.rescan * 60 < now - last_scan
            if self.sampler.at_end or due:
                grown = self.dataset.refresh(self.args.lanes)
                last_scan = time.monotonic()
                if self.sampler.at_end or grown:
                    self._divide()
                    self.sampler.begin(len(self.frames))
            losses += self._step(done)
            self.elapsed = time.monotonic() - started
            speed = (self.samples - counted) / max(time.monotonic() - counted_from, 1e-9)
            self.progress.update(self._done(), self.elapsed, speed, losses)
            if time.monotonic() - last_evaluation > self.args.evaluate * 60:
                self._evaluate_and_save(losses, speed)
                losses = []
                last_evaluation = counted_from = time.monotonic()
                counted = self.samples
        if losses:
            self._evaluate_and_save(losses, speed)
        self.progress.say(f'checkpoint in {self.args.out}')

    def _done(self) -> float:
        """Share of the training that is done, 0 … 1."""
        if self.args.minutes:
            return min(1.0, self.elapsed / (60 * self.args.minutes))
        steps = max(1, math.floor(self.args.epochs * len(self.frames) / self.args.batch))
        return min(1.0, self.optimizer.steps / steps)

    def _step(self, done: float) -> list[Loss]:
        """One optimiser step on the next batch."""
        args = self.args
        indices = np.array_split(self.sampler.next(), args.lanes)
        sigma = self._sigma(done)

        def lane(part: tuple[int, np.ndarray]) -> tuple[Tensor, Loss]:
            number, chosen = part
            random = np.random.default_rng([args.seed, self.optimizer.steps, number])
            batch = self.maker(self.frames, chosen, random, args.augmentation)
            replica = self.optimizer.replica
            batch = _on(batch, args.device)
            if args.vision_only:
                loss = vision_loss(replica['model'], replica['heads'], batch)
            else:
                loss = target_loss(replica['model'], replica['heads'], batch, sigma,
                                   args.state_weight)
            return loss.total, Loss(loss.total.detach(), loss.tokens, loss.state)

        losses = self.optimizer.step(lane, list(enumerate(indices)), done)
        self.samples += args.batch
        return losses

    def _sigma(self, done: float) -> Tensor:
        """Widths of the smoothed labels [L]: those of the gripper are hard."""
        args = self.args
        # A hand that is unsure where it is says the commonest answer, about zero, and stays there.
        # Wide labels make neighbouring answers help each other; a rotation is hardly ever unsure.
        last = torch.full((self.statistics.action_dim,), args.sigma_rotation)
        last[:_TRANSLATION] = args.sigma_end
        sigma = args.sigma_start + (last - args.sigma_start) * done
        sigma[-1] = 0
        return sigma.repeat(args.chunk)

    def _evaluate_and_save(self, losses: list[Loss], speed: float) -> None:
        """Measure the averaged weights on held-out frames; write curve, state, checkpoint."""
        exact, near = self._accuracy()
        point = {
            'step': self.optimizer.steps, 'minutes': self.elapsed / 60,
            'epoch': self.samples / max(1, len(self.frames)), 'samples': self.samples,
            'frames': len(self.frames), 'episodes': len(self.frames.episodes),
            'samples_per_s': speed,
            'loss': _mean([loss.tokens for loss in losses]),
            'state_loss': _mean([loss.state for loss in losses]),
            'held_out_exact': exact, 'held_out_within_9': near,
        }
        self.progress.point(point, self.args.chunk)
        self.state_folder.mkdir(parents=True, exist_ok=True)
        with (self.state_folder / 'curve.jsonl').open('a') as file:
            file.write(json.dumps(point) + '\n')
        self._save()

    @torch.no_grad()
    def _accuracy(self) -> tuple[list[float], list[float]]:
        """Share of held-out tokens [L] that are exact, and within 9 bins (teacher forcing)."""
        if not len(self.held_out):
            return [], []
        size = min(self.args.eval_frames, len(self.held_out))
        chosen = np.linspace(0, len(self.held_out) - 1, size).astype(np.int64)
        model: OpenVLA = self.optimizer.averaged['model']
        tokenizer = model.action_tokenizer

        def lane(indices: np.ndarray) -> Tensor:
            with torch.no_grad():
                batch = self.maker(self.held_out, indices, np.random.default_rng(0), NONE)
                batch = _on(batch, self.args.device)
                said = model.logits(action_hidden(model, batch)[1]).argmax(-1)
                off = (tokenizer.bins(said) - tokenizer.bins(batch.labels)).abs()
                return torch.where(tokenizer.is_action(said), off, tokenizer.n_bins).cpu()

        parts = np.array_split(chosen, max(1, size // 32))
        off = torch.cat(self.optimizer.map(lane, parts))
        return ((off == 0).float().mean(0).tolist(), (off <= 9).float().mean(0).tolist())

    def _save(self) -> None:
        """Write the averaged weights as a checkpoint, and the state to resume from."""
        model: OpenVLA = self.optimizer.averaged['model']
        model.norm_stats = {self.args.unnorm_key or self.args.suite: {
            'action': {'q01': self.statistics.q01.tolist(), 'q99': self.statistics.q99.tolist(),
                       'mask': self.statistics.mask.tolist()},
            'num_transitions': self.dataset.n_frames,
            'num_trajectories': len(self.dataset.episodes)}}
        with whole_folder(self.args.out) as folder:
            model.save_pretrained(folder, getattr(torch, self.args.store))
            (folder / 'dataset_statistics.json').write_text(
                json.dumps(model.norm_stats, indent=2) + '\n')
        state = {
            'settings': _settings(self.args), 'optimizer': self.optimizer.state_dict(),
            'sampler': self.sampler.state_dict(), 'elapsed': self.elapsed,
            'samples': self.samples, 'instructions': self.instructions,
            'scale': asdict(self.scale), 'statistics': asdict(self.statistics),
            'episodes': [episode.name for episode in self.dataset.episodes],
        }
        with whole_file(self.state_folder / 'state.pt') as path:
            torch.save(state, path)

    def _divide(self) -> None:
        """Part the episodes into those for training and those for measuring."""
        share = self.args.holdout
        episodes = self.dataset.episodes
        self.frames = Frames.of([e for e in episodes if not e.is_held_out(share)])
        self.held_out = Frames.of([e for e in episodes if e.is_held_out(share)])

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
        saved = load_state(path, _SAVED, weights_only=False, map_location=self.args.device)
        check_same(_settings(self.args), saved['settings'], self.state_folder, '--out')
        return saved

    def _image_size(self) -> int:
        if self.args.init is None:
            return self.args.shape.image_size
        return self._initial().config.image_size

    def _initial(self) -> OpenVLA:
        return OpenVLA.from_pretrained(self.args.init, self.args.device, torch.float32)

    def _statistics(self, saved: dict | None) -> ActionStatistics:
        """Statistics of the actions: fixed when the training begins, for they define tokens."""
        if saved:
            return ActionStatistics(**saved['statistics'])
        if self.args.init is not None:
            key = check_target(self.args.init, self.args.suite, self.args.unnorm_key,
                               self.args.device)
            return self._initial().action_statistics(key)
        return action_statistics(self.dataset.episodes)

    def _instructions(self) -> list[str]:
        """Instructions of the suite and of the data, in a fixed order."""
        known = {episode.instruction for episode in self.dataset.episodes}
        try:
            known |= {task.instruction for task in suites.tasks(self.args.suite)}
        except FileNotFoundError:  # no simulator on this machine: what the data say is enough
            pass
        return sorted(known)

    def _module(self) -> nn.ModuleDict:
        """Model and regression heads, ready to train."""
        args = self.args
        if args.init is not None:
            model = self._initial().train().requires_grad_(True)
        else:
            prompts = [prompt_text(text) for text in self.instructions]
            tokenizer = build_tokenizer(prompts, args.text_tokens)
            model = new_target(args.shape, tokenizer, args.text_tokens, args.seed).to(args.device)
        # So that it is deployed as it was trained, whatever the data set's file says by then.
        model.config = replace(
            model.config, image_preparation=asdict(self.dataset.image), chunk=args.chunk,
            execute_steps=args.execute_steps or -(-args.chunk // 2))
        if args.device == 'cpu':
            # The fused attention's backward takes 40 % of a step on a CPU, the plain one's 8 %.
            for part in (model.language_model, model.vision.dino, model.vision.siglip):
                if part is not None:
                    part.set_attn_implementation('eager')
        model.requires_grad_(not args.vision_only)
        model.vision.requires_grad_(not args.freeze_vision)
        config = model.config
        heads = StateHeads(config.n_patches * config.vision_config.feature_size,
                           config.hidden_size, self.scale.mean.size, len(self.instructions))
        return nn.ModuleDict({'model': model, 'heads': heads.to(args.device)})


def _check(args: TrainTargetArgs) -> None:
    """Refuse settings that can't be."""
    check_schedule(args)
    resolve_device(args.device)
    check_place('--out', args.out)
    if args.init is not None:
        check_target(args.init, args.suite, args.unnorm_key, args.device)
    if not 1 <= args.chunk <= MOST_STEPS:
        raise SpecVLAError(f'--chunk {args.chunk}: give 1 to {MOST_STEPS} control steps')
    if args.execute_steps is not None and not 1 <= args.execute_steps <= args.chunk:
        raise SpecVLAError(f'--execute-steps {args.execute_steps}: give 1 to {args.chunk}, the '
                           'steps of an action (--chunk)')
    if args.freeze_vision and args.init is None:
        raise SpecVLAError('freeze_vision needs --init: random vision towers learn nothing')


def _settings(args: TrainTargetArgs) -> dict:
    """What a resumed training must have in common with the interrupted one."""
    names = ('suite', 'tasks', 'unnorm_key', 'chunk', 'execute_steps', 'batch', 'lanes', 'dtype',
             'seed', 'freeze_vision', 'vision_only', 'holdout', 'text_tokens')
    return {name: getattr(args, name) for name in names} | {
        'shape': asdict(args.shape), 'init': args.init and str(args.init)}


def _on(batch: Batch, device: str) -> Batch:
    """Move a batch to the device that computes."""
    if device == 'cpu':
        return batch
    return Batch(**{name: getattr(batch, name).to(device, non_blocking=True)
                    for name in Batch.__slots__})


def _mean(values: list[Tensor]) -> float | None:
    return float(torch.stack(values).mean()) if values else None
