"""
Trees whose tokens stand on a device, where the host doesn't know them: branches side by side.

Nothing is shared between branches. On a device a row more costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor

from specvla_ros.decoding.tree import all_finite, TokenTree


def chains(paths: Tensor, source: str, finite: Tensor | None = None) -> TokenTree:
    """
    Return equally long continuations, int64 [B, depth], as a tree on their device.

    finite: bool [1], whether the numbers behind them were; None = there are none.
    """
    branches, depth = paths.shape
    parts = _structure(branches, depth, paths.device)
    return TokenTree(paths.flatten(), *parts, (source,) * paths.numel(), finite)


def merged(trees: Iterable[TokenTree]) -> TokenTree:
    """Merge trees on the host, as ``TokenTree.merge``; if any is on a device, all go there."""
    trees = [tree for tree in trees if len(tree)]
    device = next((it.tokens.device for it in trees if it.tokens.device.type != 'cpu'), None)
    if device is None or len(trees) < 2:
        return TokenTree.merge(trees)
    trees = [tree.to(device) for tree in trees]
    parents, nodes = [], 0
    for tree in trees:
        parents.append(tree.parents.where(tree.parents < 0, tree.parents + nodes))
        nodes += len(tree)
    return TokenTree(
        torch.cat([tree.tokens for tree in trees]),
        torch.cat(parents),
        torch.cat([tree.depth for tree in trees]),
        torch.block_diag(*(tree.ancestor_mask for tree in trees)),
        sum((tree.sources for tree in trees), ()),
        all_finite(trees),
    )


@lru_cache(maxsize=256)
def _structure(branches: int, depth: int, device: torch.device) -> tuple[Tensor, ...]:
    """
    Parents, depth and ancestor mask, made on the device.

    A chunk's chain is one token shorter each pass: many structures, each of them needed soon.
    """
    node = torch.arange(branches * depth, device=device)
    level, chain = node % depth, node // depth
    parents = (node - 1).where(level > 0, -1)
    mask = (chain[:, None] == chain) & (node[:, None] >= node)
    return parents, level + 1, mask
