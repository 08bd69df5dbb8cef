"""
Weight-only quantisation of the Llama's matrices, by torchao: a 7B on a small GPU.

The products of the Llama's layers are quantised and nothing else: they are 6.5 of the 7B's 7.5
billion weights, and what every pass reads. Towers and projector run once an action over hundreds
of rows, where arithmetic is the limit and not memory; embeddings and head are looked up and sliced
by row. Activations, keys and values stay floating point.

`int8` has one scale per row and runs wherever torch does, in any data type; a pass converts each
matrix on the way, so it saves memory and no time. `int4` has a scale and a zero per group of a
row's weights and kernels of its own, which compute in bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import nn, Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass, TensorWithFlatten

if TYPE_CHECKING:
    from torchao.core.config import AOBaseConfig

QUANTIZATIONS = ('none', 'int8', 'int4')
_GROUPS = (128, 64, 32)  # weights under one scale that int4's kernels know
_CPU_ROWS = 16  # output features that int4's kernel on a CPU takes at a time
_CAPABILITY = (8, 0)  # of the GPU: tensor cores for bfloat16


def check_quantization(kind: str, device: torch.device, dtype: torch.dtype | None) -> None:
    """
    Check what can be known before the weights are read.

    dtype: as asked for; None is what suits. Raises ValueError for a kind that isn't known, or that
    doesn't run here.
    """
    if kind not in QUANTIZATIONS:
        raise ValueError(f'quantization is {kind!r}, must be one of {list(QUANTIZATIONS)}')
    if kind == 'none':
        return
    if find_spec('torchao') is None:
        raise ValueError(
            f"quantization {kind!r} needs torchao, which isn't installed: run "
            "pip install 'torchao>=0.18,<0.19' (the extra quant of this package), or take 'none'"
        )
    if kind == 'int4':
        _check_int4(device, dtype)


def quantize(layers: nn.Module, kind: str, device: torch.device) -> None:
    """
    Quantise all linear layers of a module in place, each on the device; the rest moves there too.

    So a device needs room for the quantised weights and one matrix. Raises ValueError, naming the
    layer, for one whose shape the kind can't take; nothing is changed then.
    """
    from torchao.quantization import quantize_

    quantize_(layers, _config(layers, kind, device), device=device)


def is_quantized(tensor: Tensor) -> TypeGuard[TensorWithFlatten]:
    """Whether a weight is one that ``quantize`` made: not to be joined, cut or saved as others."""
    return is_traceable_wrapper_subclass(tensor)


def stored_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors as they are stored; of a quantised one, those of its parts."""
    total = 0
    for tensor in tensors:
        if is_quantized(tensor):
            names, _ = tensor.__tensor_flatten__()
            total += stored_bytes(getattr(tensor, name) for name in names)
        else:
            total += tensor.numel() * tensor.element_size()
    return total


def _check_int4(device: torch.device, dtype: torch.dtype | None) -> None:
    if dtype not in (None, torch.bfloat16):
        raise ValueError(
            f"quantization 'int4' computes in bfloat16, dtype is {str(dtype)[6:]}: leave dtype "
            "out, or take 'int8'"
        )
    if device.type not in ('cpu', 'cuda'):
        raise ValueError(
            f"quantization 'int4' runs on cpu and cuda, device is {str(device)!r}: take 'int8'"
        )
    if device.type == 'cuda' and (found := torch.cuda.get_device_capability(device)) < _CAPABILITY:
        raise ValueError(
            f"quantization 'int4' needs a GPU of compute capability {_dotted(_CAPABILITY)} or "
            f"more, {torch.cuda.get_device_name(device)} has {_dotted(found)}: take 'int8'"
        )


def _dotted(capability: tuple[int, int]) -> str:
    return '.'.join(map(str, capability))


def _config(layers: nn.Module, kind: str, device: torch.device) -> AOBaseConfig:
    """
    What torchao is asked for.

    By default it would change inductor's settings for the whole process: not ours to do.
    """
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    if kind == 'int8':
        return Int8WeightOnlyConfig(set_inductor_config=False)
    group = _group_size(layers, device)
    if device.type == 'cpu':
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

        return PrototypeInt4WeightOnlyConfig(group_size=group, set_inductor_config=False)
    return Int4WeightOnlyConfig(
        group_size=group, set_inductor_config=False, int4_packing_format='tile_packed_to_4d'
    )


def _group_size(layers: nn.Module, device: torch.device) -> int:
    """Largest group that divides the inputs of all layers; torchao would leave out the others."""
    linears = {n: m for n, m in layers.named_modules() if isinstance(m, nn.Linear)}
    for name, linear in linears.items():
        rows, columns = linear.weight.shape
        if columns % _GROUPS[-1] or (device.type == 'cpu' and rows % _CPU_ROWS):
            more = f', outputs a multiple of {_CPU_ROWS}' if device.type == 'cpu' else ''
            raise ValueError(
                f"quantization 'int4' can't take layer {name!r} of shape [{rows}, {columns}]: its "
                f"inputs must be a multiple of {_GROUPS[-1]}{more}; take 'int8'"
            )
    return next(
        group for group in _GROUPS
        if all(linear.in_features % group == 0 for linear in linears.values())
    )
