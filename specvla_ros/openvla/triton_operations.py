"""
The operations between a Llama layer's products as one Triton kernel each.

They compute in float32, in float64 for float64, and round once, at the end; torch's rotation and
gate round in between, so results may differ in the last bit. Import needs Triton.
"""

from __future__ import annotations

import torch
from torch import Tensor
import triton
import triton.language as tl

from .small_operations import Place, SmallOperations

_GATE_BLOCK = 1024  # values of a program


class TritonOperations(SmallOperations):
    """One kernel an operation, for tensors on a GPU."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Llama's norm of [S, h], with weights [h]."""
        rows, width = x.shape
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        block = triton.next_power_of_2(width)
        _rms_norm[(rows,)](
            x, x.stride(0), weight, out, width, eps, _wide(x), block,
            num_warps=min(max(block // 512, 1), 16))
        return out

    def rotate_and_put(
        self, qkv: Tensor, heads: int, cos: Tensor, sin: Tensor, place: Place, layer_idx: int,
    ) -> tuple[Tensor, Tensor]:
        """As torch's; keys are turned on their way to the cache, and only there."""
        storage, slots = place.slots(layer_idx)
        rows, all_heads, dim = qkv.shape
        kv_heads, half = (all_heads - heads) // 2, dim // 2
        _rotate_and_put[(rows, all_heads)](
            qkv, qkv.stride(0), cos, sin, storage, storage.stride(0), storage.stride(2),
            storage.stride(3), slots, heads, kv_heads, half, _wide(qkv),
            triton.next_power_of_2(half), num_warps=1)
        return storage[0], storage[1]

    def gated(self, gate_up: Tensor) -> Tensor:
        """Return silu(gate) · up, [S, n], of both side by side, [S, 2 n]."""
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, width)
        _gated[(rows, triton.cdiv(width, _GATE_BLOCK))](
            gate_up, gate_up.stride(0), out, width, _wide(gate_up), _GATE_BLOCK)
        return out


def _wide(x: Tensor) -> tl.dtype:
    """Return what is computed in."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


@triton.jit
def _rms_norm(x, stride, weight, out, width, eps, WIDE: tl.constexpr, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    value = tl.load(x + row * stride + at, mask=inside, other=0.0).to(WIDE)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, 0) / width + eps)
    weights = tl.load(weight + at, mask=inside, other=0.0).to(WIDE)
    tl.store(out + row * width + at, value * scale * weights, mask=inside)


@triton.jit
def _rotate_and_put(  # noqa: ANN202
    qkv, stride, cos, sin, storage, of_kind, of_head, of_slot, slots, heads, kv_heads, half,  # noqa: ANN001
    WIDE: tl.constexpr, BLOCK: tl.constexpr,  # noqa: ANN001
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    at = tl.arange(0, BLOCK)
    inside = at < half
    source = qkv + row * stride + head * 2 * half
    first = tl.load(source + at, mask=inside).to(WIDE)
    second = tl.load(source + half + at, mask=inside).to(WIDE)
    if head < heads + kv_heads:  # the halves of `cos` are equal, those of `sin` but for the sign
        angle = row * 2 * half + at
        c = tl.load(cos + angle, mask=inside).to(WIDE)
        s = tl.load(sin + half + angle, mask=inside).to(WIDE)
        turned = first * c - second * s
        second = second * c + first * s
        first = turned
    if head < heads:
        goal = source
        tl.store(goal + at, first, mask=inside)
        tl.store(goal + half + at, second, mask=inside)
    else:
        kind = (head - heads) // kv_heads
        slot = tl.load(slots + row)
        goal = storage + kind * of_kind + (head - heads - kind * kv_heads) * of_head
        goal += slot * of_slot
        tl.store(goal + at, first, mask=inside)
        tl.store(goal + half + at, second, mask=inside)


@triton.jit
def _gated(both, stride, out, width, WIDE: tl.constexpr, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    gate = tl.load(both + row * stride + at, mask=inside, other=0.0).to(WIDE)
    up = tl.load(both + row * stride + width + at, mask=inside, other=0.0).to(WIDE)
    tl.store(out + row * width + at, gate / (1.0 + tl.exp(-gate)) * up, mask=inside)
