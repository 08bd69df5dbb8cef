"""
The operations of a Llama layer between its products: norm, rotation, gate.

On a fast GPU a small kernel of a single-token pass takes a microsecond to start and two to run,
whatever it computes: ten a layer were a quarter of a 7B's pass on an H200. Triton, which comes
with torch for CUDA, makes one kernel of each of these operations. Elsewhere they are torch's own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Place(Protocol):
    """Where a pass puts its keys and values; see ``decoding.cache.CacheWriter``."""

    def put(self, entries: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Take a layer's new [S, 2, heads, d], keys first; return all it holds."""
        ...

    def slots(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Return a layer's storage [2, 1, heads, K, d] and the slots of the new rows, [S]."""
        ...


_EXACT = torch.float32, torch.float64  # data types in which squares may be summed as they are


class SmallOperations:
    """The operations, by torch: the reference for any other implementation."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Llama's norm of [S, h], with weights [h]."""
        if not x.is_cpu or x.dtype not in _EXACT:
            return functional.rms_norm(x, weight.shape, weight, eps)
        # On a CPU each operation costs time, however few rows there are: torch's own norm takes
        # ten of them, these are five.
        least, shares = _eps_and_shares(x.shape[1], eps, x.dtype)
        scale = torch.addmv(least, x * x, shares).rsqrt_()
        return (x * scale.unsqueeze(1)).mul_(weight)

    def rotate_and_put(
        self, qkv: Tensor, heads: int, cos: Tensor, sin: Tensor, place: Place, layer_idx: int,
    ) -> tuple[Tensor, Tensor]:
        """
        Turn queries and keys, and put keys and values where they belong.

        qkv: [S, heads + 2 · kv_heads, d], turned in place; keys may be left unturned there.
        heads: of the queries. cos, sin: [S, 1, d], as for ``rotate``.
        Returns all keys and values of the layer, each [1, kv_heads, K, d].
        """
        rows, all_heads, dim = qkv.shape
        kv_heads = (all_heads - heads) // 2
        rotate_(qkv.narrow(1, 0, heads + kv_heads), cos, sin)
        entries = qkv.narrow(1, heads, 2 * kv_heads).view(rows, 2, kv_heads, dim)
        return place.put(entries, layer_idx)

    def gated(self, gate_up: Tensor) -> Tensor:
        """Return silu(gate) · up, [S, n], of both side by side, [S, 2 n]."""
        width = gate_up.shape[1] // 2
        return functional.silu(gate_up.narrow(1, 0, width)) * gate_up.narrow(1, width, width)


@lru_cache(maxsize=64)
def _eps_and_shares(width: int, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return eps [1], and the vector [width] whose product with a row's squares is their mean."""
    return torch.full((1,), eps, dtype=dtype), torch.full((width,), 1 / width, dtype=dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """
    Llama's rotary embedding of heads [..., d], ``sin`` negative in its first half.

    It turns (x, y), the halves of a head, to (x cos - y sin, y cos + x sin): with the halves
    swapped one multiply-add, given the signs.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def rotate_(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """``rotate``, in place."""
    swapped = x.roll(x.shape[-1] // 2, -1)
    x.mul_(cos).addcmul_(swapped, sin)
