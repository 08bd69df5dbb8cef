"""Weights before any training: random, of the size that OpenVLA's own start with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn, Tensor

_STD = 0.02


def initialise(*modules: nn.Module) -> None:
    """Draw the weights of those modules that are linear, in place; biases become zero."""
    for module in modules:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def drawn(
    shapes: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype, seed: int
) -> dict[str, Tensor]:
    """Weights of the same names and shapes, each drawn on the device in this data type."""
    random, weights = torch.Generator(device).manual_seed(seed), {}
    for name, like in shapes.items():
        weights[name] = torch.zeros(like.shape, dtype=dtype, device=device)
        if like.ndim > 1:
            weights[name].normal_(std=_STD, generator=random)
        elif not name.endswith('bias'):  # of the norms and LayerScale: as if not there
            weights[name].fill_(1)
    return weights
