"""
`specvla train eagle`: teach an EAGLE drafter to say what its target says.

It learns from `specvla regenerate`'s data, unrolled on its own guesses (`unroll.py`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor
import tyro

from specvla_ros.configuration import load_preset
from specvla_ros.decoding.drafters import DRAFTERS
from specvla_ros.decoding.drafters.eagle_config import EagleConfig
from specvla_ros.decoding.drafters.eagle_head import EagleHead
from specvla_ros.drafter_folders import beside
from specvla_ros.drafter_verdict import DrafterVerdict
from specvla_ros.embedded import checkpoint_folder
from specvla_ros.errors import SpecVLAError
from specvla_ros.hashing import folder_sha256
from specvla_ros.loaded_checkpoint import Checkpoint
from specvla_ros.training.accuracy import DepthAccuracy
from specvla_ros.training.dataset import Episode
from specvla_ros.training.drafter_measures import (
    ConstantDrafter,
    gains,
    mean_lengths,
    widest,
    with_constant,
)
from specvla_ros.training.drafter_recipe import DrafterRecipe, DrafterTrainingArgs, train
from specvla_ros.training.eagle_batches import EagleBatchMaker, NONE, Perturbation
from specvla_ros.training.named_recipe import OURS, with_recipe
from specvla_ros.training.optimizer import OptimizerSettings
from specvla_ros.training.recipe import mean
from specvla_ros.training.saved_state import state_folder
from specvla_ros.training.unroll import distances, eagle_loss, EagleLoss, LossWeights

Help = tyro.conf.arg
_PRESETS = ('strict', 'relaxed')


@dataclass(frozen=True, slots=True)
class TrainEagleArgs(DrafterTrainingArgs):
    """Train an EAGLE drafter for a target on what `specvla regenerate` made with it."""

    out: Annotated[Path | None, Help(
        help='folder of its weights; default: TARGET/drafters/eagle')] = None
    recipe: Annotated[str, Help(
        help='settings of a name: ours, or a file of config/recipes, as `paper`')] = OURS
    mlp: Annotated[int, Help(help="width of the drafter's MLP; 0 = as the target's")] = 0
    weights: LossWeights = field(default_factory=LossWeights)
    perturbation: Perturbation = field(default_factory=Perturbation)
    # At 2e-3 and clip 1 the loss once jumped tenfold: layer 0 has no input norm, and a target's
    # projected patches may be thousands large.
    optimizer: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(
        learning_rate=1e-3, decay=0.6, weight_decay=0.02, clip=0.5))


def run(args: TrainEagleArgs) -> int:
    """Train an EAGLE network, see `drafter_recipe.train`; returns an exit code."""
    args = with_recipe(args, args.recipe)
    return train(EagleRecipe, replace(args, target=checkpoint_folder(args.target)))


class EagleRecipe(DrafterRecipe):
    """The EAGLE network: continues the target's features, and then its own."""

    args: TrainEagleArgs

    command, option = 'train eagle', '--out'
    # In the layout before, the others' folders stand in this one's.
    keep = tuple(it.weights for it in DRAFTERS.values() if it.weights)

    def __init__(self, args: TrainEagleArgs, unnorm_key: str) -> None:
        super().__init__(args, unnorm_key)
        if not self.manifest.features:
            raise SpecVLAError(
                "the words that `specvla adapt` stored without --eagle hold none of the target's "
                'features, which EAGLE learns from: adapt with --eagle')
        self.maker = EagleBatchMaker(self.model, self.dtype)
        self.exact_maker = EagleBatchMaker(self.model, torch.float32)  # to measure with
        self.action_head = self.maker.action_head.to(self.dtype)

    @staticmethod
    def folders(args: TrainEagleArgs) -> tuple[Path, Path]:
        """Return `--out`, or the place beside the target."""
        if args.out:
            return args.out, state_folder(args.out)
        name = args.target.name + '.drafter.training'
        return beside(args.target) / 'eagle', args.target.with_name(name)

    def new_network(self) -> EagleHead:
        """Return a network of the target's dimensions, or with an MLP of its own."""
        config = EagleConfig.like(self.model)
        if self.args.mlp:
            config = replace(config, intermediate_size=self.args.mlp)
        return EagleHead(config)

    def loss(
        self, network: nn.Module, chosen: NDArray[np.int64], random: np.random.Generator,
        done: float,
    ) -> EagleLoss:
        """Return the loss of frames, unrolled."""
        batch = self.maker(self.frames, chosen, random, self.args.perturbation)
        return eagle_loss(network, self.action_head, batch, self.args.weights)

    def curve(self, losses: Sequence[EagleLoss]) -> dict[str, float | None]:
        """Return the mean losses of tokens and features."""
        return super().curve(losses) | {'feature_loss': mean([it.features for it in losses])}

    def distances(self, network: nn.Module, chosen: NDArray[np.int64]) -> Tensor:
        """Hold the network's guesses, unrolled, against the target's tokens: int [N, A, A]."""
        batch = self.exact_maker(self.held_out, chosen, np.random.default_rng(0), NONE)
        return distances(network, self.exact_maker.action_head, batch)

    def accuracy(self, distances: Tensor) -> DepthAccuracy:
        """Sum up the guesses, by depth."""
        return DepthAccuracy.of(distances)

    def verdict(self, episodes: list[Episode]) -> str:
        """Say the acceptance lengths, and keep them for `specvla report`."""
        checkpoint = Checkpoint(self.model, self.unnorm_key, self.out)
        presets = {name: load_preset(name) for name in _PRESETS}
        decoders = with_constant(
            {name: checkpoint.decoder(config) for name, config in presets.items()},
            ConstantDrafter.of(self.frames.shards))
        decoders |= {f'{name}, wide tree': checkpoint.decoder(widest(config))
                     for name, config in presets.items()}
        gained = gains(checkpoint, episodes, self.args.decode_frames, decoders)
        DrafterVerdict(
            self.args.recipe, self.args.suite, self.model.device.type, self.target_sha256,
            folder_sha256(self.out), self._trained(), gained).write(self.folders(self.args)[1])
        lengths = mean_lengths(gained, _PRESETS)
        return 'held-out acceptance length ' + ', '.join(
            f'{name} {length.drafter:.2f} (constant guess {length.constant:.2f})'
            for name, length in lengths.items())

    def own_settings(self) -> dict[str, Any]:
        """Recipe, MLP, weights and perturbation."""
        args = self.args
        return {'recipe': args.recipe, 'mlp': args.mlp, 'weights': asdict(args.weights),
                'perturbation': asdict(args.perturbation)}

    def _trained(self) -> dict[str, float]:
        """Say how long it was trained, on how much, from its last measurement."""
        point = json.loads((self.out / 'training.json').read_text())['measured']
        return {name: float(point[name]) for name in ('frames', 'episodes', 'step', 'epoch',
                                                      'minutes')
                } | {'batch': float(self.args.batch), 'parameters': float(self.n_parameters()),
                     'learning_rate': self.args.optimizer.learning_rate}
