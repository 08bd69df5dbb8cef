"""
`specvla train target`: teach an OpenVLA of small dimensions to imitate the collected episodes.

Episodes that are collected meanwhile are taken in. `trainer.py` says what lies in the folder
`--out` and in `<out>.training/` beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
import json
from pathlib import Path
import time
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
import torch
from torch import Tensor
import tyro

from specvla_ros.data_sets import load_dataset
from specvla_ros.devices import resolve_device
from specvla_ros.embedded import checkpoint_folder
from specvla_ros.errors import SpecVLAError
from specvla_ros.libero import suites
from specvla_ros.libero.assets import data_folder
from specvla_ros.openvla.action_tokenizer import ActionStatistics
from specvla_ros.openvla.config import MOST_STEPS
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training.dataset import action_statistics, Dataset, Frames
from specvla_ros.training.holdout import divide
from specvla_ros.training.lora import check_lora, merged, MOST_RANK
from specvla_ros.training.optimizer import Optimizer, OptimizerSettings
from specvla_ros.training.process_group import ALONE, joined, ProcessGroup
from specvla_ros.training.recipe import mean, Recipe
from specvla_ros.training.saved_state import StateFolder
from specvla_ros.training.schedule import check_schedule
from specvla_ros.training.shape import forget_words, new_target, TargetShape
from specvla_ros.training.sharded_optimizer import ShardedOptimizer
from specvla_ros.training.target_batches import Augmentation, NONE, StateScale, TargetBatchMaker
from specvla_ros.training.target_check import check_place, initial_key
from specvla_ros.training.target_loss import (
    action_hidden,
    LabelWidths,
    target_loss,
    TargetLoss,
    vision_loss,
)
from specvla_ros.training.target_network import TargetNetwork
from specvla_ros.training.tokenizer import build_tokenizer, is_built_here, prompt_text
from specvla_ros.training.trainer import Trainer
from specvla_ros.training.training_progress import TrainingProgress

Help = tyro.conf.arg
_SAVED = ('instructions', 'statistics', 'episodes')  # see `TargetRecipe.state`


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
    batch: Annotated[int, Help(help='frames a step and process, over all lanes')] = 64
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
    new_words: Annotated[bool, Help(
        help='build the tokenizer of --init anew from the instructions of this suite: those of '
             'another one would go in byte by byte. Only for small targets made here')] = False
    lora: Annotated[int, Help(
        help='rank of adapters on the Llama of --init, trained alone; 0 = train all weights')] = 0
    shard: Annotated[bool, Help(
        help='divide the weights among the processes that torchrun started (FSDP)')] = False
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
    with joined(args.device) as group:
        return _train(replace(args, device=group.device), group)


def _train(args: TrainTargetArgs, group: ProcessGroup) -> int:
    _check(args, group)
    trainer = make_trainer(args, group)
    with trainer.progress as progress:
        if trainer.recipe.measured:
            progress.say(f'{args.init} has no statistics of {args.suite}: '
                         'measured on these episodes')
        trainer.run()
        progress.say(f'checkpoint in {args.out}')
    return 0


def make_trainer(args: TrainTargetArgs, group: ProcessGroup = ALONE) -> Trainer:
    """Read data, checkpoint and state: all that a training begins, or goes on, with."""
    folder = StateFolder(args.out.with_name(args.out.name + '.training'), '--out')
    # Of a sharded training each process keeps its part alone.
    saved = folder.load(args.resume, 'cpu' if args.shard else args.device, _SAVED)
    if saved:
        folder.check_same(_settings(args), saved)  # before data are read that are not its own
    progress = TrainingProgress('train target', Console(quiet=not group.leads), args.chunk)
    recipe = TargetRecipe(args, saved and saved.recipe, progress.loading)
    return Trainer(recipe, args, folder, progress, saved, group,
                   ShardedOptimizer if args.shard else Optimizer)


class TargetRecipe(Recipe):
    """
    A target and how it is taught: to say the expert's tokens, and to know where things are.

    saved: what `state` gave, to go on from; loading: told how many episodes are read, of how many.

    :raises SpecVLAError: no data, or data that can't be read
    """

    def __init__(
        self, args: TrainTargetArgs, saved: dict[str, Any] | None,
        loading: Callable[[int, int], None],
    ) -> None:
        self.args, self.out = args, args.out
        self.widths = LabelWidths(args.sigma_start, args.sigma_end, args.sigma_rotation)
        data_set = load_dataset(args.unnorm_key or args.suite)
        initial = None if args.init is None else OpenVLA.from_pretrained(
            args.init, args.device, getattr(torch, args.dtype) if args.lora else torch.float32)
        self.only_trained = bool(args.lora)
        self.measured = False  # whether the statistics are new ones, though there is an `--init`
        size = initial.config.image_size if initial else args.shape.image_size
        self.dataset = Dataset(data_folder(args.data), args.suite, size,
                               data_set.mirror_image, args.tasks, data_set.image, args.chunk)
        self.dataset.refresh(args.lanes, only=saved and saved['episodes'], on_progress=loading)
        if not self.dataset.episodes:
            raise SpecVLAError(
                f'no successful episodes under {self.dataset.folder}: `specvla collect` makes '
                'them')
        self._refreshed = time.monotonic()
        torch.manual_seed(args.seed)
        self.statistics = self._statistics(saved, initial)
        self.instructions = saved['instructions'] if saved else self._instructions()
        self.model = self._model(initial)
        self.network = TargetNetwork(
            self.model, self.dataset.episodes[0].state.shape[1], len(self.instructions),
            args.freeze_vision, args.vision_only, args.lora)
        self._divide()

    def loss(
        self, network: TargetNetwork, chosen: NDArray[np.int64], random: np.random.Generator,
        done: float,
    ) -> TargetLoss:
        """Return the loss of frames, varied at random."""
        args = self.args
        batch = self.maker(self.frames, chosen, random, args.augmentation).to(args.device)
        if args.vision_only:
            return vision_loss(network.model, network.heads, batch)
        sigma = self.widths.at(done, self.statistics.action_dim, args.chunk)
        return target_loss(network.model, network.heads, batch, sigma, args.state_weight)

    def curve(self, losses: Sequence[TargetLoss]) -> dict[str, float | None]:
        """Return the mean losses of tokens and states."""
        states = [loss.state for loss in losses if loss.state is not None]
        return super().curve(losses) | {'state_loss': mean(states)}

    def measured_frames(self) -> NDArray[np.int64]:
        """`--eval-frames` of the held-out frames, evenly."""
        frames = len(self.held_out)
        return np.linspace(0, frames - 1, min(self.args.eval_frames, frames)).astype(np.int64)

    def distances(self, network: TargetNetwork, chosen: NDArray[np.int64]) -> Tensor:
        """Hold its tokens against the expert's, each after the expert's own: int [N, L]."""
        model = network.model
        tokenizer = model.action_tokenizer
        batch = self.maker(self.held_out, chosen, np.random.default_rng(0), NONE).to(model.device)
        said = model.logits(action_hidden(model, batch)[1]).argmax(-1)
        off = (tokenizer.bins(said) - tokenizer.bins(batch.labels)).abs()
        return torch.where(tokenizer.is_action(said), off, tokenizer.n_bins)

    def settings(self) -> dict[str, Any]:
        """What makes its data and its network."""
        return _settings(self.args)

    def state(self) -> dict[str, Any]:
        """What its data and its tokens were when it began, and which episodes it has seen."""
        return {'instructions': self.instructions, 'statistics': _lists(self.statistics),
                'episodes': [episode.name for episode in self.dataset.episodes]}

    def refresh(self, at_end: bool) -> bool:
        """Take in new episodes when an epoch ends, and each `--rescan` minutes."""
        if not at_end and time.monotonic() - self._refreshed <= self.args.rescan * 60:
            return False
        grown = self.dataset.refresh(self.args.lanes)
        self._refreshed = time.monotonic()
        if grown:
            self._divide()
        return bool(grown)

    def write(self, network: TargetNetwork, folder: Path, point: dict[str, Any]) -> None:
        """Write a whole checkpoint, with the statistics of its actions."""
        model = network.model
        model.norm_stats = {self.args.unnorm_key or self.args.suite: {
            'action': _lists(self.statistics),
            'num_transitions': self.dataset.n_frames,
            'num_trajectories': len(self.dataset.episodes)}}
        dtype = getattr(torch, self.args.store)
        (merged(model, dtype) if self.args.lora else model).save_pretrained(folder, dtype)
        (folder / 'dataset_statistics.json').write_text(
            json.dumps(model.norm_stats, indent=2) + '\n')

    def n_parameters(self) -> int:
        """Numbers in the checkpoint: without the heads."""
        return sum(p.numel() for p in self.model.parameters())

    def _divide(self) -> None:
        """Part the episodes into those for training and those for measuring."""
        episodes = self.dataset.episodes
        self.frames, self.held_out = map(Frames.of, divide(episodes, self.args.holdout))
        # Of all there are by now: the first episodes may be of one task, whose things never move.
        self.maker = TargetBatchMaker(self.model, self.statistics, StateScale.of(episodes),
                                      self.instructions, self.args.chunk)

    def _statistics(
        self, saved: dict[str, Any] | None, initial: OpenVLA | None
    ) -> ActionStatistics:
        """Statistics of the actions: fixed when the training begins, for they define tokens."""
        args = self.args
        if saved:
            return ActionStatistics.from_dict(saved['statistics'], args.unnorm_key or args.suite)
        key = initial and initial_key(args.init, args.suite, args.unnorm_key, args.device)
        if key:
            return initial.action_statistics(key)
        self.measured = initial is not None
        return action_statistics(self.dataset.episodes)

    def _instructions(self) -> list[str]:
        """Instructions of the suite and of the data, in a fixed order."""
        known = {episode.instruction for episode in self.dataset.episodes}
        try:
            known |= {task.instruction for task in suites.tasks(self.args.suite)}
        except FileNotFoundError:  # no simulator on this machine: what the data say is enough
            pass
        return sorted(known)

    def _model(self, initial: OpenVLA | None) -> OpenVLA:
        """Return the target to begin with: `--init`, or a random one of `--shape`."""
        args, model = self.args, initial
        prompts = [prompt_text(text) for text in self.instructions]
        if model is None:
            tokenizer = build_tokenizer(prompts, args.text_tokens)
            model = new_target(args.shape, tokenizer, args.text_tokens, args.seed).to(args.device)
        elif args.new_words:
            first = model.action_tokenizer.first_id
            if not is_built_here(model.tokenizer, first):
                raise SpecVLAError(f'--new-words: the tokenizer of {args.init} is not one of '
                                   '`specvla train target`, and its words would be lost; leave '
                                   'it out')
            forget_words(model, build_tokenizer(prompts, first), args.seed)
        # So that it is deployed as it was trained, whatever the data set's file says by then.
        model.config = replace(
            model.config, image_preparation=asdict(self.dataset.image), chunk=args.chunk,
            execute_steps=args.execute_steps or -(-args.chunk // 2))
        return model


def _check(args: TrainTargetArgs, group: ProcessGroup) -> None:
    """Refuse settings that can't be."""
    check_schedule(args)
    if args.shard and group.size == 1:
        raise SpecVLAError('--shard divides the weights among several processes and there is one: '
                           'start the training with torchrun, or leave it out')
    if args.shard and args.lanes > 1:
        raise SpecVLAError(f'--shard with --lanes {args.lanes}: give --lanes 1, and as many '
                           'processes as lanes are wanted')
    resolve_device(args.device)
    check_place('--out', args.out)
    if args.init is not None:
        initial_key(args.init, args.suite, args.unnorm_key, args.device)
    if not 1 <= args.chunk <= MOST_STEPS:
        raise SpecVLAError(f'--chunk {args.chunk}: give 1 to {MOST_STEPS} control steps')
    if args.execute_steps is not None and not 1 <= args.execute_steps <= args.chunk:
        raise SpecVLAError(f'--execute-steps {args.execute_steps}: give 1 to {args.chunk}, the '
                           'steps of an action (--chunk)')
    if args.new_words and args.init is None:
        raise SpecVLAError('--new-words is about the tokenizer of --init; without one a tokenizer '
                           'is built anyway')
    if args.new_words and (args.lora or args.vision_only):
        raise SpecVLAError('--new-words begins with random embeddings, and neither --lora nor '
                           '--vision-only trains them; leave one of the two out')
    if not 0 <= args.lora <= MOST_RANK:
        raise SpecVLAError(f'--lora {args.lora}: give a rank of 1 to {MOST_RANK}, or 0 to train '
                           'all weights')
    if args.lora:
        check_lora()
        if args.init is None or args.vision_only:
            raise SpecVLAError('--lora adapts the Llama of a checkpoint: give --init, and leave '
                               'out --vision-only')
    if args.freeze_vision and args.init is None:
        raise SpecVLAError('freeze_vision needs --init: random vision towers learn nothing')


def _settings(args: TrainTargetArgs) -> dict[str, Any]:
    """What a resumed training must have in common with the interrupted one."""
    names = ('suite', 'tasks', 'unnorm_key', 'chunk', 'execute_steps', 'freeze_vision',
             'vision_only', 'holdout', 'text_tokens')
    return {name: getattr(args, name) for name in names} | {
        'shape': asdict(args.shape), 'init': args.init and str(args.init)} | (
            {name: getattr(args, name) for name in ('lora', 'new_words') if getattr(args, name)}
    )  # no key where it is off: states saved before there was such an option have none


def _lists(statistics: ActionStatistics) -> dict[str, list]:
    """Statistics as a checkpoint's files hold them."""
    return {name: getattr(statistics, name).tolist() for name in ('q01', 'q99', 'mask')}
