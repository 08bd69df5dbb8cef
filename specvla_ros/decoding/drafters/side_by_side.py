"""
Trees whose tokens stand on a device, where the host doesn't know them: branches side by side.

Nothing is shared between branches. On a device a row more costs next to nothing.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from specvla_ros.decoding.tree import structure, TokenTree


def chains(paths: Tensor, source: str, finite: Tensor | None = None) -> TokenTree:
    """
    Return equally long continuations, int64 [B, depth], as a tree on their device.

    finite: bool [1], whether the numbers behind them were; None = there are none.
    """
    branches, depth = paths.shape
    layout, parts = _structure(branches, depth, paths.device)
    return TokenTree(paths.flatten(), *parts, (source,) * paths.numel(), finite, layout)


@lru_cache(maxsize=256)  # a chunk's chain is shorter each pass
def _structure(
    branches: int, depth: int, device: torch.device
) -> tuple[tuple[int, ...], tuple[Tensor, Tensor, Tensor]]:
    """Parents on the host; parents, depth and ancestor mask on the device."""
    layout = tuple(node - 1 if node % depth else -1 for node in range(branches * depth))
    return layout, structure_on(layout, device)


@lru_cache(maxsize=1024)
def structure_on(
    layout: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Parents, depth and ancestor mask on a device, copied there once."""
    parents, depth, mask = (it.to(device, non_blocking=True) for it in structure(layout))
    return parents, depth, mask
