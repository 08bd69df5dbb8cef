"""
Actions by what the target saw: descriptors of the image's patches, and a search for the nearest.

A descriptor condenses the towers' projected patches in two steps, each patch to a few numbers and
all of them to a few dozen, and adds the instruction. Distances between descriptors are squared
sums, so what the numbers are scaled by is how much they count. A database made from episodes has
principal components; without one the directions are random, but the same every time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
import torch
from torch import nn, Tensor

from specvla_ros.errors import shown, SpecVLAError
from specvla_ros.openvla.folder_signs import check_folder
from specvla_ros.openvla.json_file import Fields, read_object
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.openvla.weights import save_tensors

MODEL_TYPE = 'retrieval'
_MOST = 2**24  # of any number in a configuration
_SEEN = 4  # numbers of each of the target's tensors that its fingerprint is made of
_LIKE = 0.95  # share of them that must agree: a data type may round a few differently
_INSTRUCTION = 4.0  # how much the instruction's numbers count beside one of the image's


@dataclass(frozen=True, slots=True)
class MemoryShape:
    """
    Sizes of the descriptors and actions in an `ActionMemory`, not how many there are.

    hidden_size, patches, bins: of its target. length: L, tokens of an action. rank: numbers a
    patch is condensed to; size: numbers of the image's descriptor; text: of the instruction's.
    """

    hidden_size: int
    patches: int
    bins: int
    length: int
    rank: int = 8
    size: int = 32
    text: int = 8

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if type(value) is not int or not 1 <= value <= _MOST:
                raise SpecVLAError(f'{setting.name} is {shown(value)}, must be a whole number '
                                   f'from 1 to {_MOST}')

    @classmethod
    def like(cls, target: OpenVLA, length: int, **sizes: int) -> MemoryShape:
        """Fit a target whose actions have this many tokens."""
        config = target.config
        return cls(config.hidden_size, config.n_patches, target.action_tokenizer.n_bins, length,
                   **sizes)


class Descriptor(nn.Module):
    """
    Computes the search key of an image and an instruction: float [B, size + text].

    Its matrices are fixed: principal components, or drawn at random. No gradient trains them.
    """

    channels: Tensor
    mean: Tensor
    directions: Tensor
    text: Tensor

    def __init__(self, shape: MemoryShape) -> None:
        super().__init__()
        self.shape = shape
        for name, dims in self.tensors(shape).items():
            self.register_buffer(name, torch.zeros(dims))

    @staticmethod
    def tensors(shape: MemoryShape) -> dict[str, tuple[int, ...]]:
        """Names and dimensions of what it computes with."""
        return {
            'channels': (shape.hidden_size, shape.rank), 'mean': (shape.patches, shape.rank),
            'directions': (shape.patches * shape.rank, shape.size),
            'text': (shape.hidden_size, shape.text),
        }

    @classmethod
    def random(cls, shape: MemoryShape) -> Descriptor:
        """Return one with random directions, which keep distances roughly; always the same."""
        made, generator = cls(shape), torch.Generator().manual_seed(0)
        for tensor in (made.channels, made.directions, made.text):
            drawn = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(drawn * tensor.shape[0] ** -0.5)
        return made

    def forward(self, patches: Tensor, text: Tensor) -> Tensor:
        """Descriptors [B, size + text] of patches [B, P, h] and mean text embeddings [B, h]."""
        condensed = (patches.float() @ self.channels - self.mean).flatten(1)
        asked = nn.functional.normalize(text.float() @ self.text, dim=1) * _INSTRUCTION
        return torch.cat((condensed @ self.directions, asked), dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class ActionMemory:
    """
    A database of N actions, each with the descriptor of the image it answered.

    `RetrievalDrafter` itself keeps the actions that come while it runs.

    descriptors: float32 [N, size + text]. columns: int64 [N, L], tokens counted from the first
    action token. eef_positions: float32 [N, 3], m; None = not known. fingerprint: a
    few numbers of the target's weights, by tensor; empty = of a target that is at hand.
    """

    descriptor: Descriptor
    descriptors: Tensor
    columns: Tensor
    eef_positions: Tensor | None
    fingerprint: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.columns)

    @classmethod
    def empty(cls, target: OpenVLA) -> ActionMemory:
        """Nothing is remembered yet: for a memory that is filled while running."""
        descriptor = Descriptor.random(MemoryShape.like(target, 1)).to(target.device)
        width = descriptor.shape.size + descriptor.shape.text
        nothing = torch.zeros((0, width), device=target.device)
        return cls(descriptor, nothing, nothing[:, :0].long(), None, {})

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``; ``read`` reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {'model_type': MODEL_TYPE, **asdict(self.descriptor.shape)}
        (folder / 'config.json').write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
        tensors = {**self.descriptor.state_dict(), 'descriptors': self.descriptors,
                   'columns': self.columns.to(torch.int32),
                   **{f'target.{name}': it for name, it in self.fingerprint.items()}}
        if self.eef_positions is not None:
            tensors['positions'] = self.eef_positions
        save_tensors(folder / 'model.safetensors',
                     {name: it.contiguous().cpu() for name, it in tensors.items()})

    @classmethod
    def read(cls, folder: Path, target: OpenVLA) -> ActionMemory:
        """
        Read what ``save`` wrote, for this target, to its device.

        Raises FileNotFoundError if a file is missing, and SpecVLAError, in one line, if it is
        damaged or another target's.
        """
        path = folder / 'config.json'
        check_folder(folder)
        try:
            shape = _shape(read_object(path))
        except ValueError as error:
            reason = str(error).removeprefix(f'{path}: ').removeprefix(f'{path} ')
            raise SpecVLAError(f'{path}: {reason}') from error
        fits = MemoryShape.like(target, shape.length)
        for name in ('hidden_size', 'patches', 'bins'):
            if getattr(shape, name) != getattr(fits, name):
                raise SpecVLAError(
                    f"{path}: {name} is {getattr(shape, name)}, must be the target's "
                    f"{getattr(fits, name)}: this database is another model's")
        tensors = _checked(folder / 'model.safetensors', shape)
        fingerprint = {name.removeprefix('target.'): it for name, it in tensors.items()
                       if name.startswith('target.')}
        _check_fingerprint(folder, fingerprint, target)
        descriptor = Descriptor(shape)
        descriptor.load_state_dict({name: tensors[name] for name in Descriptor.tensors(shape)})
        device = target.device
        if device.type == 'meta':  # only the folder is checked
            device = torch.device('cpu')
        positions = tensors.get('positions')
        return cls(descriptor.to(device), tensors['descriptors'].to(device),
                   tensors['columns'].long().to(device),
                   None if positions is None else positions.to(device), fingerprint)


def fingerprint(target: OpenVLA) -> dict[str, Tensor]:
    """Return the first numbers of each of the target's plain tensors, bfloat16, on the host."""
    return {
        name: tensor.detach().flatten()[:_SEEN].to('cpu', torch.bfloat16)
        for name, tensor in target.named_parameters()
        if type(tensor) in (nn.Parameter, Tensor) and tensor.is_floating_point()}


def _check_fingerprint(folder: Path, then: Mapping[str, Tensor], target: OpenVLA) -> None:
    """Refuse a database whose tokens another checkpoint said."""
    if target.device.type == 'meta':
        return
    now = fingerprint(target)
    same = [(now[name] == seen).float().mean().item() if name in now else 1.0
            for name, seen in then.items() if name not in now or now[name].shape == seen.shape]
    known = sum(name in now for name in then)
    if not known or len(same) < len(then) or np.mean(same) < _LIKE:
        raise SpecVLAError(
            f'{folder}: this database was made with another checkpoint, whose actions and patches '
            'are others; make one with `specvla train retrieval --target` and this checkpoint')


def _shape(content: Mapping[str, Any]) -> MemoryShape:
    """Read what ``config.json`` says."""
    names = [setting.name for setting in fields(MemoryShape)]
    missing = [name for name in names if name not in content]
    if missing or content.get('model_type') != MODEL_TYPE:
        raise SpecVLAError(
            f'is no database of actions (model_type {shown(content.get("model_type"))}, lacks '
            f'{missing}); `specvla train retrieval` makes one')
    Fields(content, MODEL_TYPE).known({'model_type', *names})
    return MemoryShape(**{name: content[name] for name in names})


def _checked(path: Path, shape: MemoryShape) -> dict[str, Tensor]:
    """Tensors of a database; raises SpecVLAError if one is missing or of another form."""
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise FileNotFoundError(f'{path}: no such file; a database has one') from None
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise SpecVLAError(f'{path} can not be read; it is damaged or a Git LFS pointer: make it '
                           'anew with `specvla train retrieval`') from error
    entries = len(tensors['columns']) if tensors.get('columns', torch.tensor(0)).ndim else 0
    wanted = {name: (dims, torch.float32) for name, dims in Descriptor.tensors(shape).items()}
    wanted['descriptors'] = ((entries, shape.size + shape.text), torch.float32)
    wanted['columns'] = ((entries, shape.length), torch.int32)
    if 'positions' in tensors:
        wanted['positions'] = ((entries, 3), torch.float32)
    for name, (dims, dtype) in wanted.items():
        found = tensors.get(name)
        if found is None or tuple(found.shape) != dims or found.dtype != dtype:
            is_now = 'missing' if found is None else f'{found.dtype} {list(found.shape)}'
            raise SpecVLAError(f'{path}: tensor {name} is {is_now}, must be {dtype} {list(dims)}')
        if dtype == torch.float32 and not found.isfinite().all():
            raise SpecVLAError(f'{path}: tensor {name} has numbers that are not finite')
    if not entries:
        raise SpecVLAError(f'{path} holds no actions; make it anew with `specvla train retrieval`')
    columns = tensors['columns']
    if columns.min() < 0 or columns.max() >= shape.bins:
        raise SpecVLAError(f'{path}: columns are {int(columns.min())} to {int(columns.max())}, '
                           f'must be 0 to {shape.bins - 1}')
    unknown = sorted(name for name in set(tensors) - set(wanted) if not name.startswith('target.'))
    if unknown:
        raise SpecVLAError(f'{path}: tensors {", ".join(unknown)} do not belong to it')
    return tensors
