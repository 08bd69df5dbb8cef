"""
Acceptance rules: which drafts may stay, given what the target itself would have said.

A rule walks down the tree from the root. Spec-VLA (arXiv 2507.22424, section 3.2): a child is
accepted where |bin(child) - bin(target's argmax at its parent)| <= r, the longest accepted path
is kept, and the target's own argmax after its last node is the bonus token. Three things the
published code leaves open are decided here: ties go to the path closest to the target's own
choices, only action tokens are relaxed, and the gripper, whose bins are two states and not a
scale, stays exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from specvla_ros.configuration import build
from specvla_ros.errors import SpecVLAError

from .graphs import Padded
from .tree import TokenTree

if TYPE_CHECKING:
    from specvla_ros.openvla.action_tokenizer import ActionTokenizer

    from .target import Verified

# A level of a path counts more than any sum of bin distances along it.
_LONGER = 2**20


@dataclass(frozen=True, slots=True)
class ActionLayout:
    """
    What the L = action_dim · chunk tokens of an action mean.

    Token ``position`` (0 … L - 1) is dimension ``position % action_dim`` of step
    ``position // action_dim``; the last dimension is the gripper.
    """

    tokenizer: ActionTokenizer
    action_dim: int
    chunk: int = 1

    def __post_init__(self) -> None:
        if self.action_dim < 1 or self.chunk < 1:
            raise SpecVLAError(
                f'action_dim is {self.action_dim} and chunk {self.chunk}, both must be at least 1'
            )

    @property
    def length(self) -> int:
        """L: tokens of an action."""
        return self.action_dim * self.chunk

    def is_gripper(self, positions: Any) -> Any:
        """Whether tokens at these positions are the gripper's: elementwise, or of an int."""
        return positions % self.action_dim == self.action_dim - 1


@dataclass(frozen=True, slots=True)
class Path:
    """
    What one pass gained.

    nodes: accepted tree nodes from the root down (may be none); tokens: their tokens.
    bonus: the token the target adds after the last of them, at no further cost.
    """

    nodes: tuple[int, ...]
    tokens: tuple[int, ...]
    bonus: int


class AcceptanceRule(ABC):
    """Says which drafts may stay; the longest chain of them is accepted."""

    __slots__ = ()

    @abstractmethod
    def allows(
        self, drafts: Tensor, own: Tensor, positions: Tensor, layout: ActionLayout
    ) -> Tensor:
        """
        Whether each draft may stand where it does, bool [N].

        drafts, own: int64 [N] its token and what the target would have said there; positions:
        int64 [N] which of the action's L tokens that is.
        """

    def accept(
        self, tree: TokenTree, verified: Verified, position: int, layout: ActionLayout
    ) -> Path:
        """
        Take the longest acceptable path; of equally long ones the closest to the target's own.

        position: of the root's children in the action, that is the number of tokens known.
        Decided on the device, in a graph where there are any; the host gets the path in the one
        copy of the pass.
        """
        n = len(tree)
        if not n:
            return Path((), (), verified.check(*verified.argmax.tolist()))
        # Any node attends to itself: where nothing was computed, all of it was finite.
        finite = tree.ancestor_mask[0, :1] if tree.finite is None else tree.finite
        decided = verified.runner.run(
            self._decide, Padded(tree.tokens), Padded(tree.parents), Padded(tree.depth),
            Padded(tree.ancestor_mask, (0, 1)), finite, Padded(verified.argmax), n, position,
            layout=layout,
        )
        is_finite, bonus, *rest = decided.tolist()
        if not is_finite:
            raise SpecVLAError('the drafter gave probabilities that are not finite; check it')
        tokens, on_path = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        nodes = tuple(node for node in range(n) if on_path[node])
        return Path(nodes, tuple(tokens[node] for node in nodes), verified.check(bonus))

    def _decide(
        self, tokens: Tensor, parents: Tensor, depth: Tensor, ancestors: Tensor, finite: Tensor,
        argmax: Tensor, n: int | Tensor, position: int | Tensor, *, layout: ActionLayout,
    ) -> Tensor:
        """
        Choose a path on the device: finite, bonus, tokens [G], whether on the path [G], int64.

        Of the G nodes of a tree the first n are no padding; all of them if n is a plain number.
        """
        tree = TokenTree(tokens, parents, depth, ancestors, ())
        if isinstance(n, Tensor):
            real = torch.arange(len(tokens), device=tokens.device) < n
            tree = replace(tree, depth=depth.where(real, 0), ancestor_mask=ancestors & real)
        scores = self.scores(tree, argmax, position, layout)
        if isinstance(n, Tensor):
            scores = scores.where(real, -1)
        # Row 0 is the root, with no node on its path and nothing to beat but refusals. Of equal
        # scores argmax takes the first.
        best = functional.pad(scores, (1, 0)).argmax(keepdim=True)
        path = functional.pad(tree.ancestor_mask, (0, 0, 1, 0)).index_select(0, best)[0]
        return torch.cat((finite, argmax.index_select(0, best), tokens, path))

    def scores(
        self, tree: TokenTree, argmax: Tensor, position: int | Tensor, layout: ActionLayout
    ) -> Tensor:
        """
        Rate the path that ends at each node, int64 [N]: higher is better, negative is refused.

        argmax: int64 [N + 1 or more] what the target says after the root and after each node.
        Longer is better, then closer: by the sum of bin distances to the target's own at each
        parent; what is still equal goes to the first node of the tree.
        """
        own = argmax.index_select(0, tree.parents + 1)
        allowed = self.allows(tree.tokens, own, tree.depth + (position - 1), layout)
        refused = (tree.ancestor_mask & ~allowed).any(1)
        bins = layout.tokenizer.bins
        distance = (bins(tree.tokens) - bins(own)).abs()
        scores = tree.depth * _LONGER - (tree.ancestor_mask * distance).sum(1)
        return scores.masked_fill(refused, -1)


@dataclass(frozen=True, slots=True)
class Strict(AcceptanceRule):
    """Only the target's own token may stay: lossless, whatever the drafter says."""

    def allows(
        self, drafts: Tensor, own: Tensor, positions: Tensor, layout: ActionLayout
    ) -> Tensor:
        """Whether a draft is the target's own token."""
        return drafts == own


@dataclass(frozen=True, slots=True)
class Refuse(AcceptanceRule):
    """Nothing may stay, whatever a rule decides: as ``strict``, a pass each. For warming up."""

    rule: AcceptanceRule

    def allows(
        self, drafts: Tensor, own: Tensor, positions: Tensor, layout: ActionLayout
    ) -> Tensor:
        """Say no."""
        return torch.zeros_like(drafts, dtype=torch.bool)

    def accept(
        self, tree: TokenTree, verified: Verified, position: int, layout: ActionLayout
    ) -> Path:
        """Let the rule decide, and take the target's own token."""
        self.rule.accept(tree, verified, position, layout)
        return Path((), (), verified.check(verified.argmax[:1].tolist()[0]))


@dataclass(frozen=True, slots=True)
class Bins(AcceptanceRule):
    """
    Tokens within ``r`` bins of the target's own may stay; r = 0 is strict.

    r: bins, at least 0. Spec-VLA takes 9 for LIBERO Goal, Object and Spatial, 5 for Long.
    gripper_exact: the gripper's token must be the target's own.
    """

    r: int = 9
    gripper_exact: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 0:
            raise SpecVLAError(f'r of the rule bins is {self.r!r}, must be a whole number >= 0')
        if not isinstance(self.gripper_exact, bool):
            raise SpecVLAError(
                f'gripper_exact of the rule bins is {self.gripper_exact!r}, must be true or false'
            )

    def allows(
        self, drafts: Tensor, own: Tensor, positions: Tensor, layout: ActionLayout
    ) -> Tensor:
        """Whether a draft is near enough, both being action tokens."""
        # Ids, not bins: neighbours in one are neighbours in the other, except that the two
        # lowest ids share a bin. They are different inputs to the target, so r = 0 tells them
        # apart.
        tokenizer = layout.tokenizer
        near = (drafts - own).abs() <= self.r
        near &= drafts.minimum(own) >= tokenizer.first_id
        near &= drafts.maximum(own) <= tokenizer.last_id
        if self.gripper_exact:
            near &= ~layout.is_gripper(positions)
        return near.logical_or_(drafts == own)


RULES: Mapping[str, type[AcceptanceRule]] = {'strict': Strict, 'bins': Bins}


def make_rule(name: str, settings: Mapping[str, object]) -> AcceptanceRule:
    """
    Acceptance rule from configuration.

    Raises SpecVLAError for a name, a setting or a value that does not exist.
    """
    return build(RULES, 'rule', name, settings)
