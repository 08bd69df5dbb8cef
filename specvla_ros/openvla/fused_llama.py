"""
The Llama as inference runs it: the same weights in fewer and larger operations.

A pass over one token is over so soon on a small model, or on a fast GPU, that calling modules
costs more than multiplying matrices. Here q, k and v are one product, gate and up another, and
what lies between the products is a few ``small_operations``. What a layer computes is
transformers' `LlamaModel`, which stays the reference and what training differentiates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import cast, Protocol, TYPE_CHECKING

import torch
from torch import nn, Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaModel

from .fastest_operations import small_operations
from .joined import joined, Product
from .small_operations import Place

if TYPE_CHECKING:
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    from .llama_config import TextConfig

_joined = partial(joined, column_major=True)  # a pass over one token is what there is most of
_PADDING = 128  # positions beyond the model's that padded rows of a pass may have


class KeyValueCache(Protocol):
    """What a pass asks of a cache: transformers' ``Cache.update``."""

    def update(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Take a layer's new [B, heads, S, d] and return all it holds, [B, heads, K, d]."""
        ...


class Dimensions(Protocol):
    """What is asked of a Llama's configuration."""

    @property
    def num_attention_heads(self) -> int: ...

    @property
    def num_key_value_heads(self) -> int: ...

    @property
    def head_dim(self) -> int: ...

    @property
    def rms_norm_eps(self) -> float: ...


class Attention(Protocol):
    """What is asked of a layer's attention."""

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    o_proj: nn.Linear


class MLP(Protocol):
    """What is asked of a layer's MLP."""

    gate_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear


class Norm(Protocol):
    """What is asked of an RMS norm."""

    weight: nn.Parameter


class LlamaLayer(Protocol):
    """What is asked of a layer; an ``input_layernorm`` it may have or not."""

    @property
    def self_attn(self) -> Attention: ...

    @property
    def mlp(self) -> MLP: ...

    @property
    def post_attention_layernorm(self) -> Norm: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """A layer's norms [h] and its products [S, in] → [S, out]."""

    input_norm: Tensor | None
    qkv: Product
    out: Product
    mlp_norm: Tensor
    gate_up: Product
    down: Product


class FusedLayers:
    """
    Layers of a Llama, for one sequence at a time; EAGLE's, without an input norm, is one.

    The modules' parameters are replaced by views of the joined weights: nothing is held twice,
    and a change in place of either is one of both.

    cos, sin: rotations for ``small_operations.rotate``, [positions, 1, d].
    """

    def __init__(
        self, layers: Iterable[LlamaLayer], config: Dimensions, cos: Tensor, sin: Tensor
    ) -> None:
        self._eps, self._small = config.rms_norm_eps, small_operations(cos.device)
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._head_dim = config.head_dim
        self._cos, self._sin = cos, sin
        # Parameters made in inference mode could never be trained again.
        with torch.inference_mode(False), torch.no_grad():
            self._layers = [_layer(layer) for layer in layers]

    def __call__(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: Place,
        kept: Tensor | None = None,
    ) -> Tensor:
        """
        Hidden states [S, h] of inputs [S, h].

        positions: int64 [S], below the table's length. mask: bool [1, 1, S, K], True = attend, or
        the additive equivalent; K what the cache returns; None = each row attends to all. kept:
        int64 [R], the rows to compute; of the others the last layer leaves keys and values only,
        and they don't come out. None = all.
        """
        rows, small = x.shape[0], self._small
        cos, sin = self._cos.index_select(0, positions), self._sin.index_select(0, positions)
        if mask is not None and mask.dtype == torch.bool:
            mask = additive(mask, x.dtype)
        grouped = self._heads != self._kv_heads
        x = x.clone()  # the sum that the layers add to, in place
        for index, layer in enumerate(self._layers):
            normed = x if layer.input_norm is None else self.rms_norm(x, layer.input_norm)
            qkv = layer.qkv(normed).view(rows, -1, self._head_dim)
            key, value = small.rotate_and_put(qkv, self._heads, cos, sin, cache, index)
            query = qkv.narrow(1, 0, self._heads).transpose(0, 1).unsqueeze(0)
            if kept is not None and layer is self._layers[-1]:
                x, query = x.index_select(0, kept), query.index_select(2, kept)
                mask = None if mask is None else mask.index_select(2, kept)
                rows = len(kept)
            mixed = functional.scaled_dot_product_attention(
                query, key, value, mask, enable_gqa=grouped)
            layer.out.add_to(x, mixed[0].transpose(0, 1).reshape(rows, -1))
            layer.down.add_to(x, small.gated(layer.gate_up(self.rms_norm(x, layer.mlp_norm))))
        return x

    def rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """Llama's norm of [S, h]."""
        return self._small.rms_norm(x, weight, self._eps)


class FusedLlama:
    """A Llama's layers and final norm, for one sequence at a time."""

    def __init__(self, llama: LlamaModel) -> None:
        self._norm = llama.norm.weight.detach()
        positions = llama.config.max_position_embeddings + _PADDING
        self._layers = FusedLayers(
            cast('list[LlamaDecoderLayer]', llama.layers), cast('TextConfig', llama.config),
            *_rotations(llama.rotary_emb.inv_freq, positions, self._norm.dtype))

    def __call__(
        self,
        inputs: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: Place,
        kept: Tensor | None = None,
    ) -> Tensor:
        """
        Hidden states [1, S or R, h] after the final norm.

        inputs: [1, S, h]; positions: int64 [S], below the model's limit. mask: bool [1, 1, S, K],
        True = attend, or the additive equivalent; K what the cache returns; None = each row
        attends to all. kept: int64 [R], rows to compute; None = all.
        """
        hidden = self._layers(inputs[0], positions, mask, cache, kept)
        return self._layers.rms_norm(hidden, self._norm)[None]


def _rotations(inv_freq: Tensor, positions: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [positions, 1, d] for ``rotate``, in float32 until they are known."""
    numbers = torch.arange(positions, device=inv_freq.device)
    angles = (numbers[:, None].float() * inv_freq)[:, None]
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Bool mask → 0 / -inf, once a pass: sdpa would convert a bool mask again in each layer."""
    return torch.where(mask, *_seen_or_not(dtype, mask.device))


@lru_cache(maxsize=16)
def _seen_or_not(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """
    Return the two values of an additive mask, [] each: 0 where a row attends, -inf elsewhere.

    They are no graph's: a function runs before it is captured, and makes them then.
    """
    return (torch.zeros((), dtype=dtype, device=device),
            torch.full((), float('-inf'), dtype=dtype, device=device))


def _layer(layer: LlamaLayer) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    input_norm = getattr(layer, 'input_layernorm', None)
    return _Layer(
        None if input_norm is None else input_norm.weight.detach(),
        _joined(attention.q_proj, attention.k_proj, attention.v_proj),
        _joined(attention.o_proj),
        layer.post_attention_layernorm.weight.detach(),
        _joined(mlp.gate_proj, mlp.up_proj),
        _joined(mlp.down_proj),
    )
