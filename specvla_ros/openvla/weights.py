"""The weights of a checkpoint folder: safetensors files, whole or in shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import json
from pathlib import Path
import re
from typing import Any

from safetensors import safe_open, SafetensorError
from safetensors.torch import save_file
import torch
from torch import Tensor

from .checkpoint import CONFIG_FILE, read_json, replacing, WEIGHTS_FILE
from .config import VisionConfig
from .errors import CheckpointError
from .folder_signs import check_shards
from .json_file import is_there, shown
from .layout import canonical, is_unused, PublishedTensor

_INDEX = 'model.safetensors.index.json'
_SHARD = re.compile(r'[\w.-]+\.safetensors')
_MAX_SHARD_BYTES = 5 * 10**9  # as Hugging Face cuts them


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """
    Write a safetensors file with the permissions of any other new file.

    safetensors 0.8 lets only the owner read it, but a robot's node may run as another user.
    """
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata={'format': 'pt'})
    path.chmod(mode)


def read_weights(
    folder: Path,
    published: Mapping[str, PublishedTensor],
    vision: VisionConfig,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """
    State dict of the model, in ``dtype`` on ``device``, one tensor in flight at a time.

    Tensors of the towers that the features never use are ignored. Raises CheckpointError
    naming the tensor for anything else that is unexpected, missing or of another shape, and
    the file for one that is missing or damaged.
    """
    state: dict[str, Tensor] = {}
    missing = dict(published)
    for path in _weight_files(folder):
        for stored, tensor in _read_tensors(path, device, vision):
            name = canonical(stored)
            entry = missing.pop(name, None)
            if entry is None:
                what = 'twice' if name in published else 'unexpectedly'
                raise CheckpointError(
                    f'{path} holds tensor {stored!r} {list(tensor.shape)} {what}: the model '
                    f'that {CONFIG_FILE} describes has no place for it'
                )
            if tuple(tensor.shape) != entry.shape or not tensor.is_floating_point():
                raise CheckpointError(
                    f'{path}: tensor {stored!r} is {tensor.dtype} {list(tensor.shape)}, must '
                    f'be floating-point {list(entry.shape)} by {CONFIG_FILE}'
                )
            # A copy: the stored tensor is a window on the file, which may be overwritten.
            state |= entry.adopt(tensor.to(dtype, copy=True))
    if missing:
        first = next(iter(missing.values()))
        more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
        raise CheckpointError(
            f'{folder}: weights lack tensor {first.name!r} {list(first.shape)}{more}, which '
            f'{CONFIG_FILE} asks for'
        )
    return state


def check_weights(
    folder: Path, published: Mapping[str, PublishedTensor], vision: VisionConfig
) -> None:
    """
    Hold names, shapes and types of the stored tensors against the model; weights stay unread.

    Raises CheckpointError as ``read_weights`` does.
    """
    missing = dict(published)
    for path in _weight_files(folder):
        with _opened(path, torch.device('cpu')) as file:
            for stored in file.keys():  # noqa: SIM118 (not a dict)
                if is_unused(stored, vision):
                    continue
                entry, shape = missing.pop(canonical(stored), None), None
                if entry is not None:
                    tensor = file.get_slice(stored)
                    shape, kind = tuple(tensor.get_shape()), tensor.get_dtype()
                    if not kind.startswith(('F', 'BF')):
                        raise CheckpointError(
                            f'{path}: tensor {stored!r} is {kind}, must be floating-point')
                if entry is None or shape != entry.shape:
                    raise CheckpointError(
                        f'{path}: tensor {stored!r} is unexpected or of another shape than '
                        f'{CONFIG_FILE} asks for ({shape and list(shape)}, must be '
                        f'{entry and list(entry.shape)})'
                    )
    if missing:
        first = next(iter(missing.values()))
        raise CheckpointError(
            f'{folder}: weights lack tensor {first.name!r} {list(first.shape)}, which '
            f'{CONFIG_FILE} asks for'
        )


def write_weights(
    folder: Path,
    published: Mapping[str, PublishedTensor],
    state: Mapping[str, Tensor],
    dtype: torch.dtype,
    max_shard_bytes: int = _MAX_SHARD_BYTES,
) -> None:
    """Save a model's state dict under the published names, in shards if it is large."""
    shards: list[dict[str, PublishedTensor]] = [{}]
    total = used = 0
    for name, entry in published.items():
        size = dtype.itemsize * torch.Size(entry.shape).numel()
        if used and used + size > max_shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = entry
        used += size
        total += size
    names = [WEIGHTS_FILE]
    if len(shards) > 1:
        names = [
            f'model-{number:05d}-of-{len(shards):05d}.safetensors'
            for number in range(1, len(shards) + 1)
        ]
    for file_name, shard in zip(names, shards, strict=True):
        tensors = {
            name: entry.publish(state).detach().to('cpu', dtype).contiguous()
            for name, entry in shard.items()
        }
        with replacing(folder / file_name) as path:
            save_tensors(path, tensors)
    for old in folder.glob('model*.safetensors'):
        if old.name not in names:
            old.unlink()
    (folder / _INDEX).unlink(missing_ok=True)
    if len(shards) > 1:
        index = {
            'metadata': {'total_size': total},
            'weight_map': {
                name: file_name
                for file_name, shard in zip(names, shards, strict=True)
                for name in shard
            },
        }
        with replacing(folder / _INDEX) as path:
            path.write_text(json.dumps(index, indent=2) + '\n')


def _weight_files(folder: Path) -> list[Path]:
    """Safetensors files of a folder: what the index lists, else the single one."""
    index = folder / _INDEX
    if not is_there(index):
        if not (folder / WEIGHTS_FILE).exists():
            raise CheckpointError(
                f'{folder} has neither {WEIGHTS_FILE} nor {_INDEX}: no weights to load'
            )
        check_shards(folder, {WEIGHTS_FILE})
        return [folder / WEIGHTS_FILE]
    weight_map = read_json(index).get('weight_map')
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no 'weight_map': can't tell which shards to load")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not _SHARD.fullmatch(name):
            raise CheckpointError(
                f'{index}: weight_map {shown(tensor)} is {shown(name)}, must be the name of a '
                '.safetensors file in this folder')
    names = set(weight_map.values())
    check_shards(folder, names)
    paths = [folder / name for name in sorted(names)]
    for path in paths:
        if not path.exists():
            raise CheckpointError(
                f'shard {path} is missing, which {_INDEX} lists: copy it beside the others'
            )
    return paths


def _read_tensors(
    path: Path, device: torch.device, vision: VisionConfig
) -> Iterator[tuple[str, Tensor]]:
    """Stored tensors of a file by name, the unused ones left out."""
    with _opened(path, device) as file:
        for name in file.keys():  # noqa: SIM118 (not a dict)
            if not is_unused(name, vision):
                yield name, file.get_tensor(name)


@contextlib.contextmanager
def _opened(path: Path, device: torch.device) -> Iterator[Any]:
    """Open a file of weights; what is wrong with it becomes one line."""
    try:
        with safe_open(path, framework='pt', device=str(device)) as file:
            yield file
    except SafetensorError as error:
        hint = 'copy it again'
        with path.open('rb') as start:
            is_pointer = start.read(8) == b'version '
        if is_pointer:
            hint = 'it is a Git LFS pointer, not the weights: run git lfs pull'
        raise CheckpointError(
            f'{path} is damaged ({path.stat().st_size} bytes, {error}): {hint}'
        ) from error
