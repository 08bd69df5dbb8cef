"""
The OpenVLA network: prompt and patches in, hidden states and logits out.

It decides nothing about decoding: which tokens stand in a pass, at which positions and who
attends to whom is the caller's, and so is the key/value cache.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaModel

from .action_tokenizer import ActionTokenizer
from .config import OpenVLAConfig
from .vision import FusedVision

_INIT_STD = 0.02


class KeyValueCache(Protocol):
    """What ``forward`` asks of a cache: transformers' ``Cache.update``."""

    def update(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Take a layer's new [B, heads, S, d] and return all it holds, [B, heads, K, d]."""
        ...


class Projector(nn.Module):
    """
    Patch features → the Llama's width; exact GELU between the layers.

    Three layers behind a fused backbone (first widening fourfold), two behind a single one.
    """

    def __init__(self, features: int, hidden: int, fused: bool) -> None:
        super().__init__()
        wide = 4 * features if fused else hidden
        self.fc1 = nn.Linear(features, wide)
        self.fc2 = nn.Linear(wide, hidden)
        self.fc3 = nn.Linear(hidden, hidden) if fused else None

    def forward(self, features: Tensor) -> Tensor:
        """[B, P, features] → [B, P, hidden]."""
        hidden = self.fc2(functional.gelu(self.fc1(features)))
        return hidden if self.fc3 is None else self.fc3(functional.gelu(hidden))


class OpenVLA(nn.Module):
    """
    An OpenVLA of any size, random until weights are loaded.

    ``tokenizer`` and ``norm_stats`` come with a checkpoint; without them the methods that need
    them raise.
    """

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        self.config = config
        text, vision = config.text_config, config.vision_config
        self.vision = FusedVision(vision)
        self.projector = Projector(
            vision.feature_size, text.hidden_size, fused=vision.siglip is not None
        )
        self.language_model = LlamaModel(text)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        for module in (*self.projector.children(), self.lm_head):
            nn.init.normal_(module.weight, std=_INIT_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        self.action_tokenizer = ActionTokenizer(config.action_vocab_size, config.n_action_bins)
        self.tokenizer: PreTrainedTokenizerFast | None = None
        self.norm_stats: dict[str, dict] = {}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return self.lm_head.weight.dtype

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Embeddings [..., h] of token ids [...]."""
        return self.language_model.embed_tokens(ids)

    def embed_patches(self, pixel_values: Tensor) -> Tensor:
        """Projected patches [B, P, h] of pixel values [B, 6, H, W]."""
        return self.projector(self.vision(pixel_values.to(self.dtype)))

    def embed(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        """
        The multimodal prompt [B, P + T, h]: BOS, the projected patches, the rest of the text.

        input_ids: int64 [B, T], BOS first; pixel_values: float [B, 6, H, W].
        """
        tokens = self.embed_tokens(input_ids)
        patches = self.embed_patches(pixel_values)
        return torch.cat((tokens[:, :1], patches, tokens[:, 1:]), dim=1)

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """
        Hidden states [B, S, h] after the final norm.

        inputs_embeds: [B, S, h].
        position_ids: int64 [B, S] (or [1, S]); None counts from 0.
        attention_mask: bool [B or 1, 1, S, K], True = attend, or the additive equivalent in
            the model's dtype; K = what the cache returns, S without one. None means causal,
            which is right only for one token or where nothing is cached yet.
        cache: takes and returns each layer's keys and values; None keeps nothing (training).
        """
        if position_ids is None:
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)[None]
        if attention_mask is not None and attention_mask.dtype == torch.bool:
            attention_mask = _additive(attention_mask, inputs_embeds.dtype)
        llama = self.language_model
        # The layers are walked here, not in LlamaModel.forward: that one looks for packed
        # sequences in position_ids, builds a mask of its own and asks the cache for its sizes.
        rotary = llama.rotary_emb(inputs_embeds, position_ids)
        hidden = inputs_embeds
        for layer in llama.layers:
            hidden = layer(
                hidden,
                attention_mask=attention_mask,
                past_key_values=cache,
                position_embeddings=rotary,
            )
        return llama.norm(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary with padding rows] of hidden states [..., h]."""
        return self.lm_head(hidden)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Bool mask → 0 / -inf, once a pass: sdpa would convert a bool mask again in each layer."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
        ~mask, float('-inf')
    )
