"""
EAGLE-2: a dynamic draft tree from a one-layer network (arXiv 2406.16858; Spec-VLA's drafter).

Each level expands the ``top_k`` most probable nodes by cumulative log-probability to ``top_k``
children each; of everything guessed the most probable ``max_nodes`` are verified. The network's
keys and values of committed positions are kept from pass to pass: what it made of its own
guesses is dropped, and the target's features take their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from specvla_ros.decoding.target import FeaturePairs, Target
from specvla_ros.decoding.tree import TokenTree
from specvla_ros.errors import SpecVLAError

from .drafter import DraftContext, Drafter
from .eagle_head import EagleConfig, EagleHead

__all__ = ['DynamicTree', 'EagleConfig', 'EagleDrafter', 'EagleHead']


@dataclass(frozen=True, slots=True)
class DynamicTree:
    """
    Budget of a draft tree.

    top_k: nodes expanded per level, and children of each; depth: levels; max_nodes: nodes
    verified in a pass, the root included. The paper has 8, 4 (5 in its appendix) and 50.
    """

    top_k: int = 8
    depth: int = 5
    max_nodes: int = 50

    def __post_init__(self) -> None:
        for setting, least in zip(fields(self), (1, 1, 2), strict=True):
            value = getattr(self, setting.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise SpecVLAError(
                    f'{setting.name} of the drafter eagle is {value!r}, must be a whole number '
                    f'>= {least}'
                )


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    """
    Nodes guessed at one level, before the best are chosen.

    columns: int64 [C] action tokens, counted from the first action id.
    scores: float32 [C] log-probabilities accumulated from the root.
    parents: int64 [C] indices among the candidates of all levels, -1 = the root.
    """

    columns: Tensor
    scores: Tensor
    parents: Tensor


class EagleDrafter(Drafter):
    """Draft with an EAGLE network; guesses nothing before the prefill: there are no features."""

    def __init__(self, head: EagleHead, budget: DynamicTree) -> None:
        self.head = head
        self.budget = budget
        self._cache = head.new_cache()

    def propose(self, context: DraftContext) -> TokenTree:
        """Guess a tree below the last known token."""
        depth = min(self.budget.depth, self.budget.max_nodes - 1, context.max_depth)
        pairs = context.target.new_pairs() if depth > 0 else None
        if pairs is None:
            return TokenTree.empty()
        feature = self._absorb(pairs)
        return self._best(self._expand(context.target, feature, depth), context)

    def _absorb(self, pairs: FeaturePairs) -> Tensor:
        """Take in what was committed; return the feature guessed at the root [1, 1, h]."""
        cache, length = self._cache, pairs.features.shape[1]
        if pairs.start == 0:
            cache.reset()
        positions = torch.arange(length, device=pairs.features.device)[None] + cache.length
        # One query sees all that is cached, itself included: no mask.
        guessed = self.head(pairs.features, pairs.embeds, positions, None, cache, queries=1)
        cache.advance(length)
        return guessed

    def _expand(self, target: Target, feature: Tensor, depth: int) -> list[_Candidates]:
        """
        Grow the tree level by level.

        Of the frontier's k nodes, ``seen`` [k, drafted so far] says which entries of the cache
        behind the committed ones are a node's ancestors (or itself).
        """
        cache, k = self._cache, min(self.budget.top_k, target.n_action_tokens)
        start, device = cache.length, feature.device
        scores, columns = _log_probs(target, feature).flatten().topk(k)
        # The frontier: its nodes' index among all candidates, tokens, scores and features.
        nodes = torch.arange(k, device=device)
        levels = [_Candidates(columns, scores, torch.full_like(nodes, -1))]
        features = feature.expand(1, k, -1)
        itself = torch.eye(k, dtype=torch.bool, device=device)
        committed = itself.new_ones(k, start)
        seen = itself
        for level in range(depth - 1):
            guessed = self.head(
                features,
                target.action_embeds(columns)[None],
                # After the prefix, wherever the node stands in its level.
                torch.full((1, k), start + level, device=device),
                None if k == 1 else torch.cat((committed, seen), dim=1),
                cache,
            )
            cache.advance(k)
            gains, children = _log_probs(target, guessed)[0].topk(k)
            children, totals = children.flatten(), (scores[:, None] + gains).flatten()
            levels.append(_Candidates(children, totals, nodes.repeat_interleave(k)))
            scores, best = totals.topk(k)
            row = best // k
            columns, features = children[best], guessed[:, row]
            nodes = best + (k + level * k * k)
            seen = torch.cat((seen[row], itself), dim=1)
        cache.truncate(start)
        return levels

    def _best(self, levels: Sequence[_Candidates], context: DraftContext) -> TokenTree:
        """Choose the ``max_nodes - 1`` most probable candidates; one copy to the host."""
        columns, scores, parents = (
            torch.stack(
                [
                    torch.cat([getattr(level, name) for level in levels]).double()
                    for name in ('columns', 'scores', 'parents')
                ]
            )
            .cpu()
            .numpy()
        )
        if not np.isfinite(scores).all():
            raise SpecVLAError('the drafter gave probabilities that are not finite; check it')
        # A parent is at least as probable as its child and stands before it, so a stable sort
        # never keeps a child without its parent.
        keep = np.sort(np.argsort(-scores, kind='stable')[: self.budget.max_nodes - 1])
        index = np.full(columns.size + 1, -1)  # [-1] is the root's
        index[keep] = np.arange(keep.size)
        first_id = context.layout.tokenizer.first_id
        return TokenTree.of(
            columns[keep].astype(np.int64) + first_id,
            index[parents[keep].astype(np.int64)],
            source='eagle',
        )


def _log_probs(target: Target, features: Tensor) -> Tensor:
    """Log-probabilities float32 [..., action tokens] of guessed features [..., h]."""
    return functional.log_softmax(target.action_logits(features), dim=-1, dtype=torch.float32)
