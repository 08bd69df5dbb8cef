"""
The draft tree: guesses for the next tokens, many continuations at once.

The root is not part of it. It is the last token known for sure (the end of the prompt, later the
bonus token of the pass before); the tree holds what may follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import nan
from typing import NamedTuple

import torch
from torch import Tensor

from specvla_ros.errors import SpecVLAError


@dataclass(frozen=True, slots=True, eq=False)
class TokenTree:
    """
    N draft tokens and who follows whom; N may be 0. On the host, or where its drafter made it.

    tokens: int64 [N] vocabulary ids.
    parents: int64 [N] index of each node's parent, -1 for a child of the root. Parents stand
        before their children (parents[i] < i), so one walk in index order sees them first.
    depth: int64 [N] distance to the root: its children have depth 1. Node i's rotary position
        is the root's + depth[i].
    ancestor_mask: bool [N, N], row i true at i's ancestors and at i itself: whom i attends to,
        besides the committed prefix and the root.
    sources: [N] name of the drafter that guessed each node.
    finite: bool [1], whether the drafter's numbers were; None = it computes none.
    layout: the parents, where the host knows them without asking a device; None = it does not.

    ``of`` and its kin make trees on the host and check them; this constructor trusts.
    """

    tokens: Tensor
    parents: Tensor
    depth: Tensor
    ancestor_mask: Tensor
    sources: tuple[str, ...]
    finite: Tensor | None = None
    layout: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @classmethod
    def empty(cls) -> TokenTree:
        """No guess: only the root is verified, as in plain autoregression."""
        return _EMPTY

    @classmethod
    def of(
        cls, tokens: Sequence[int], parents: Sequence[int], source: str | Sequence[str]
    ) -> TokenTree:
        """
        Tree of these nodes, all by one drafter or each with its own.

        Raises SpecVLAError if the numbers differ or a parent does not stand before its child.
        """
        n = len(tokens)
        sources = (source,) * n if isinstance(source, str) else tuple(source)
        if len(parents) != n or len(sources) != n:
            raise SpecVLAError(
                f'a token tree has {n} tokens, {len(parents)} parents and {len(sources)} sources; '
                'give one of each per node'
            )
        layout = tuple(parents)
        return cls(torch.tensor(tokens, dtype=torch.int64), *structure(layout), sources,
                   layout=layout)

    @classmethod
    def chain(cls, tokens: Iterable[int], source: str = 'draft') -> TokenTree:
        """One continuation: each token follows the one before."""
        tokens = [int(token) for token in tokens]
        return cls.of(tokens, range(-1, len(tokens) - 1), source)

    @classmethod
    def from_paths(cls, paths: Iterable[Sequence[int]], source: str = 'draft') -> TokenTree:
        """Several continuations from the root; what they have in common at the start is shared."""
        return cls.merge([cls.chain(path, source) for path in paths])

    @classmethod
    def merge(cls, trees: Iterable[TokenTree]) -> TokenTree:
        """All branches of several trees on the host; what they share at the start is shared."""
        trees = [tree for tree in trees if len(tree)]
        if len(trees) < 2:
            return trees[0] if trees else cls.empty()
        places: dict[tuple[int, int], int] = {}  # in the merged tree, by parent and token
        sources: dict[tuple[int, int], str] = {}
        for tree in trees:
            place = {-1: -1}  # of the tree's own nodes
            nodes = zip(tree.tokens.tolist(), tree.parents_on_host(), tree.sources, strict=True)
            for node, (token, parent, source) in enumerate(nodes):
                key = place[parent], token
                place[node] = places.setdefault(key, len(places))
                sources.setdefault(key, source)
        parents, tokens = zip(*places, strict=True)
        return cls(torch.tensor(tokens), *structure(parents), tuple(sources.values()),
                   all_finite(trees), parents)

    def parents_on_host(self) -> Sequence[int]:
        """Index of each node's parent; only of a tree without ``layout`` a device is asked."""
        return self.parents.tolist() if self.layout is None else self.layout

    def to(self, device: torch.device) -> TokenTree:
        """Move the tree to a device; an empty one stays, as it is never read."""
        if self.tokens.device == device or not len(self):
            return self
        parts = (self.tokens, self.parents, self.depth, self.ancestor_mask)
        tokens, parents, depth, mask = (part.to(device, non_blocking=True) for part in parts)
        return TokenTree(tokens, parents, depth, mask, self.sources, self.finite, self.layout)


class ReadBack(NamedTuple):
    """
    Holds a tree and what the target said of it, on the host.

    parents, drafts: [N] of the tree. own: [N + 1] the target's own token after the root and each
    node, -1 where its logits were not finite.
    """

    parents: Sequence[int]
    drafts: Sequence[int]
    own: Sequence[int]


@dataclass(frozen=True, slots=True)
class Accepted:
    """
    Holds the tokens that one pass adds to the action: the accepted path and the bonus.

    nodes: accepted tree nodes from the root down (may be none); tokens: their tokens.
    bonus: the token the target adds after the last of them, at no further cost.
    bins_off: how far each of the tokens is from the target's own choice.
    entropy: of what the target said there and for the bonus, summed; 1 = all bins are alike.
    forbidden: at how many of these tokens a guard forbade the target's own choice.
    read_back: what was copied to the host for the decision; None = nothing.
    """

    nodes: tuple[int, ...]
    tokens: tuple[int, ...]
    bonus: int
    bins_off: tuple[int, ...] = field(default=(), compare=False)
    entropy: float = field(default=nan, compare=False)
    forbidden: int = field(default=0, compare=False)
    read_back: ReadBack | None = field(default=None, compare=False)


def all_finite(trees: Iterable[TokenTree]) -> Tensor | None:
    """Whether all numbers behind some trees are finite, bool [1]; None = there are none."""
    known = [tree.finite for tree in trees if tree.finite is not None]
    if len(known) < 2:
        return known[0] if known else None
    return torch.cat(known).all(0, keepdim=True)


@lru_cache(maxsize=1024)
def structure(parents: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Parents, depth and ancestor mask; a drafter's trees differ in their tokens, seldom here."""
    n = len(parents)
    depth, mask = [0] * n, [[False] * n for _ in range(n)]
    for node, parent in enumerate(parents):
        if not -1 <= parent < node:
            raise SpecVLAError(
                f'parent of tree node {node} is {parent}, must be -1 (the root) to {node - 1}'
            )
        depth[node] = 1
        if parent >= 0:
            depth[node] += depth[parent]
            mask[node] = mask[parent].copy()
        mask[node][node] = True
    chains = torch.tensor([parents, depth], dtype=torch.int64)
    return *chains, torch.tensor(mask, dtype=torch.bool).view(n, n)


_EMPTY = TokenTree.of([], [], 'draft')
