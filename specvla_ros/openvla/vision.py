"""
DINOv2 beside SigLIP: pixel values in, fused patch features out.

transformers' modules compute what timm's do, given LayerNorm eps 1e-6, the exact GELU in both
(transformers' SigLIP defaults to the tanh form), and no position embedding for class and
register tokens. Only the blocks whose output is used are built: the features leave a tower
after its second-to-last block, without the final norm.
"""

from __future__ import annotations

import torch
from torch import nn, Tensor
from transformers.models.dinov2_with_registers.configuration_dinov2_with_registers import (
    Dinov2WithRegistersConfig,
)
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import (
    Dinov2WithRegistersModel,
)
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipVisionModel

from .config import VisionConfig, ViTConfig
from .llama_config import SDPA

_LAYER_NORM_EPS = 1e-6


class FusedVision(nn.Module):
    """
    The vision backbone: [B, 6, H, W] pixel values → [B, P, width of DINOv2 + of SigLIP].

    Channels 0–2 are normalised for DINOv2, 3–5 for SigLIP. Without a SigLIP tower only the
    first three are read. Source: shared facts on OpenVLA, "One prediction", step 3.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.dino = _dino(config.dino, config)
        self.siglip = _siglip(config.siglip, config) if config.siglip else None

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Patch features [B, P, D] of pixel values [B, 6, H, W], patches in reading order."""
        hidden = self.dino.embeddings(pixel_values[:, :3])
        for block in self.dino.encoder.layer:
            hidden = block(hidden)
        patches = hidden[:, 1 + self.config.registers :]
        if self.siglip is None:
            return patches
        hidden = self.siglip.embeddings(pixel_values[:, 3:])
        for block in self.siglip.encoder.layers:
            hidden = block(hidden, None)
        return torch.cat((patches, hidden), dim=-1)


def _dino(vit: ViTConfig, config: VisionConfig) -> Dinov2WithRegistersModel:
    """DINOv2 without its last block, final norm and mask token."""
    model = Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(
            hidden_size=vit.hidden_size,
            num_hidden_layers=vit.depth - 1,
            num_attention_heads=vit.num_heads,
            mlp_ratio=vit.mlp_size // vit.hidden_size,
            hidden_act='gelu',
            layer_norm_eps=_LAYER_NORM_EPS,
            image_size=config.image_size,
            patch_size=config.patch_size,
            num_register_tokens=config.registers,
            **SDPA,
        )
    )
    model.add_module('layernorm', nn.Identity())
    model.embeddings.register_parameter('mask_token', None)
    with torch.no_grad():
        # The published layout has no position embedding for the class token.
        model.embeddings.position_embeddings[:, 0] = 0
    return model


def _siglip(vit: ViTConfig, config: VisionConfig) -> SiglipVisionModel:
    """SigLIP's image tower without its last block, final norm and pooling head."""
    model = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=vit.hidden_size,
            intermediate_size=vit.mlp_size,
            num_hidden_layers=vit.depth - 1,
            num_attention_heads=vit.num_heads,
            hidden_act='gelu',
            layer_norm_eps=_LAYER_NORM_EPS,
            image_size=config.image_size,
            patch_size=config.patch_size,
            vision_use_head=False,
            **SDPA,
        )
    )
    model.add_module('post_layernorm', nn.Identity())
    return model
