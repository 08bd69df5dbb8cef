"""
The Llama as inference runs it: the same weights in fewer and larger operations.

A pass over one token is over so soon on a small model, or on a fast GPU, that calling modules
costs more than multiplying matrices. Here q, k and v are one product, gate and up another, and
one rotation turns queries and keys; what a layer computes is transformers' `LlamaModel`, which
stays the reference and what training differentiates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import nn, Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaModel

from .joined import joined

_joined = partial(joined, column_major=True)  # a pass over one token is what there is most of


class KeyValueCache(Protocol):
    """What a pass asks of a cache: transformers' ``Cache.update``."""

    def update(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Take a layer's new [B, heads, S, d] and return all it holds, [B, heads, K, d]."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """A layer's norms [h] and its products [S, in] → [S, out]."""

    input_norm: Tensor
    qkv: Callable[[Tensor], Tensor]
    out: Callable[[Tensor], Tensor]
    mlp_norm: Tensor
    gate_up: Callable[[Tensor], Tensor]
    down: Callable[[Tensor], Tensor]


class FusedLlama:
    """
    A Llama's layers and final norm, for one sequence at a time.

    The module's parameters are replaced by views of the joined weights: nothing is held twice,
    and a change in place of either is one of both.
    """

    def __init__(self, llama: LlamaModel) -> None:
        config = llama.config
        self._dim = (config.hidden_size,)
        self._eps = config.rms_norm_eps
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._head_dim = config.head_dim
        self._norm = llama.norm.weight.detach()
        self._cos, self._sin = _rotations(
            llama.rotary_emb.inv_freq, config.max_position_embeddings, self._norm.dtype)
        # Parameters made in inference mode could never be trained again.
        with torch.inference_mode(False), torch.no_grad():
            self._layers = [_layer(layer) for layer in llama.layers]

    def __call__(
        self, inputs: Tensor, positions: Tensor, mask: Tensor, cache: KeyValueCache
    ) -> Tensor:
        """
        Hidden states [1, S, h] after the final norm.

        inputs: [1, S, h]; positions: int64 [S], below the model's limit. mask: bool [1, 1, S, K],
        True = attend, K what the cache returns.
        """
        x = inputs[0]
        rows, rotated = x.shape[0], self._heads + self._kv_heads
        cos, sin = self._cos.index_select(0, positions), self._sin.index_select(0, positions)
        mask = additive(mask, x.dtype)
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv(self._rms_norm(x, layer.input_norm)).view(rows, -1, self._head_dim)
            qk = qkv[:, :rotated]
            qk = rotate(qk, cos, sin)
            query, key, value = (
                part.transpose(0, 1)[None]
                for part in (qk[:, : self._heads], qk[:, self._heads :], qkv[:, rotated:])
            )
            key, value = cache.update(key, value, index)
            mixed = functional.scaled_dot_product_attention(
                query, key, value, mask, enable_gqa=self._heads != self._kv_heads,
            )
            x = x + layer.out(mixed[0].transpose(0, 1).reshape(rows, -1))
            gate, up = layer.gate_up(self._rms_norm(x, layer.mlp_norm)).chunk(2, -1)
            x = x + layer.down(functional.silu(gate) * up)
        return self._rms_norm(x, self._norm)[None]

    def _rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, self._dim, weight, self._eps)


def _rotations(inv_freq: Tensor, positions: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [positions, 1, d] for ``rotate``, in float32 until they are known."""
    numbers = torch.arange(positions, device=inv_freq.device)
    angles = (numbers[:, None].float() * inv_freq)[:, None]
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """
    Llama's rotary embedding of heads [..., d], ``sin`` negative in its first half.

    It turns (x, y), the halves of a head, to (x cos - y sin, y cos + x sin): with the halves
    swapped one multiply-add, given the signs.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Bool mask → 0 / -inf, once a pass: sdpa would convert a bool mask again in each layer."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
        ~mask, float('-inf')
    )


def _layer(layer: nn.Module) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        layer.input_layernorm.weight.detach(),
        _joined(attention.q_proj, attention.k_proj, attention.v_proj),
        _joined(attention.o_proj),
        layer.post_attention_layernorm.weight.detach(),
        _joined(mlp.gate_proj, mlp.up_proj),
        _joined(mlp.down_proj),
    )
