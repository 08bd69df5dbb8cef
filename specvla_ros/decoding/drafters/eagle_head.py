"""
The EAGLE network: one Llama layer that continues the target's features.

From (f_i, e_{i+1}), the target's feature at a position and the embedding of the token after it,
it guesses the next feature f̂_{i+1}; the target's own ``lm_head`` makes that a token. Layer 0 has
no input norm and there is no final norm. Sources: EAGLE (arXiv 2401.15077), Spec-VLA (arXiv
2507.22424). A drafter folder is ``config.json`` and ``pytorch_model.bin`` (published) or
``model.safetensors`` (ours), with the same names in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn, Tensor
from torch.nn import functional

from specvla_ros.decoding.cache import StaticCache
from specvla_ros.openvla.fused_llama import FusedLayers, KeyValueCache
from specvla_ros.openvla.joined import joined
from specvla_ros.openvla.json_file import Fields
from specvla_ros.openvla.lazy import lazy_property
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.openvla.small_operations import Place, rotate

from .eagle_config import EagleConfig
from .head_files import load_head, save_head

# A published drafter carries a copy of the target's embedding; ours leaves it out. The target's
# own is used either way.
_EMBEDDING = 'embed_tokens.weight'
# Rotary angles are tabulated: Llama-2's context, ten times a prompt and its action.
_POSITIONS = 4096


class _Attention(nn.Module):
    """Self-attention of a Llama layer, rotary angles given from outside."""

    def __init__(self, config: EagleConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.groups = config.num_attention_heads // config.num_key_value_heads
        h, kv = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(h, h, bias=False)
        self.k_proj = nn.Linear(h, kv, bias=False)
        self.v_proj = nn.Linear(h, kv, bias=False)
        self.o_proj = nn.Linear(h, h, bias=False)

    def forward(
        self,
        x: Tensor,
        queries: int,
        angles: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: KeyValueCache | None,
    ) -> Tensor:
        """
        Keys and values of all of x [B, S, h], attention for its last ``queries``.

        angles: cos and sin for ``rotate``, [B or 1, 1, S, d]; mask: [B or 1, 1, queries, K],
        None = causal.
        """
        batch = x.shape[0]
        q, k, v = (
            projection(part).view(batch, part.shape[1], -1, self.head_dim).transpose(1, 2)
            for projection, part in (
                (self.q_proj, x[:, -queries:]), (self.k_proj, x), (self.v_proj, x)
            )
        )
        cos, sin = angles
        q = rotate(q, cos[:, :, -queries:], sin[:, :, -queries:])
        k = rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.update(k, v, 0)
        if self.groups > 1:
            k, v = (t.repeat_interleave(self.groups, dim=1) for t in (k, v))
        out = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None and queries > 1
        )
        return self.o_proj(out.transpose(1, 2).reshape(batch, queries, -1))


class _MLP(nn.Module):
    """Llama's gated MLP."""

    def __init__(self, config: EagleConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., h] → [..., h]."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class _Layer(nn.Module):
    """A Llama layer without the norm before its attention."""

    def __init__(self, config: EagleConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.mlp = _MLP(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, queries: int, *attention: Any) -> Tensor:
        """[B, S, h] → [B, queries, h]."""
        x = x[:, -queries:] + self.self_attn(x, queries, *attention)
        return x + self.mlp(self.post_attention_layernorm(x))


class EagleHead(nn.Module):
    """
    The EAGLE network: guesses the target's next features; random until trained or loaded.

    It has no embedding and no ``lm_head``: both are the target's.
    """

    def __init__(self, config: EagleConfig) -> None:
        super().__init__()
        self.config = config
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.layers = nn.ModuleList([_Layer(config)])
        half = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
        angles = torch.outer(
            torch.arange(_POSITIONS, dtype=torch.float64),
            config.rope_theta**-half,
        )
        cos, sin = angles.cos().float(), angles.sin().float()
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer('cos', torch.cat((cos, cos), -1), persistent=False)
        self.register_buffer('sin', torch.cat((-sin, sin), -1), persistent=False)

    def forward(
        self,
        features: Tensor,
        embeds: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
        queries: int | None = None,
    ) -> Tensor:
        """
        Guessed features f̂_{i+1} [B, S, h] from pairs (f_i, e_{i+1}).

        features: [B, S, h], the target's or, further ahead, the drafter's own.
        embeds: [B, S, h], the target's embedding of the token after each feature's.
        position_ids: int64 [B or 1, S], position of the feature in the sequence.
        attention_mask: bool [B or 1, 1, S, K], True = attend, or additive; K = S, or what the
            cache returns. None is causal, right where nothing is cached or where one query sees
            all that is.
        cache: takes and returns keys and values; None keeps nothing (training).
        queries: guess only after the last this many pairs, [B, queries, h]; the others just
            leave their keys and values. S in the mask is then this. None is all.
        """
        x = self.fc(torch.cat((embeds, features), dim=-1))
        angles = self.cos[position_ids].unsqueeze(1), self.sin[position_ids].unsqueeze(1)
        return self.layers[0](x, queries or x.shape[1], angles, attention_mask, cache)

    @lazy_property
    def fused(self) -> FusedEagle:
        """The network for inference: ``forward`` for one sequence, in fewer operations."""
        return FusedEagle(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EagleHead:
        """Move or convert the module (``to``, ``half`` …)."""
        self.__dict__.pop('fused', None)  # its weights are those from before
        return super()._apply(fn, recurse)

    def new_cache(self) -> StaticCache:
        """Empty cache for decoding on the weights' device."""
        config, weight = self.config, self.fc.weight
        return StaticCache(
            1, config.num_key_value_heads, config.head_dim, weight.dtype, weight.device
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path, target: OpenVLA) -> EagleHead:
        """
        Read a drafter folder, for this target: on its device, in its data type.

        Raises FileNotFoundError if a file is missing, and SpecVLAError, naming the tensor and
        the shapes, if the weights don't fit the configuration or the target.
        """
        text = target.config.text_config

        def make(content: Mapping[str, Any]) -> EagleHead:
            rows = (text.vocab_size, target.config.action_vocab_size)
            Fields(content, 'drafter').only(
                'vocab_size', *rows, why="the target's, with or without its rows of padding")
            return cls(EagleConfig.from_dict(content))

        return load_head(Path(folder), target, make, {_EMBEDDING})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``; ``from_pretrained`` reads them."""
        config = {'model_type': 'eagle', 'num_hidden_layers': 1, **asdict(self.config)}
        save_head(Path(folder), self, config)


class FusedEagle:
    """
    Computes the same as `EagleHead.forward` for one sequence, in fewer operations.

    It joins the weights: the parameters of the `EagleHead` become views of the joined tensors.
    """

    def __init__(self, head: EagleHead) -> None:
        with torch.inference_mode(False), torch.no_grad():
            self._fc = joined(head.fc, column_major=True)
        cos, sin = head.cos.unsqueeze(1), head.sin.unsqueeze(1)
        self._layers = FusedLayers(cast('list[_Layer]', head.layers), head.config, cos, sin)

    def __call__(
        self,
        features: Tensor,
        embeds: Tensor,
        positions: Tensor,
        mask: Tensor,
        cache: Place,
        kept: Tensor | None = None,
    ) -> Tensor:
        """
        Guessed features [S or R, h] from pairs [S, h]; see ``EagleHead.forward``.

        positions: int64 [S]; mask: bool [S, K], K what the cache returns; kept: int64 [R], the
        pairs to guess after, None = all.
        """
        x = self._fc(torch.cat((embeds, features), dim=-1))
        return self._layers(x, positions, mask[None, None], cache, kept)
