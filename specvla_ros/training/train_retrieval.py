"""
make a database of actions to retrieve, from episodes or bags

Episodes are those of `specvla regenerate`: the projected patches, and what the target said. Of a
bag the frames are shown to the target, which says its own action to each. Frames that look alike
and got the same action are stored once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
import torch
from torch import Tensor
import tyro

from specvla_ros.configuration import load_preset
from specvla_ros.decoding.drafters.action_memory import (
    ActionMemory,
    Descriptor,
    fingerprint,
    MemoryShape,
)
from specvla_ros.drafter_folders import beside
from specvla_ros.errors import counted, SpecVLAError
from specvla_ros.files import whole_folder
from specvla_ros.hashing import folder_sha256
from specvla_ros.loaded_checkpoint import Checkpoint
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.policy import Policy
from specvla_ros.recordings import bag
from specvla_ros.recordings.doubles import check_camera, refuse_doubles
from specvla_ros.recordings.episode import check_instruction, Recording, Selection
from specvla_ros.training.process_group import check_alone
from specvla_ros.training.regenerated import default_folder, open_shards
from specvla_ros.training.shard_check import check_finite, check_shards
from specvla_ros.training.target_check import check_place, check_target
from specvla_ros.typed_files import naming
from specvla_ros.unused_options import refuse_unused

Help = tyro.conf.arg


@dataclass(frozen=True, slots=True)
class TrainRetrievalArgs:
    """Make a database of a target's actions, to retrieve the nearest of: drafters/retrieval."""

    target: Annotated[Path, Help(help='checkpoint folder of the target')] = Path('runs/target')
    bags: Annotated[tuple[Path, ...], Help(
        help='rosbag2 folders, or single .mcap or .db3 files, to make it from instead of episodes')
        ] = ()
    suite: Annotated[str, Help(help='suite the data are of')] = 'libero_object'
    regenerated: Annotated[Path | None, Help(
        help='folder that `specvla regenerate` wrote; default in the cache')] = None
    unnorm_key: Annotated[str | None, Help(help='name of the statistics; default: suite')] = None
    image_topic: Annotated[str, Help(
        help='camera in the bags; default: /image, or the only one there is')] = ''
    instruction_topic: Annotated[str, Help(help='what the robot was told')] = '/instruction'
    instruction: Annotated[str, Help(help="instead of the bags' own")] = ''
    drafter: Annotated[Path | None, Help(
        help='folder of drafters that gets it, as its folder retrieval; default: TARGET/drafters')
        ] = None
    entries: Annotated[int, Help(help='most actions to keep, evenly from all frames')] = 20_000
    rank: Annotated[int, Help(help='numbers a patch is condensed to')] = 8
    size: Annotated[int, Help(help='numbers that describe an image')] = 32
    device: Annotated[str, Help(help='cpu or cuda')] = 'cpu'


class Seen(NamedTuple):
    """A frame: projected patches float16 [P, h], mean text embedding [h], columns [L]."""

    patches: NDArray[np.float16]
    text: Tensor
    columns: NDArray[np.int64]


def run(args: TrainRetrievalArgs) -> int:
    """
    Make the database; returns an exit code.

    :raises SpecVLAError: no data of this target, or settings that can't be
    """
    check_alone('train retrieval')
    for name, most in (('entries', 2**22), ('rank', 256), ('size', 1024)):
        if not 1 <= getattr(args, name) <= most:
            raise SpecVLAError(f'--{name} {getattr(args, name)}: must be 1 to {most}')
    if args.bags:
        refuse_unused(args, ('regenerated',), 'the database is made from --bags')
    else:
        refuse_unused(args, ('image_topic', 'instruction_topic', 'instruction'),
                      'it is about --bags')
    key = check_target(args.target, args.suite, args.unnorm_key, args.device)
    out = (args.drafter or beside(args.target)) / 'retrieval'
    check_place('--drafter', out)
    sha256, console = folder_sha256(args.target), Console()
    if args.bags:
        recordings = _opened(args)
        model = OpenVLA.from_pretrained(args.target, args.device).requires_grad_(False)
        frames = list(_of_bags(recordings, Checkpoint(model, key)))
    else:
        folder = args.regenerated or default_folder(args.suite, sha256)
        manifest, shards = open_shards(folder, sha256)
        model = OpenVLA.from_pretrained(args.target, args.device).requires_grad_(False)
        check_shards(folder, manifest, shards, model, key)
        frames = list(_of_shards(model, shards))
    if not frames:
        raise SpecVLAError(f'{", ".join(map(str, args.bags)) or folder}: no frames in it')
    every = max(1, -(-len(frames) // args.entries))
    memory = fitted(model, frames[::every], args.rank, args.size)
    with whole_folder(out) as folder:
        memory.save(folder)
        made_of = {'target_sha256': sha256, 'frames': len(frames), 'entries': len(memory),
                   'bags': [path.name for path in args.bags]}
        (folder / 'training.json').write_text(json.dumps(made_of, indent=1) + '\n')
    console.print(f'{counted(len(memory), "action")} of {counted(len(frames), "frame")}, '
                  f'target {sha256[:12]}; '
                  f'{out}', highlight=False)
    return 0


@torch.inference_mode()
def fitted(model: OpenVLA, frames: list[Seen], rank: int, size: int) -> ActionMemory:
    """
    Make a memory of frames, its descriptor being their principal components.

    First of each patch's numbers, their mean image taken away, then of all patches together; the
    second ones are whitened halfway: each counts by the square root of its deviation.
    """
    patches = torch.from_numpy(np.stack([frame.patches for frame in frames]))
    if not patches.isfinite().all():  # those of shards were checked one by one
        raise SpecVLAError('the target says patches that are not finite numbers: its weights are '
                           'damaged')
    text = torch.stack([frame.text for frame in frames]).float().cpu()
    columns = torch.from_numpy(np.stack([frame.columns for frame in frames]))
    shape = MemoryShape.like(model, columns.shape[1])
    rank = min(rank, shape.hidden_size)
    size = min(size, len(frames), shape.patches * rank)
    shape = MemoryShape.like(
        model, columns.shape[1], rank=rank, size=size, text=min(shape.text, shape.hidden_size))
    made = Descriptor.random(shape)
    mean = patches.mean(0, dtype=torch.float32)
    scatter = torch.zeros((shape.hidden_size,) * 2)
    for part in patches.split(256):
        off = (part.float() - mean).flatten(0, 1)
        scatter += off.T @ off
    made.channels.copy_(torch.linalg.eigh(scatter).eigenvectors.flip(1)[:, :rank])
    made.mean.copy_(mean @ made.channels)
    condensed = torch.cat([
        (part.float() @ made.channels - made.mean).flatten(1) for part in patches.split(256)])
    _, deviations, directions = torch.linalg.svd(condensed, full_matrices=False)
    deviations = deviations[:size] / len(frames) ** 0.5
    scale = deviations.clamp_min(1e-6 * float(deviations[0]) + 1e-12).rsqrt()
    made.directions.copy_(directions[:size].T * scale)
    total = (condensed @ made.directions).square().sum(1).mean().sqrt()
    made.directions.div_(total.clamp_min(1e-12))  # so an image counts like the instruction's unit
    described = torch.cat([made(*both) for both in zip(
        patches.split(256), text.split(256), strict=True)])
    kept = _different(described, columns)
    return ActionMemory(made, described[kept].clone(), columns[kept].clone(), None,
                        fingerprint(model))


def _different(described: Tensor, columns: Tensor) -> Tensor:
    """Indices of the entries, one of those that are equal."""
    rows = torch.cat((described.double(), columns.double()), dim=1).numpy()
    return torch.from_numpy(np.sort(np.unique(rows, axis=0, return_index=True)[1]))


def _of_shards(model: OpenVLA, shards: list) -> Iterator[Seen]:
    first_id = model.action_tokenizer.first_id
    for shard in shards:
        ids = model.prompt_ids(shard.instruction)
        text = model.embed_tokens(ids[1:]).float().mean(0).detach().cpu()
        for frame, record in enumerate(shard.records):
            check_finite(torch.from_numpy(record['patches'].astype(np.float32))[None],
                         [(shard, frame)])
            yield Seen(record['patches'], text, record['tokens'][0].astype(np.int64) - first_id)


def _opened(args: TrainRetrievalArgs) -> list[Recording]:
    """Read the bags; raise SpecVLAError for what `specvla adapt` would refuse as well."""
    check_instruction(args.instruction)
    recordings = [bag.read(path, Selection(
        '', args.image_topic, args.instruction_topic, args.instruction)) for path in args.bags]
    for recording in recordings:
        check_camera(recording, recordings[0], '--image-topic')
    refuse_doubles(recordings)
    return recordings


@torch.inference_mode()
def _of_bags(recordings: Sequence[Recording], checkpoint: Checkpoint) -> Iterator[Seen]:
    """Show each frame of the bags to the target, alone."""
    model, policy = checkpoint.model, Policy(checkpoint, load_preset('ar'))
    for recording, episode in ((it, one) for it in recordings for one in it.episodes):
        with naming(f'{recording.path}, {episode.name}'):
            ids = checkpoint.prompt_ids(episode.instruction)[0]
        text = model.embed_tokens(ids[1:]).float().mean(0).cpu()
        for image in recording.images(episode):
            action = policy.act(image, episode.instruction)
            patches = model.embed_image(checkpoint.pixel_values(image))[0]
            columns = np.array(action.tokens) - model.action_tokenizer.first_id
            yield Seen(patches.float().cpu().numpy().astype(np.float16), text, columns)
