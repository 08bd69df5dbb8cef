"""
The draft tree: guesses for the next tokens, many continuations at once.

The root is not part of it. It is the last token known for sure (the end of the prompt, later the
bonus token of the pass before); the tree holds what may follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specvla_ros.errors import SpecVLAError


@dataclass(frozen=True, slots=True, eq=False)
class TokenTree:
    """
    N draft tokens and who follows whom; N may be 0.

    tokens: int64 [N] vocabulary ids.
    parents: int64 [N] index of each node's parent, -1 for a child of the root. Parents stand
        before their children (parents[i] < i), so one walk in index order sees them first.
    sources: [N] name of the drafter that guessed each node.
    depth: int64 [N] distance to the root: its children have depth 1. Node i's rotary position
        is the root's + depth[i].
    ancestor_mask: bool [N, N], row i true at i's ancestors and at i itself: whom i attends to,
        besides the committed prefix and the root.

    Raises SpecVLAError if the shapes differ or a parent does not stand before its child.
    """

    tokens: NDArray[np.int64]
    parents: NDArray[np.int64]
    sources: tuple[str, ...]
    depth: NDArray[np.int64] = field(init=False)
    ancestor_mask: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        tokens = np.asarray(self.tokens, dtype=np.int64)
        parents = np.asarray(self.parents, dtype=np.int64)
        n = tokens.size
        if tokens.shape != (n,) or parents.shape != (n,) or len(self.sources) != n:
            raise SpecVLAError(
                f'a token tree has tokens {tokens.shape}, parents {parents.shape} and '
                f'{len(self.sources)} sources; give one of each per node'
            )
        depth = [0] * n
        mask = np.eye(n, dtype=bool)
        for node, parent in enumerate(parents.tolist()):
            if not -1 <= parent < node:
                raise SpecVLAError(
                    f'parent of tree node {node} is {parent}, must be -1 (the root) to {node - 1}'
                )
            if parent >= 0:
                mask[node] |= mask[parent]
                depth[node] = depth[parent] + 1
            else:
                depth[node] = 1
        for name, value in (
            ('tokens', tokens),
            ('parents', parents),
            ('depth', np.array(depth, dtype=np.int64)),
            ('ancestor_mask', mask),
        ):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return self.tokens.size

    @classmethod
    def empty(cls) -> TokenTree:
        """No guess: only the root is verified, as in plain autoregression."""
        return _EMPTY

    @classmethod
    def chain(cls, tokens: Iterable[int], source: str = 'draft') -> TokenTree:
        """One continuation: each token follows the one before."""
        return cls.from_paths([list(tokens)], source)

    @classmethod
    def from_paths(
        cls, paths: Iterable[Sequence[int]], source: str = 'draft'
    ) -> TokenTree:
        """Several continuations from the root; what they have in common at the start is shared."""
        return cls.merge([cls.of(path, range(-1, len(path) - 1), source) for path in paths])

    @classmethod
    def merge(cls, trees: Iterable[TokenTree]) -> TokenTree:
        """All branches of several trees; what they have in common at the start is shared."""
        tokens: list[int] = []
        parents: list[int] = []
        sources: list[str] = []
        child: dict[tuple[int, int], int] = {}
        for tree in trees:
            place = {-1: -1}  # of the tree's nodes in the merged one
            for node in range(len(tree)):
                key = (place[int(tree.parents[node])], int(tree.tokens[node]))
                if key not in child:
                    child[key] = len(tokens)
                    parents.append(key[0])
                    tokens.append(key[1])
                    sources.append(tree.sources[node])
                place[node] = child[key]
        return cls(np.array(tokens, np.int64), np.array(parents, np.int64), tuple(sources))

    @classmethod
    def of(cls, tokens: ArrayLike, parents: ArrayLike, source: str) -> TokenTree:
        """Tree of one drafter's nodes."""
        tokens = np.asarray(tokens, dtype=np.int64)
        return cls(tokens, np.asarray(parents, dtype=np.int64), (source,) * tokens.size)

    def path_to(self, node: int) -> list[int]:
        """Nodes from the root's child down to ``node``."""
        path = []
        while node >= 0:
            path.append(node)
            node = int(self.parents[node])
        return path[::-1]

    def within(self, max_depth: int) -> TokenTree:
        """Drop the nodes deeper than ``max_depth``: the tree itself if there are none."""
        keep = self.depth <= max_depth
        if keep.all():
            return self
        index = np.cumsum(keep) - 1
        parents = self.parents[keep]
        return TokenTree(
            self.tokens[keep],
            np.where(parents < 0, -1, index[parents]),
            tuple(source for source, kept in zip(self.sources, keep, strict=True) if kept),
        )


_EMPTY = TokenTree(np.empty(0, np.int64), np.empty(0, np.int64), ())
