"""
A drafter's network as files: ``config.json`` beside ``model.safetensors`` or a published
``pytorch_model.bin``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
import torch
from torch import nn, Tensor

from specvla_ros.errors import shown, SpecVLAError
from specvla_ros.openvla.folder_signs import check_folder
from specvla_ros.openvla.json_file import read_object
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.openvla.weights import save_tensors

# What safetensors and torch.load raise for a file that isn't theirs.
_UNREADABLE = (SafetensorError, UnpicklingError, RuntimeError, EOFError, TypeError, ValueError)


Made = TypeVar('Made', bound=nn.Module)


def load_head(
    folder: Path, target: OpenVLA, make: Callable[[Mapping[str, Any]], Made],
    ignored: Collection[str] = (),
) -> Made:
    """
    Read a network for this target: on its device, in its data type, for inference.

    make: a network with random weights from what ``config.json`` says. ignored: tensors
    that may be there and aren't read. Raises FileNotFoundError if a file is missing, and
    SpecVLAError, naming the tensor and the shapes, if the weights don't fit.
    """
    path = folder / 'config.json'
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file; a drafter folder has one')
    try:
        content = read_object(path)
        check_folder(folder, also='pytorch_model.bin')
        hidden = content.get('hidden_size')
        if type(hidden) is int and hidden != target.config.hidden_size:  # before it is built
            raise SpecVLAError(
                f"hidden_size is {shown(hidden)}, must be the target's "
                f"{target.config.hidden_size}: this drafter is another model's"
            )
        head = make(content)
    except ValueError as error:
        reason = str(error).removeprefix(f'{path}: ').removeprefix(f'{path} ')
        raise SpecVLAError(f'{path}: {reason}') from error
    weights_file, weights = _read_weights(folder)
    for name in ignored:
        weights.pop(name, None)
    _check(weights_file, weights, head.state_dict())
    head.load_state_dict(weights)
    return head.to(target.device, target.dtype).eval().requires_grad_(False)


def save_head(folder: Path, head: nn.Module, config: Mapping[str, Any]) -> None:
    """Write what ``load_head`` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')
    weights = {name: value.contiguous().cpu() for name, value in head.state_dict().items()}
    save_tensors(folder / 'model.safetensors', weights)


def _read_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """Weights of a drafter folder and the file they stand in."""
    for name, read in (('model.safetensors', load_file), ('pytorch_model.bin', _unpickle)):
        path = folder / name
        if path.is_file():
            try:
                return path, dict(read(path))
            except _UNREADABLE as error:
                raise SpecVLAError(
                    f'{path} can not be read ({path.stat().st_size} bytes); it is damaged, a Git '
                    'LFS pointer, or holds more than tensors'
                ) from error
    raise FileNotFoundError(f'{folder}: has neither model.safetensors nor pytorch_model.bin')


def _unpickle(path: Path) -> dict[str, Tensor]:
    """Read tensors and nothing else: a downloaded file must not run code."""
    return torch.load(path, map_location='cpu', weights_only=True)


def _check(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not exactly those of the network."""
    for name, tensor in wanted.items():
        if name not in found:
            raise SpecVLAError(f'{path}: tensor {name} {list(tensor.shape)} is missing')
        if not isinstance(found[name], Tensor) or not found[name].is_floating_point():
            raise SpecVLAError(f'{path}: {name} is no floating-point tensor')
        if found[name].shape != tensor.shape:
            raise SpecVLAError(
                f'{path}: tensor {name} is {list(found[name].shape)}, its config.json says '
                f'{list(tensor.shape)}'
            )
    if unknown := sorted(set(found) - set(wanted)):
        raise SpecVLAError(f'{path}: tensors {", ".join(unknown)} do not belong to it')
