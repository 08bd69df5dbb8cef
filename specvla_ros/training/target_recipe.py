"""What is special about training a target: its data, its loss, its measurement, its files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
import json
from pathlib import Path
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from specvla_ros.data_sets import load_dataset
from specvla_ros.errors import SpecVLAError
from specvla_ros.libero import suites
from specvla_ros.libero.assets import data_folder
from specvla_ros.openvla.action_tokenizer import ActionStatistics
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training.dataset import action_statistics, Dataset, Frames
from specvla_ros.training.holdout import divide
from specvla_ros.training.lora import merged
from specvla_ros.training.recipe import mean, Recipe
from specvla_ros.training.saved_state import state_folder, StateFolder
from specvla_ros.training.shape import forget_words, new_target
from specvla_ros.training.target_arguments import settings_of, TrainTargetArgs
from specvla_ros.training.target_batches import NONE, StateScale, TargetBatchMaker
from specvla_ros.training.target_check import initial_key
from specvla_ros.training.target_loss import (
    action_hidden,
    LabelWidths,
    target_loss,
    TargetBatch,
    TargetLoss,
    vision_loss,
)
from specvla_ros.training.target_network import TargetNetwork
from specvla_ros.training.tokenizer import build_tokenizer, is_built_here, prompt_text

SAVED = ('instructions', 'statistics', 'episodes')  # see `TargetRecipe.state`


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
                               data_set.mirror_image, args.tasks, data_set.image, args.chunk,
                               stills=True, failed_steps=args.failed_steps)
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
        self._divide()
        self.network = TargetNetwork(
            self.model, len(self.maker.scale.mean), len(self.instructions),
            args.freeze_vision, args.vision_only, args.lora)
        # The training whose state heads these go on from: new ones take minutes to learn.
        self.heads_of = None if saved or args.init is None else self._take_heads(args.init)

    def loss(
        self, network: TargetNetwork, chosen: NDArray[np.int64], random: np.random.Generator,
        done: float,
    ) -> TargetLoss:
        """Return the loss of frames, varied at random; each label counts the same."""
        losses, weights = [], []
        for instructions, alike in self._alike(chosen):
            batch = self.maker(self.frames, alike, random, self.args.augmentation, instructions)
            losses.append(self._loss(network, batch.to(self.args.device), done))
            weights.append(batch.n_labels)
        return TargetLoss.mean(losses, weights)

    def _alike(self, chosen: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Part frames by how many instructions each is shown with: a batch has no ragged rows."""
        counts = np.array([1 + len(self.frames.locate(int(index))[0].others.instructions)
                           for index in chosen]).clip(max=self.args.instructions_per_frame)
        for count in np.unique(counts):
            yield int(count), chosen[counts == count]

    def _loss(self, network: TargetNetwork, batch: TargetBatch, done: float) -> TargetLoss:
        args = self.args
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
        return torch.where(tokenizer.is_action(said), off, tokenizer.n_bins)[:, 0]

    def settings(self) -> dict[str, Any]:
        """What makes its data and its network."""
        return settings_of(self.args)

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
        known = {text for episode in self.dataset.episodes
                 for text in (episode.instruction, *episode.others.instructions)}
        try:
            known |= {task.instruction for task in suites.tasks(self.args.suite)}
        except FileNotFoundError:  # no simulator on this machine: what the data say is enough
            pass
        return sorted(known)

    def _take_heads(self, init: Path) -> Path | None:
        """Go on from the state heads of the training that made `--init`, if it is still there."""
        folder = StateFolder(state_folder(init), '--init')
        try:
            trained = folder.load(True, 'cpu', SAVED)
        except SpecVLAError:
            return None
        prefix = 'heads.'
        heads = {name.removeprefix(prefix): value
                 for name, value in trained.optimizer.get('averaged', {}).items()
                 if name.startswith(prefix)}
        fits = self.network.heads.go_on_from(
            heads, trained.recipe['instructions'], self.instructions)
        return folder.path if fits else None

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


def _lists(statistics: ActionStatistics) -> dict[str, list]:
    """Statistics as a checkpoint's files hold them."""
    return {name: getattr(statistics, name).tolist() for name in ('q01', 'q99', 'mask')}
