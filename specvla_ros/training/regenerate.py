"""
`specvla regenerate`: let the target say its own action to every frame of the data set.

A drafter imitates its target, so it learns from what the target says, not from the expert. Each
frame is decoded greedily over the action tokens, as the decoder `ar` does, in batches. Relaxed
acceptance commits other tokens than the target's own, so some more paths are decoded beside it,
whose tokens are off by a few bins: a tree of chains behind one prompt, as cheap as a few tokens.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
import time
from typing import Annotated, Any
import zlib

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
import torch
from torch import Tensor
from transformers import DynamicCache
import tyro

from specvla_ros.action_space import ActionSpace
from specvla_ros.data_sets import load_dataset
from specvla_ros.decoding.target import Target
from specvla_ros.embedded import checkpoint_folder, found_elsewhere
from specvla_ros.errors import counted, SpecVLAError
from specvla_ros.files import alone_in
from specvla_ros.hashing import folder_sha256
from specvla_ros.libero.assets import data_folder
from specvla_ros.loaded_checkpoint import action_chunk, image_preparation
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.progress import say
from specvla_ros.training.dataset import Dataset, Episode
from specvla_ros.training.regenerated import default_folder, frame_type, Manifest
from specvla_ros.training.seed_check import check_seed
from specvla_ros.training.shards import Lane, lanes_here, write_shards
from specvla_ros.training.target_check import check_target
from specvla_ros.unused_options import refuse_unused
from specvla_ros.workforce.ray_actors import check_address
from specvla_ros.workforce.where import RAY_ADDRESS, workers_at
from specvla_ros.workforce.worker import Employer
from specvla_ros.writable import check_writable

Help = tyro.conf.arg


@dataclass(frozen=True, slots=True)
class RegenerateArgs:
    """Let a target label the data that its drafter learns from; goes on where it was stopped."""

    target: Annotated[Path, Help(
        help='checkpoint of the target: a folder, or the name of an embedded one')
        ] = Path('runs/target')
    suite: Annotated[str, Help(help='suite the episodes are of')] = 'libero_object'
    tasks: Annotated[tuple[int, ...], Help(help='task numbers; none = all')] = ()
    data: Annotated[Path | None, Help(help='data folder; default in the cache')] = None
    out: Annotated[Path | None, Help(help='folder to write; default in the cache')] = None
    unnorm_key: Annotated[str | None, Help(help='name of the statistics; default: suite')] = None
    episodes: Annotated[int, Help(help='at most this many episodes; 0 = all')] = 0
    failed_steps: Annotated[int, Help(
        help='take the frames of failed episodes before this step as well; 0 = none of them')] = 0
    paths: Annotated[int, Help(help="token paths a frame, the first is the target's own")] = 4
    jitter: Annotated[int, Help(help='bins the tokens of the other paths are off by at most')] = 9
    batch: Annotated[int, Help(help='frames decoded at once')] = 64
    lanes: Annotated[int, Help(
        help='threads, each on a core of its own; with --ray workers with a model each')] = 2
    ray: Annotated[str | None, Help(
        help=f'work on a Ray cluster: {RAY_ADDRESS}; default: threads of this process')] = None
    device: Annotated[str, Help(help='cpu or cuda')] = 'cpu'
    seed: Annotated[int, Help(help='of the other paths')] = 0


def run(args: RegenerateArgs) -> int:
    """
    Decode what isn't there yet; returns an exit code.

    :raises SpecVLAError: no data, settings that can't be, or other settings' data in the way
    """
    _check(args)
    args = replace(args, target=checkpoint_folder(args.target))
    key = check_target(args.target, args.suite, args.unnorm_key, args.device)
    sha256 = folder_sha256(args.target)
    check_writable('--out', folder := args.out or default_folder(args.suite, sha256))
    model, settings = _model(args), load_dataset(key)
    space = _space(model, key)
    manifest = Manifest(
        sha256, args.suite, model.config.image_size, settings.mirror_image, space.length,
        args.paths, args.jitter, args.seed, image=asdict(image_preparation(model, settings)),
        failed_steps=args.failed_steps)
    with alone_in(folder):
        _check_same(folder, manifest)
        episodes = _episodes(args, manifest)
        manifest.write(folder)
        missing = [e for e in episodes if not (folder / f'{e.name}.npy').exists()]
        console = Console()
        frames, new = (sum(map(len, some)) for some in (episodes, missing))
        say(console, f'target {sha256[:12]}: {counted(frames, "frame")} of '
                     f'{counted(len(episodes), "episode")}, {new} to do')
        started = time.monotonic()
        employer = (lanes_here(Regenerator(model, space, args).records) if args.ray is None
                    else lanes_on_ray(args.ray, MakeLane(args, key)))
        write_shards(employer, folder, missing, args.lanes, console)
        names = {episode.name: episode.instruction for episode in episodes}
        replace(manifest, complete=True, frames=frames, episodes=names).write(folder)
        say(console, f'{counted(new, "frame")} in {time.monotonic() - started:.0f} s; '
                     f'all in {folder}')
    return 0


class Regenerator:
    """
    Decodes episodes in batches, equal to what is deployed.

    features: whether to store the target's, see `frame_type`.
    """

    def __init__(
        self, model: OpenVLA, space: ActionSpace, args: RegenerateArgs, features: bool = True
    ) -> None:
        self.model, self.space, self.args = model, space, args
        self.features = features
        self.target = Target(model)
        self.transform = model.image_transform()  # only to normalise

    @torch.inference_mode()
    def records(self, episode: Episode) -> Iterator[NDArray]:
        """Records (`frame_type`) of an episode, a batch at a time."""
        prompt_ids = self.model.prompt_ids(episode.instruction)
        offsets = self._offsets(episode)
        for part, pixel_values in self._parts(episode):
            yield self._decode(prompt_ids, pixel_values,
                               torch.from_numpy(offsets[part]).to(self.model.device))

    @torch.inference_mode()
    def records_of(self, episode: Episode, said: NDArray[np.int64]) -> Iterator[NDArray]:
        """
        Do the same where the target's own words are known, without features.

        said: token ids [T, L]; a row of -1 is not known, and computed. The others cost the towers
        alone.
        """
        prompt_ids, offsets = self.model.prompt_ids(episode.instruction), self._offsets(episode)
        for part, pixel_values in self._parts(episode):
            known = said[part, 0] >= 0
            records = np.zeros(len(known), self.record_type(0))
            if not known.all():
                records[~known] = self._decode(
                    prompt_ids, pixel_values[torch.from_numpy(~known)],
                    torch.from_numpy(offsets[part][~known]).to(self.model.device))
            if known.any():
                records['patches'][known] = _half(
                    self.model.embed_patches(pixel_values[torch.from_numpy(known)]))
                records['tokens'][known] = said[part][known][:, None]
            yield records

    def _parts(self, episode: Episode) -> Iterator[tuple[slice, Tensor]]:
        """Cut an episode into batches: which frames, and their pixel values."""
        for start in range(0, len(episode), self.args.batch):
            part = slice(start, start + self.args.batch)
            pixels = torch.from_numpy(np.array(episode.pixels[part])).to(self.model.device)
            yield part, self.transform.normalise(pixels)

    def record_type(self, prompt: int) -> np.dtype:
        """Type of a record with so many rows of the prompt."""
        config = self.model.config
        return frame_type(config.n_patches, prompt, config.text_config.hidden_size,
                          self.args.paths, self.space.length, self.features)

    def _offsets(self, episode: Episode) -> NDArray[np.int64]:
        """
        Bins [T, paths, L] that the fed tokens are off the target's own; path 0 is its own.

        The later a path, the further off it may be; half of its tokens are exact, and the gripper
        always. An episode's name decides, not when it is decoded.
        """
        args, shape = self.args, (len(episode), self.args.paths, self.space.length)
        random = np.random.default_rng([args.seed, zlib.crc32(episode.name.encode())])
        most = np.round(np.linspace(0, args.jitter, args.paths)).astype(np.int64)[:, None]
        offsets = random.integers(-most, most + 1, shape) * random.integers(0, 2, shape)
        gripper = [self.space.is_gripper(position) for position in range(shape[-1])]
        offsets[:, :, gripper] = 0
        return offsets

    def _decode(self, prompt_ids: Tensor, pixel_values: Tensor, offsets: Tensor) -> NDArray:
        """Prompt ids [T], pixel values [B, 6, H, W], offsets [B, paths, L] → records [B]."""
        model, target, tokenizer = self.model, self.target, self.space.tokenizer
        batch, paths, length = offsets.shape
        cache = DynamicCache()
        prompt = model.embed(prompt_ids.expand(batch, -1), pixel_values)
        features = model(prompt, cache=cache)
        size = prompt.shape[1]
        records = np.zeros(batch, self.record_type(size))
        records['patches'] = _half(prompt[:, 1:1 + model.config.n_patches])
        if self.features:
            records['prompt'] = _half(features)
        own = features[:, -1:]
        # Each path sees the prompt and itself: tokens of a step stand side by side in the cache.
        sees = torch.ones(paths, size, dtype=torch.bool, device=model.device)
        itself = torch.eye(paths, dtype=torch.bool, device=model.device)
        for step in range(length):
            said = target.action_logits(own).argmax(-1) + offsets[:, :, step]
            said = said.clamp(0, tokenizer.n_bins - 1)
            records['tokens'][:, :, step] = (said + tokenizer.first_id).cpu()
            if step == length - 1:
                return records
            sees = torch.cat((sees, itself), dim=1)
            position = torch.full((1, paths), size + step, device=model.device)
            own = model(target.action_embeds(said), position, sees[None, None], cache)
            if self.features:
                records['features'][:, :, step] = _half(own)
        raise AssertionError('unreachable: an action has at least one token')


@dataclass(frozen=True, slots=True)
class MakeLane:
    """
    Makes a lane with a target of its own, on whichever machine; picklable.

    features: see `Regenerator`; records_of: what the lane does with a source it is sent.
    """

    args: RegenerateArgs
    unnorm_key: str
    features: bool = True
    records_of: Callable[[Regenerator, Any], Iterator[NDArray]] = Regenerator.records

    def __call__(self) -> Lane:
        """Load the target."""
        args = replace(self.args, target=checkpoint_folder(self.args.target))
        model = _model(args)
        space = _space(model, self.unnorm_key)
        return Lane(partial(self.records_of, Regenerator(model, space, args, self.features)))


def lanes_on_ray(address: str, make: MakeLane) -> Employer:
    """Return who employs such lanes on a Ray cluster; each of its machines has the target."""
    args = make.args
    there = replace(args, target=found_elsewhere(args.target) or args.target)
    return workers_at(address, replace(make, args=there), threads=1, device=args.device,
                      folders=(args.target,))


def _model(args: RegenerateArgs) -> OpenVLA:
    """Float32 on the CPU, elsewhere the checkpoint's own: as deployed."""
    return OpenVLA.from_pretrained(args.target, args.device).requires_grad_(False)


def _space(model: OpenVLA, unnorm_key: str) -> ActionSpace:
    return ActionSpace(
        model.action_tokenizer, model.action_dim(unnorm_key), action_chunk(model.config, None))


def _check_same(folder: Path, manifest: Manifest) -> None:
    """Refuse a folder that was begun with other settings, if there is anything in it."""
    if not any(folder.glob('task*/*.npy')):
        return
    there = Manifest.read(folder)
    if there is None:
        raise SpecVLAError(f'{folder} holds data, and no manifest says of what: choose another '
                           '--out, or delete it')
    if name := manifest.difference(there):
        raise SpecVLAError(
            f'{folder} was made with {name} {getattr(there, name)!r}, not '
            f'{getattr(manifest, name)!r}: choose another --out, or delete it')


def _episodes(args: RegenerateArgs, manifest: Manifest) -> list[Episode]:
    """Episodes to regenerate, spread evenly over the data set if not all."""
    dataset = Dataset(data_folder(args.data), args.suite, manifest.image_size,
                      manifest.mirror, args.tasks, manifest.preparation,
                      failed_steps=manifest.failed_steps)
    dataset.refresh(args.lanes)
    if not dataset.episodes:
        raise SpecVLAError(
            f'no successful episodes under {dataset.folder}: `specvla collect` makes them')
    count = min(args.episodes or len(dataset.episodes), len(dataset.episodes))
    chosen = np.linspace(0, len(dataset.episodes) - 1, count).round().astype(np.int64)
    return [dataset.episodes[index] for index in chosen]


def _check(args: RegenerateArgs) -> None:
    if args.ray is not None:
        check_address(args.ray)
    check_seed(args.seed)
    for name, least in (('episodes', 0), ('failed_steps', 0), ('paths', 1), ('jitter', 0),
                        ('batch', 1), ('lanes', 1)):
        if getattr(args, name) < least:
            raise SpecVLAError(f'{name} is {getattr(args, name)}, must be at least {least}')
    if args.paths == 1:
        refuse_unused(args, ('jitter', 'seed'), '--paths 1 draws no other paths')


def _half(x: Tensor) -> NDArray[np.float16]:
    return x.half().cpu().numpy()
