"""
An OpenVLA folder in the Hugging Face layout ⇄ configuration, statistics and weights.

``config.json``, ``model.safetensors`` or shards with an index, and optionally
``dataset_statistics.json``. The published 7B folders and small ones are read by the same code.
Source: shared facts on OpenVLA, "Checkpoint folder".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import json
import os
from pathlib import Path
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open, SafetensorError
from safetensors.torch import save_file
import torch
from torch import Tensor

from .action_tokenizer import ActionStatistics
from .config import VisionConfig
from .errors import CheckpointError
from .folder_signs import check_folder, check_shards
from .json_file import Fields, is_there, read_object, shown, within
from .layout import canonical, is_unused, Slot

__all__ = [
    'CheckpointError',
    'check_weights',
    'read_config',
    'read_norm_stats',
    'read_weights',
    'write_config',
    'write_weights',
]

_CONFIG = 'config.json'
_STATISTICS = 'dataset_statistics.json'
_WEIGHTS = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'
# As `openvla-7b+libero_object_no_noops+b16+lr-0.0005+lora-r32+dropout-0.0--image_aug`.
_RUN = re.compile(r'\+b\d+\+lr-')
_SHARD = re.compile(r'[\w.-]+\.safetensors')
_MAX_SHARD_BYTES = 5 * 10**9  # as Hugging Face cuts them


def read_config(folder: Path) -> dict[str, Any]:
    """
    Content of ``config.json``.

    OpenVLA's fine-tuning puts into the folder's name alone whether images were augmented: that
    becomes ``image_preparation`` here, unless the file has one.

    Raises FileNotFoundError if the folder is none, CheckpointError if the file is not usable, or
    if another file in the folder says that the weights are not the whole model.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f'checkpoint folder {str(folder)!r} does not exist: give a folder that holds an '
            f'OpenVLA ({_CONFIG}, {_WEIGHTS}, tokenizer.json)'
        )
    content = _read_json(folder / _CONFIG)
    check_folder(folder)
    if content.get('image_preparation') is None and (area := _crop_by_name(folder)) is not None:
        content['image_preparation'] = {'jpeg': True, 'crop_area': area}
    return content


def read_norm_stats(folder: Path, config: Mapping[str, Any]) -> dict[str, dict]:
    """
    Action statistics by ``unnorm_key``.

    Those of ``dataset_statistics.json`` where there is one (fine-tuned checkpoints), else
    ``norm_stats`` of the config. Raises CheckpointError if an entry can't be used, or if the two
    say different things of one data set.
    """
    stated = Fields(config, str(folder / _CONFIG)).section('norm_stats').content
    _check_statistics(folder / _CONFIG, stated)
    path = folder / _STATISTICS
    if not is_there(path):
        return dict(stated)
    statistics = _read_json(path)
    _check_statistics(path, statistics)
    for key in stated.keys() & statistics.keys():
        first, second = (ActionStatistics.from_dict(of[key]['action'], key)
                         for of in (stated, statistics))
        for name in ('q01', 'q99', 'mask'):
            if not _alike(getattr(first, name), getattr(second, name)):
                raise CheckpointError(
                    f'{path}: {name} of {key!r} is not what {_CONFIG} has under norm_stats: '
                    'which one holds? keep the one the weights were tuned with')
    return statistics


def _crop_by_name(folder: Path) -> float | None:
    """Share of a frame's area that a run of OpenVLA's fine-tuning saw; None for other names."""
    name = folder.resolve().name
    if '--image_aug' in name:
        return 0.9
    return 1.0 if _RUN.search(name) else None


def _check_statistics(path: Path, statistics: Mapping[str, Any]) -> None:
    """Refuse statistics that can't be used, by their data sets."""
    for key, value in statistics.items():
        if not isinstance(value, dict) or not isinstance(value.get('action'), dict):
            raise CheckpointError(
                f"{path}: statistics of {shown(key)} have no 'action', must be "
                "{key: {'action': {'q01': [...], 'q99': [...], 'mask': [...]}}}"
            )
        counts = Fields(value, str(path), f'statistics of {shown(key)}')
        for name in ('num_transitions', 'num_trajectories'):
            counts.integer(name, None, least=0)
        with within(str(path)):
            ActionStatistics.from_dict(value['action'], key).check_numbers(key)


def _alike(first: NDArray, second: NDArray) -> bool:
    """Whether statistics are the same but for the rounding of their decimals."""
    return first.shape == second.shape and np.allclose(first, second, rtol=1e-4, atol=1e-6)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write ``config.json``; an older ``dataset_statistics.json`` would override it: gone."""
    with _replacing(folder / _CONFIG) as path:
        path.write_text(json.dumps(config, indent=2) + '\n')
    (folder / _STATISTICS).unlink(missing_ok=True)


def read_weights(
    folder: Path,
    slots: Mapping[str, Slot],
    vision: VisionConfig,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """
    State dict of the model, in ``dtype`` on ``device``, one tensor in flight at a time.

    Tensors of the towers that the features never use are passed over. Raises CheckpointError
    naming the tensor for anything else that is unexpected, missing or of another shape, and
    the file for one that is missing or damaged.
    """
    state: dict[str, Tensor] = {}
    missing = dict(slots)
    for path in _weight_files(folder):
        for stored, tensor in _read_tensors(path, device, vision):
            name = canonical(stored)
            slot = missing.pop(name, None)
            if slot is None:
                what = 'twice' if name in slots else 'unexpectedly'
                raise CheckpointError(
                    f'{path} holds tensor {stored!r} {list(tensor.shape)} {what}: the model '
                    f'that {_CONFIG} describes has no place for it'
                )
            if tuple(tensor.shape) != slot.shape or not tensor.is_floating_point():
                raise CheckpointError(
                    f'{path}: tensor {stored!r} is {tensor.dtype} {list(tensor.shape)}, must '
                    f'be floating-point {list(slot.shape)} by {_CONFIG}'
                )
            # A copy: the stored tensor is a window on the file, which may be overwritten.
            state |= slot.adopt(tensor.to(dtype, copy=True))
    if missing:
        first = next(iter(missing.values()))
        more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
        raise CheckpointError(
            f'{folder}: weights lack tensor {first.name!r} {list(first.shape)}{more}, which '
            f'{_CONFIG} asks for'
        )
    return state


def check_weights(folder: Path, slots: Mapping[str, Slot], vision: VisionConfig) -> None:
    """
    Hold names, shapes and types of the stored tensors against the model; weights stay unread.

    Raises CheckpointError as ``read_weights`` does.
    """
    missing = dict(slots)
    for path in _weight_files(folder):
        with _opened(path, torch.device('cpu')) as file:
            for stored in file.keys():  # noqa: SIM118 (not a dict)
                if is_unused(stored, vision):
                    continue
                slot, shape = missing.pop(canonical(stored), None), None
                if slot is not None:
                    tensor = file.get_slice(stored)
                    shape, kind = tuple(tensor.get_shape()), tensor.get_dtype()
                    if not kind.startswith(('F', 'BF')):
                        raise CheckpointError(
                            f'{path}: tensor {stored!r} is {kind}, must be floating-point')
                if slot is None or shape != slot.shape:
                    raise CheckpointError(
                        f'{path}: tensor {stored!r} is unexpected or of another shape than '
                        f'{_CONFIG} asks for ({shape and list(shape)}, must be '
                        f'{slot and list(slot.shape)})'
                    )
    if missing:
        first = next(iter(missing.values()))
        raise CheckpointError(
            f'{folder}: weights lack tensor {first.name!r} {list(first.shape)}, which '
            f'{_CONFIG} asks for'
        )


def write_weights(
    folder: Path,
    slots: Mapping[str, Slot],
    state: Mapping[str, Tensor],
    dtype: torch.dtype,
    max_shard_bytes: int = _MAX_SHARD_BYTES,
) -> None:
    """Save a model's state dict under the published names, in shards if it is large."""
    shards: list[dict[str, Slot]] = [{}]
    total = used = 0
    for name, slot in slots.items():
        size = dtype.itemsize * torch.Size(slot.shape).numel()
        if used and used + size > max_shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = slot
        used += size
        total += size
    names = [_WEIGHTS]
    if len(shards) > 1:
        names = [
            f'model-{number:05d}-of-{len(shards):05d}.safetensors'
            for number in range(1, len(shards) + 1)
        ]
    for file_name, shard in zip(names, shards, strict=True):
        tensors = {
            name: slot.publish(state).detach().to('cpu', dtype).contiguous()
            for name, slot in shard.items()
        }
        with _replacing(folder / file_name) as path:
            save_file(tensors, path, metadata={'format': 'pt'})
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
        with _replacing(folder / _INDEX) as path:
            path.write_text(json.dumps(index, indent=2) + '\n')


def _weight_files(folder: Path) -> list[Path]:
    """Safetensors files of a folder: what the index lists, else the single one."""
    index = folder / _INDEX
    if not is_there(index):
        if not (folder / _WEIGHTS).exists():
            raise CheckpointError(
                f'{folder} has neither {_WEIGHTS} nor {_INDEX}: no weights to load'
            )
        check_shards(folder, {_WEIGHTS})
        return [folder / _WEIGHTS]
    weight_map = _read_json(index).get('weight_map')
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


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of a checkpoint."""
    try:
        return read_object(path)
    except FileNotFoundError as error:
        raise CheckpointError(
            f'{path.parent} has no {path.name}: not an OpenVLA checkpoint, or an incomplete one'
        ) from error


class _replacing:
    """Write beside a file, then put it in its place: a crash leaves the old one whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(path.name + '.part')

    def __enter__(self) -> Path:
        return self._part

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            os.replace(self._part, self._path)
        else:
            self._part.unlink(missing_ok=True)
