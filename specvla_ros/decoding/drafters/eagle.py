"""
EAGLE-2: a dynamic draft tree from a one-layer network (arXiv 2406.16858; Spec-VLA's drafter).

Each level expands the ``top_k`` most probable nodes by cumulative log-probability to ``top_k``
children each; of everything guessed the most probable ``max_nodes`` are verified. The network's
keys and values of committed positions stay from pass to pass. Those of its own guesses are
dropped, and the target's features take their place.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from specvla_ros.decoding.target import Target
from specvla_ros.decoding.tree import TokenTree
from specvla_ros.errors import SpecVLAError
from specvla_ros.graphs import Padded
from specvla_ros.openvla.model import OpenVLA

from .drafter import DraftContext, Drafter, DRAFTERS
from .eagle_config import EagleConfig
from .eagle_head import EagleHead

__all__ = ['TreeBudget', 'EagleConfig', 'EagleDrafter', 'EagleHead']


@DRAFTERS.register('eagle')
@dataclass(frozen=True, slots=True)
class TreeBudget:
    """
    Settings of the drafter ``eagle``: the budget of its draft tree.

    top_k: nodes expanded per level, and children of each; depth: levels; max_nodes: nodes
    verified in a pass, the root included. The paper has 8, 4 (5 in its appendix) and 50.
    within: the reach of the rule, in bins. Neighbouring bins are about equally probable, so the
    paper's children of a node are neighbours, and a relaxed rule accepts or refuses them
    together. With ``within`` the bins are divided into windows of 2 · within + 1, and each child
    is the most probable bin of another window. 0, as in the paper: each bin is its own window.
    """

    weights: ClassVar[str | None] = 'eagle'

    top_k: int = 8
    depth: int = 5
    max_nodes: int = 50
    within: int = 0

    def __post_init__(self) -> None:
        for setting, least in zip(fields(self), (1, 1, 2, 0), strict=True):
            value = getattr(self, setting.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise SpecVLAError(
                    f'{setting.name} of the drafter eagle is {value!r}, must be a whole number '
                    f'>= {least}'
                )

    @staticmethod
    def read(folder: Path, target: OpenVLA) -> EagleHead:
        """Read the network."""
        return EagleHead.from_pretrained(folder, target)

    def drafter(self, weights: EagleHead) -> EagleDrafter:
        """Draft with a network within this budget."""
        return EagleDrafter(weights, self)


class EagleDrafter(Drafter):
    """
    Guess a tree with an EAGLE network, which reads the target's features.

    Before the prefill there are no features, so it guesses nothing then.
    """

    reads_features = True

    def __init__(self, head: EagleHead, budget: TreeBudget) -> None:
        self.head = head
        self.budget = budget
        self._network = head.fused
        self._cache = head.new_cache()

    def propose(self, context: DraftContext) -> TokenTree:
        """Guess a tree below the last known token."""
        target, cache = context.target, self._cache
        depth = min(self.budget.depth, self.budget.max_nodes - 1, context.max_depth)
        pairs = target.new_pairs() if depth > 0 else None
        if pairs is None:
            return TokenTree.empty()
        if pairs.start == 0:
            cache.reset()
        start, count = cache.length, pairs.features.shape[1]
        if cache.reserve(start + count + depth * self.budget.top_k, target.runner.room):
            target.runner.clear()
        cache.advance(count)
        # One size for all that a verification can commit: a row more costs a graph nothing.
        features, embeds = (
            Padded(part, (1,), at_end=True, least=2) for part in (pairs.features, pairs.embeds)
        )
        feature = target.runner.run(self._absorb, features, embeds, start, count)
        grown = target.runner.run(
            self._expand, feature, cache.length, target=target, depth=depth)
        # Read after the pass that verifies them.
        tokens, parents, depths, mask, finite = map(target.runner.safe_copy, grown)
        return TokenTree(tokens, parents, depths, mask, ('eagle',) * len(tokens), finite)

    def _absorb(
        self, features: Tensor, embeds: Tensor, start: int | Tensor, count: int | Tensor
    ) -> Tensor:
        """
        Take in what was committed; return the feature guessed at the root [1, h].

        features, embeds: [1, M, h], of which the last ``count`` pairs are new.
        """
        cache, rows = self._cache, features.shape[1]
        steps = torch.arange(rows, device=features.device) - rows + count  # negative: padding
        slots = (steps + start).where(steps >= 0, cache.spare)
        attends = (cache.columns < start + count).expand(rows, -1)
        last = torch.arange(rows - 1, rows, device=features.device)
        return self._network(
            features[0], embeds[0], steps.clamp_min(0) + start, attends, cache.at(slots), last)

    def _expand(
        self, guessed: Tensor, base: int | Tensor, *, target: Target, depth: int
    ) -> tuple[Tensor, ...]:
        """
        Grow the tree level by level, choose the best nodes.

        guessed: [1, h] the feature at the root; base: slots committed. Of the frontier's k
        nodes, ``seen`` [k, drafted so far] says which slots of the cache behind the committed
        ones are a node's ancestors (or itself). Returns tokens, parents, depth, ancestor mask
        and whether all probabilities were finite.
        """
        device = guessed.device
        within = min(self.budget.within, target.n_action_tokens)  # one window holds all bins then
        k = min(self.budget.top_k, -(-target.n_action_tokens // (2 * within + 1)))
        nodes = torch.arange(k, device=device)
        # Behind the prefix: a slot for each node, a position for each level.
        slots = base + torch.arange(k * (depth - 1), device=device)
        positions = base + torch.zeros_like(nodes)
        committed = (self._cache.columns < base).expand(k, -1)
        itself = torch.eye(k, dtype=torch.bool, device=device)
        scores, columns = map(Tensor.flatten, likeliest(_log_probs(target, guessed), k, within))
        # Of all candidates: tokens, log-probabilities from the root, parents.
        levels = [(columns, scores, torch.full_like(nodes, -1))]
        features, frontier, seen = guessed.expand(k, -1), nodes, itself
        for level in range(depth - 1):
            drafted = slots[: k * (level + 1)]
            guessed = self._network(
                features,
                target.action_embeds(columns),
                positions + level,
                committed.scatter(1, drafted.expand(k, -1), seen),
                self._cache.at(drafted[-k:]),
            )
            gains, children = likeliest(_log_probs(target, guessed), k, within)
            totals = (scores[:, None] + gains).flatten()
            parents = frontier[:, None].expand(k, k).flatten()
            levels.append((children.flatten(), totals, parents))
            scores, best = totals.topk(k)
            row = best // k
            columns, features = levels[-1][0][best], guessed[row]
            frontier = best + (k + level * k * k)
            seen = torch.cat((seen[row], itself), dim=1)
        columns, scores, parents = map(torch.cat, zip(*levels, strict=True))
        return self._best(columns, scores, parents, depth, target.first_id)

    def _best(
        self, columns: Tensor, scores: Tensor, parents: Tensor, depth: int, first_id: int
    ) -> tuple[Tensor, ...]:
        """Choose the ``max_nodes - 1`` most probable candidates."""
        n = min(self.budget.max_nodes - 1, len(columns))
        # A parent is at least as probable as its child and stands before it, so a stable sort
        # never keeps a child without its parent.
        keep = scores.sort(stable=True, descending=True).indices[:n].sort().values
        nodes = torch.arange(n, device=keep.device)
        index = torch.full((len(columns) + 1,), -1, device=keep.device)  # [-1] is the root's
        parents = index.scatter(0, keep, nodes)[parents[keep]]
        # Ancestors, a generation at a time; -1, the root, is nobody's node and its own parent.
        ancestor, above = nodes, functional.pad(parents, (0, 1), value=-1)
        mask = torch.eye(n, dtype=torch.bool, device=keep.device)
        for _ in range(depth - 1):
            ancestor = above[ancestor]
            mask |= ancestor[:, None] == nodes
        return columns[keep] + first_id, parents, mask.sum(1), mask, scores.isfinite().all(0, True)


def likeliest(log_probs: Tensor, k: int, within: int) -> tuple[Tensor, Tensor]:
    """
    Return the k most probable windows of 2 · within + 1 columns: log-probability, best column.

    log_probs: [N, C]; both results: [N, k]. k: at most C / (2 · within + 1), rounded up: so many
    windows there are in any case. One window has the most probable column in its middle.
    """
    if not within:
        return log_probs.topk(k)
    width, count = 2 * within + 1, log_probs.shape[-1]
    aside = -(-count // width)  # windows on either side that may have columns
    offsets = torch.arange(-aside * width, (aside + 1) * width, device=log_probs.device) - within
    columns = log_probs.argmax(-1, keepdim=True) + offsets
    inside = columns.clamp(0, count - 1)
    windows = log_probs.gather(-1, inside).where(columns == inside, -torch.inf)
    windows = windows.unflatten(-1, (-1, width))
    # By rounding a window may have a probability above 1, and a child more than its parent.
    scores, which = windows.logsumexp(-1).clamp(max=0).topk(k)
    best = which * width + windows.argmax(-1).gather(-1, which)
    return scores, columns.gather(-1, best)


def _log_probs(target: Target, features: Tensor) -> Tensor:
    """Log-probabilities float32 [..., action tokens] of guessed features [..., h]."""
    return functional.log_softmax(target.action_logits(features), dim=-1, dtype=torch.float32)
