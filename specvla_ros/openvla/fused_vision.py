"""
The vision towers as inference runs them: one image, the same weights, fewer operations.

q, k and v are one product, a patch embedding is a product instead of a convolution, LayerScale
and the residual one multiply-add. On a GPU the two towers run side by side. What they compute is
transformers' modules, which stay the reference and what training differentiates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import cast, TYPE_CHECKING

import torch
from torch import nn, Tensor
from torch.nn import functional

from .joined import joined
from .vision import FusedVision

if TYPE_CHECKING:  # what the ModuleLists hold
    from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import (
        Dinov2WithRegistersLayer,
        Dinov2WithRegistersMLP,
    )
    from transformers.models.siglip.modeling_siglip import (
        SiglipEncoderLayer,
        SiglipMLP,
        SiglipVisionModel,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """A ViT block: norms, products [T, in] → [T, out], and LayerScale [D] where there is any."""

    norm1: Callable[[Tensor], Tensor]
    qkv: Callable[[Tensor], Tensor]
    out: Callable[[Tensor], Tensor]
    scale1: Tensor | None
    norm2: Callable[[Tensor], Tensor]
    up: Callable[[Tensor], Tensor]
    down: Callable[[Tensor], Tensor]
    scale2: Tensor | None


class FusedTowers:
    """Both towers of a ``FusedVision``, for inference; parameters of q, k and v become views."""

    def __init__(self, vision: FusedVision) -> None:
        self._vision = vision
        config = vision.config
        self._patch, self._registers = config.patch_size, config.registers
        self._heads = config.dino.num_heads, config.siglip.num_heads if config.siglip else 0
        # Parameters made in inference mode could never be trained again.
        with torch.inference_mode(False), torch.no_grad():
            self._dino = [_dino_block(layer) for layer in cast(
                'list[Dinov2WithRegistersLayer]', vision.dino.encoder.layer)]
            self._siglip = [_siglip_block(layer) for layer in cast(
                'list[SiglipEncoderLayer]', vision.siglip.encoder.layers
            )] if vision.siglip is not None else []

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Patch features [1, P, D] of one image [1, 6, H, W], patches in reading order."""
        image = pixel_values[0]
        if self._vision.siglip is None:
            return self._run_dino(image[:3])[None]
        with _Beside(image.device) as beside:
            second = self._run_siglip(image[3:], self._vision.siglip)
        first = self._run_dino(image[:3])
        beside.join()
        return torch.cat((first, second), dim=-1)[None]

    def _run_dino(self, image: Tensor) -> Tensor:
        """[3, H, W] → [P, D]; class and register tokens come first and are dropped."""
        embeddings = self._vision.dino.embeddings
        positions = embeddings.position_embeddings[0]
        patches = self._embed(image, embeddings.patch_embeddings.projection) + positions[1:]
        classes = embeddings.cls_token[0] + positions[:1]
        x = torch.cat((classes, embeddings.register_tokens[0], patches))
        return _run(x, self._dino, self._heads[0])[1 + self._registers:]

    def _run_siglip(self, image: Tensor, siglip: SiglipVisionModel) -> Tensor:
        """[3, H, W] → [P, D]."""
        embeddings = siglip.embeddings
        patches = self._embed(image, embeddings.patch_embedding)
        return _run(patches + embeddings.position_embedding.weight, self._siglip, self._heads[1])

    def _embed(self, image: Tensor, convolution: nn.Conv2d) -> Tensor:
        """[3, H, W] → [P, D]: the stride is the kernel, so each patch is a row of a product."""
        channels, height, width = image.shape
        size = self._patch
        tiles = image.view(channels, height // size, size, width // size, size)
        tiles = tiles.permute(1, 3, 0, 2, 4).reshape(-1, channels * size * size)
        return functional.linear(tiles, convolution.weight.flatten(1), convolution.bias)


def _run(x: Tensor, blocks: list[_Block], heads: int) -> Tensor:
    """Blocks over one image's tokens [T, D]."""
    tokens, width = x.shape
    for block in blocks:
        qkv = block.qkv(block.norm1(x)).view(1, tokens, 3, heads, width // heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = _add(x, block.out(mixed.transpose(1, 2).reshape(tokens, width)), block.scale1)
        x = _add(x, block.down(functional.gelu(block.up(block.norm2(x)))), block.scale2)
    return x


def _add(x: Tensor, change: Tensor, scale: Tensor | None) -> Tensor:
    return x + change if scale is None else torch.addcmul(x, change, scale)


def _dino_block(layer: Dinov2WithRegistersLayer) -> _Block:
    scales = layer.layer_scale1.lambda1.detach(), layer.layer_scale2.lambda1.detach()
    attention, norms = layer.attention, (layer.norm1, layer.norm2)
    qkv = attention.q_proj, attention.k_proj, attention.v_proj
    mlp = cast('Dinov2WithRegistersMLP', layer.mlp)  # by its configuration, not the SwiGLU one
    return _block(qkv, attention.o_proj, mlp, norms, scales)


def _siglip_block(layer: SiglipEncoderLayer) -> _Block:
    attention, norms = layer.self_attn, (layer.layer_norm1, layer.layer_norm2)
    qkv = attention.q_proj, attention.k_proj, attention.v_proj
    return _block(qkv, attention.out_proj, layer.mlp, norms, (None, None))


def _block(
    qkv: tuple[nn.Linear, ...], out: nn.Linear, mlp: Dinov2WithRegistersMLP | SiglipMLP,
    norms: tuple[nn.LayerNorm, nn.LayerNorm], scales: tuple[Tensor | None, Tensor | None],
) -> _Block:
    return _Block(
        _norm(norms[0]),
        joined(*qkv),
        joined(out),
        scales[0],
        _norm(norms[1]),
        joined(mlp.fc1),
        joined(mlp.fc2),
        scales[1],
    )


def _norm(norm: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    """Return a layer norm without what calling a module costs."""
    weight, bias = norm.weight.detach(), norm.bias.detach()
    return lambda x: functional.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream beside a device's others: libraries hold memory for each."""
    return torch.cuda.Stream(device)


class _Beside:
    """Records a block's work beside what follows it, in a CUDA graph; elsewhere it just runs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == 'cuda' and torch.cuda.is_current_stream_capturing():
            self._stream = _side_stream(device)
        # Of None this is a context that does nothing.
        self._context = torch.cuda.stream(self._stream)

    def __enter__(self) -> _Beside:
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        self._context.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._context.__exit__(*error)

    def join(self) -> None:
        """Let what follows wait for it."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
