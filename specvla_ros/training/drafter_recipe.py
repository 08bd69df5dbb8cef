"""
What the trainings of all drafters share: frames, target, folders, and the decoder's verdict.

A drafter learns from `specvla regenerate`'s data. At the end the deployed decoder measures it on
held-out frames, which neither the target nor the drafter was trained on.
"""

from abc import abstractmethod
import copy
from dataclasses import dataclass, replace
import json
from pathlib import Path
from typing import Annotated, Any, ClassVar

from rich.console import Console
import torch
from torch import nn
import tyro

from specvla_ros.errors import SpecVLAError
from specvla_ros.hashing import folder_sha256
from specvla_ros.libero.assets import data_folder
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training.dataset import Dataset, Episode
from specvla_ros.training.holdout import divide
from specvla_ros.training.process_group import joined, ProcessGroup
from specvla_ros.training.recipe import Recipe
from specvla_ros.training.regenerated import default_folder, open_shards, ShardFrames
from specvla_ros.training.saved_state import StateFolder
from specvla_ros.training.schedule import check_schedule
from specvla_ros.training.shard_check import check_shards
from specvla_ros.training.target_check import check_place, check_target
from specvla_ros.training.trainer import Trainer
from specvla_ros.training.training_progress import TrainingProgress
from specvla_ros.writable import check_writable

Help = tyro.conf.arg


@dataclass(frozen=True, slots=True)
class DrafterTrainingArgs:
    """Arguments of every drafter's training; each adds an `optimizer`, see `Schedule`."""

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
    batch: Annotated[int, Help(help='frames a step and process, over all lanes')] = 64
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


class DrafterRecipe(Recipe):
    """
    One drafter's network and how it is taught, from the target's actions to a folder.

    command: its name; option: of it that says where the drafter goes.

    :raises SpecVLAError: no data of this target, or fewer frames than a batch
    """

    command: ClassVar[str]
    option: ClassVar[str]

    def __init__(self, args: DrafterTrainingArgs, unnorm_key: str) -> None:
        self.args, self.unnorm_key, self.out = args, unnorm_key, self.folders(args)[0]
        self.target_sha256 = folder_sha256(args.target)
        folder = args.regenerated or default_folder(args.suite, self.target_sha256)
        self.manifest, shards = open_shards(folder, self.target_sha256)
        self.model = OpenVLA.from_pretrained(args.target, args.device).requires_grad_(False)
        check_shards(folder, self.manifest, shards, self.model, unnorm_key)
        self.frames, self.held_out = map(ShardFrames, divide(shards, args.holdout))
        if len(self.frames) < args.batch:
            raise SpecVLAError(f'{folder} holds {len(self.frames)} training frames (holdout '
                               f'{args.holdout}), must be at least a batch of {args.batch}')
        self._check_episodes()
        self.dtype = getattr(torch, args.dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(args.seed)  # the same seed gives the same weights
            self.network = self.new_network().to(args.device)

    @staticmethod
    @abstractmethod
    def folders(args: Any) -> tuple[Path, Path]:
        """Return where the drafter goes, and its folder `….training`."""

    @abstractmethod
    def new_network(self) -> nn.Module:
        """Return the network with random weights; `model` and `manifest` are there."""

    @abstractmethod
    def verdict(self, episodes: list[Episode]) -> str:
        """Say what the deployed decoder makes of the drafter in `out`, on held-out episodes."""

    def own_settings(self) -> dict[str, Any]:
        """What else a resumed training must have in common with the interrupted one."""
        return {}

    def settings(self) -> dict[str, Any]:
        """Target, data, and the drafter's own."""
        return {'suite': self.args.suite, 'holdout': self.args.holdout,
                'target_sha256': self.target_sha256, 'frames': len(self.frames)
                } | self.own_settings()

    def title(self) -> str:
        """Say what is trained on what, for which target."""
        return f'{super().title()}; target {self.target_sha256[:12]}'

    def write(self, network: nn.Module, folder: Path, point: dict[str, Any]) -> None:
        """Write weights, configuration, and for which target they are."""
        written = copy.deepcopy(network).to(getattr(torch, self.args.store))
        written.save_pretrained(folder)
        (folder / 'training.json').write_text(json.dumps(
            {'target_sha256': self.target_sha256, 'measured': point}, indent=1) + '\n')

    def decoded(self) -> str | None:
        """Say what the deployed decoder makes of the drafter; None: there is nothing to decode."""
        args, names = self.args, [shard.name for shard in self.held_out.shards]
        if not names or not args.decode_frames:
            return None
        dataset = Dataset(data_folder(args.data), args.suite,
                          self.manifest.image_size, self.manifest.mirror,
                          image=self.manifest.preparation,
                          failed_steps=self.manifest.failed_steps)
        dataset.refresh(args.lanes, only=names)
        return self.verdict(dataset.episodes)

    def _check_episodes(self) -> None:
        """Refuse to train for hours if the episodes that are decoded at the end aren't there."""
        folder = data_folder(self.args.data) / self.args.suite
        if self.args.decode_frames:
            for shard in self.held_out.shards:
                if not (path := folder / f'{shard.name}.npz').is_file():
                    raise SpecVLAError(f'{path} is missing, which is decoded at the end: give '
                                       '--data, or --decode-frames 0')


def train(kind: type[DrafterRecipe], args: DrafterTrainingArgs) -> int:
    """
    Train, measure and save until the end, then decode; returns an exit code.

    :raises SpecVLAError: no data of this target, settings that can't be, or an unfinished training
        in the way
    """
    with joined(args.device) as group:
        return _train(kind, replace(args, device=group.device), group)


def _train(kind: type[DrafterRecipe], args: DrafterTrainingArgs, group: ProcessGroup) -> int:
    check_schedule(args)
    key = check_target(args.target, args.suite, args.unnorm_key, args.device)
    out, state = kind.folders(args)
    check_place(kind.option, out, kind.keep)
    check_writable(kind.option, state)
    folder = StateFolder(state, kind.option)
    progress = TrainingProgress(kind.command, Console(quiet=not group.leads))
    with folder.held(group.leads):
        saved = folder.load(args.resume, args.device)
        recipe = kind(args, key)
        with progress:
            accuracy = Trainer(recipe, args, folder, progress, saved, group).run()
            for line in accuracy.lines(recipe.model.action_dim(key)) if accuracy else ():
                progress.say(line)
            progress.say(f'drafter in {out}')
            if group.leads and (verdict := recipe.decoded()):
                progress.say(verdict)
    return 0
