"""
`specvla train glance`: teach a glance network to guess its target's actions from the patches.

It learns from `specvla regenerate`'s data: the projected patches, the instruction, and the
target's own tokens. The labels are blurred over neighbouring bins, so that a guess which is one
bin off costs less than one that is far off.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor
import tyro

from specvla_ros.decoding.drafters import GlanceConfig, GlanceHead
from specvla_ros.drafter_folders import beside
from specvla_ros.embedded import checkpoint_folder
from specvla_ros.errors import SpecVLAError
from specvla_ros.learning.glance_lesson import BLUR, blurred, DROPOUT, dropout, lesson_loss
from specvla_ros.loaded_checkpoint import Checkpoint
from specvla_ros.training.dataset import Episode
from specvla_ros.training.drafter_measures import passes
from specvla_ros.training.drafter_recipe import DrafterRecipe, DrafterTrainingArgs, train
from specvla_ros.training.optimizer import OptimizerSettings
from specvla_ros.training.regenerated import ShardFrames
from specvla_ros.training.shard_check import check_finite

Help = tyro.conf.arg


@dataclass(frozen=True, slots=True)
class TrainGlanceArgs(DrafterTrainingArgs):
    """Train a glance network for a target on what `specvla regenerate` made with it."""

    drafter: Annotated[Path | None, Help(
        help='folder of drafters that gets it, as its folder glance; default: TARGET/drafters')
        ] = None
    epochs: Annotated[float, Help(help='passes over the frames, where --minutes is 0')] = 20.0
    batch: Annotated[int, Help(help='frames a step and process, over all lanes')] = 128
    rank: Annotated[int, Help(help='numbers a patch is condensed to')] = 24
    width: Annotated[int, Help(help='of the layers behind them')] = 256
    shapes: Annotated[int, Help(help='curves over the bins that logits are mixed of')] = 64
    dropout: Annotated[float, Help(help='share of those that a step leaves out')] = DROPOUT
    blur: Annotated[float, Help(help='of the labels, standard deviation in bins')] = BLUR
    optimizer: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(
        learning_rate=2e-3, decay=0.8, weight_decay=0.05))


@dataclass(frozen=True, slots=True)
class GlanceLoss:
    """Cross entropy with the blurred labels, nats a token; `total` carries the gradient."""

    total: Tensor
    tokens: Tensor


def run(args: TrainGlanceArgs) -> int:
    """
    Train a glance network, see `drafter_recipe.train`; returns an exit code.

    :raises SpecVLAError: settings that can't be, and what `train` refuses
    """
    _check(args)
    return train(GlanceRecipe, replace(args, target=checkpoint_folder(args.target)))


class GlanceRecipe(DrafterRecipe):
    """The glance network: guesses an action from the patches before the target's first pass."""

    command, option = 'train glance', '--drafter'

    def __init__(self, args: TrainGlanceArgs, unnorm_key: str) -> None:
        super().__init__(args, unnorm_key)
        self._texts: dict[str, Tensor] = {}
        self._blurred = blurred(self.model.action_tokenizer.n_bins, args.blur).to(args.device)

    @staticmethod
    def folders(args: TrainGlanceArgs) -> tuple[Path, Path]:
        """Return the folder glance of `--drafter`, or of the target's drafters."""
        near = args.drafter or args.target
        return ((args.drafter or beside(args.target)) / 'glance',
                near.with_name(near.name + '.glance.training'))

    def new_network(self) -> GlanceHead:
        """Return a network that fits the target."""
        args = self.args
        return GlanceHead(GlanceConfig.like(
            self.model, self.manifest.length, rank=args.rank, width=args.width,
            shapes=args.shapes))

    def loss(
        self, network: nn.Module, chosen: NDArray[np.int64], random: np.random.Generator,
        done: float,
    ) -> GlanceLoss:
        """Return the cross entropy of frames."""
        patches, text, columns = self._batch(self.frames, chosen)
        kept = self._dropout(len(chosen), random)
        logits = network(
            patches.to(self.dtype), text.to(self.dtype), kept.to(self.dtype)).float()
        loss = lesson_loss(logits, columns, self._blurred)
        return GlanceLoss(loss, loss.detach())

    def distances(self, network: nn.Module, chosen: NDArray[np.int64]) -> Tensor:
        """Hold the likeliest tokens against the target's: int [N, L]."""
        patches, text, columns = self._batch(self.held_out, chosen)
        return (network(patches, text).argmax(-1) - columns).abs()

    def verdict(self, episodes: list[Episode]) -> str:
        """Say the passes an action takes, each frame on its own: no action before it is known."""
        found = passes(Checkpoint(self.model, self.unnorm_key, self.out.parent), episodes,
                       self.args.decode_frames, glance_presets(self.model.config.chunk or 1))
        return 'held-out passes an action, each frame on its own: ' + ', '.join(
            f'{name} {mean:.2f}' for name, mean in found.items())

    def own_settings(self) -> dict[str, Any]:
        """Dimensions, dropout and blur."""
        names = ('rank', 'width', 'shapes', 'dropout', 'blur')
        return {name: getattr(self.args, name) for name in names}

    def _dropout(self, batch: int, random: np.random.Generator) -> Tensor:
        """Dropout [2, B, width], drawn by numpy: which lane is first must not matter."""
        return dropout(random, batch, self.args.width, self.args.dropout).to(self.model.device)

    def _batch(
        self, frames: ShardFrames, indices: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Patches [B, P, h], mean text embeddings [B, h], the target's own columns [B, L]."""
        located = [frames.locate(int(index)) for index in indices]
        patches = np.stack([shard.records['patches'][frame] for shard, frame in located])
        tokens = np.stack([shard.records['tokens'][frame, 0] for shard, frame in located])
        text = torch.stack([self._text(shard.instruction) for shard, _ in located])
        columns = torch.from_numpy(tokens).long() - self.model.action_tokenizer.first_id
        device = self.model.device
        features = torch.from_numpy(patches).float()
        check_finite(features, located)  # on the host, so that the device is not waited for
        return features.to(device), text, columns.to(device)

    def _text(self, instruction: str) -> Tensor:
        """Mean embedding [h] of a prompt's text behind BOS and the patches."""
        if instruction not in self._texts:
            ids = self.model.prompt_ids(instruction)
            self._texts[instruction] = self.model.embed_tokens(ids[1:]).float().mean(0)
        return self._texts[instruction]


def glance_presets(chunk: int) -> tuple[str, str]:
    """Return the strict and the relaxed preset for actions of `chunk` control steps."""
    # A chunk's held step guesses nothing, and costs a row a token.
    return ('glance', 'glance_relaxed') if chunk == 1 else (
        'glance_jacobi', 'glance_jacobi_relaxed')


def _check(args: TrainGlanceArgs) -> None:
    """Refuse settings that can't be."""
    if not 0 <= args.dropout < 1:
        raise SpecVLAError(f'dropout is {args.dropout}, must be at least 0 and below 1')
    if not args.blur >= 0:
        raise SpecVLAError(f'blur is {args.blur}, must be at least 0 bins')
