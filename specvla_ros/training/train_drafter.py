"""
`specvla train eagle`: teach an EAGLE drafter to say what its target says.

It learns from `specvla regenerate`'s data, unrolled on its own guesses (`unroll.py`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
import tyro

from specvla_ros.decoding.drafters import DRAFTERS
from specvla_ros.decoding.drafters.eagle_config import EagleConfig
from specvla_ros.decoding.drafters.eagle_head import EagleHead
from specvla_ros.drafter_folders import beside
from specvla_ros.embedded import checkpoint_folder
from specvla_ros.loaded_checkpoint import Checkpoint
from specvla_ros.training.dataset import Episode
from specvla_ros.training.draft_batches import DraftBatchMaker, NONE, Perturbation
from specvla_ros.training.drafter_measures import (
    acceptance_lengths,
    Accuracy,
    ConstantDrafter,
)
from specvla_ros.training.drafter_training import DrafterTraining, DrafterTrainingArgs
from specvla_ros.training.optimizer import OptimizerSettings
from specvla_ros.training.unroll import distances, drafter_loss, DraftLoss, LossWeights

Help = tyro.conf.arg


@dataclass(frozen=True, slots=True)
class TrainDrafterArgs(DrafterTrainingArgs):
    """Train an EAGLE drafter for a target on what `specvla regenerate` made with it."""

    out: Annotated[Path | None, Help(
        help='folder of its weights; default: TARGET/drafters/eagle')] = None
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
    training = EagleTraining(replace(args, target=checkpoint_folder(args.target)))
    with training.progress:
        training.run()
    return 0


class EagleTraining(DrafterTraining):
    """One training of an EAGLE network."""

    name, option = 'train eagle', '--out'
    # In the layout before, the others' folders stand in this one's.
    keep = tuple(it.weights for it in DRAFTERS.values() if it.weights)

    def __init__(self, args: TrainDrafterArgs) -> None:
        out = args.out or beside(args.target) / 'eagle'
        state = args.out.with_name(args.out.name + '.training') if args.out \
            else args.target.with_name(args.target.name + '.drafter.training')
        super().__init__(args, args.optimizer, out, state)
        self.maker = DraftBatchMaker(self.model, self.dtype)
        self.action_head = self.maker.action_head.to(self.dtype)

    def new_head(self) -> EagleHead:
        """Return a network of the target's dimensions, or with an MLP of its own."""
        config = EagleConfig.like(self.model)
        if self.args.mlp:
            config = replace(config, intermediate_size=self.args.mlp)
        return EagleHead(config)

    def loss(
        self, chosen: NDArray[np.int64], random: np.random.Generator
    ) -> tuple[Tensor, DraftLoss]:
        """Loss of frames, unrolled."""
        batch = self.maker(self.frames, chosen, random, self.args.perturbation)
        loss = drafter_loss(self.optimizer.replica, self.action_head, batch, self.args.weights)
        return loss.total, replace(loss, total=loss.total.detach())

    def curve(self, losses: Sequence[DraftLoss]) -> dict[str, float]:
        """Return the mean losses of tokens and features."""
        return {'loss': float(torch.stack([loss.tokens for loss in losses]).mean()),
                'feature_loss': float(torch.stack([loss.features for loss in losses]).mean())}

    def measure(self) -> Accuracy:
        """Hold the network's guesses, unrolled, against the target's words."""
        head: EagleHead = self.optimizer.averaged
        maker = DraftBatchMaker(self.model, torch.float32)

        def lane(indices: NDArray[np.int64]) -> Tensor:
            batch = maker(self.held_out, indices, np.random.default_rng(0), NONE)
            return distances(head, maker.action_head, batch).cpu()

        return Accuracy.of(torch.cat(self.optimizer.map(lane, self.held_out_parts())))

    def verdict(self, episodes: list[Episode]) -> str:
        """Say the acceptance lengths."""
        checkpoint = Checkpoint(self.model, self.unnorm_key, self.out)
        lengths = acceptance_lengths(checkpoint, ConstantDrafter.of(self.frames.shards),
                                     episodes, self.args.decode_frames)
        return 'held-out acceptance length ' + ', '.join(
            f'{name} {length.drafter:.2f} (constant guess {length.constant:.2f})'
            for name, length in lengths.items())

    def own_settings(self) -> dict:
        """MLP, weights and perturbation."""
        args = self.args
        return {'mlp': args.mlp, 'weights': asdict(args.weights),
                'perturbation': asdict(args.perturbation)}
