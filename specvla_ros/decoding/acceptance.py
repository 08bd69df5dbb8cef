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
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specvla_ros.configuration import build
from specvla_ros.errors import SpecVLAError

if TYPE_CHECKING:
    from specvla_ros.openvla.action_tokenizer import ActionTokenizer

    from .target import Verified
    from .tree import TokenTree


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

    def is_gripper(self, position: int) -> bool:
        """Whether the token at this position is the gripper's."""
        return position % self.action_dim == self.action_dim - 1


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
    def allows(self, draft: int, own: int, position: int, layout: ActionLayout) -> bool:
        """Whether ``draft`` may stand at ``position`` where the target would have said ``own``."""

    def accept(
        self, tree: TokenTree, verified: Verified, position: int, layout: ActionLayout
    ) -> Path:
        """
        Take the longest acceptable path; of equally long ones the closest to the target's own.

        position: of the root's children in the action, that is the number of tokens known.
        Closeness is the sum of bin distances to the target's argmax at each parent; what is
        still equal then goes to the first node of the tree.
        """
        own = verified.argmax
        distance_to = layout.tokenizer.bins
        # (depth, -total distance) of each node that may stay; the root is node -1.
        score: dict[int, tuple[int, int]] = {-1: (0, 0)}
        best = -1
        for node, (token, parent) in enumerate(
            zip(tree.tokens.tolist(), tree.parents.tolist(), strict=True)
        ):
            if parent not in score:
                continue
            depth, closeness = score[parent]
            target = own[parent + 1]
            if not self.allows(token, target, position + depth, layout):
                continue
            distance = abs(distance_to(token) - distance_to(target))
            score[node] = (depth + 1, closeness - distance)
            if score[node] > score[best]:
                best = node
        nodes = tree.path_to(best)
        return Path(tuple(nodes), tuple(int(tree.tokens[i]) for i in nodes), own[best + 1])


@dataclass(frozen=True, slots=True)
class Strict(AcceptanceRule):
    """Only the target's own token may stay: lossless, whatever the drafter says."""

    def allows(self, draft: int, own: int, position: int, layout: ActionLayout) -> bool:
        """Whether the draft is the target's own token."""
        return draft == own


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

    def allows(self, draft: int, own: int, position: int, layout: ActionLayout) -> bool:
        """Whether the draft is near enough, both being action tokens."""
        # Ids, not bins: neighbours in one are neighbours in the other, except that the two
        # lowest ids share a bin. They are different inputs to the target, so r = 0 tells them
        # apart.
        if draft == own:
            return True
        if abs(draft - own) > self.r or (self.gripper_exact and layout.is_gripper(position)):
            return False
        is_action = layout.tokenizer.is_action
        return is_action(draft) and is_action(own)


RULES: Mapping[str, type[AcceptanceRule]] = {'strict': Strict, 'bins': Bins}


def make_rule(name: str, settings: Mapping[str, object]) -> AcceptanceRule:
    """
    Acceptance rule from configuration.

    Raises SpecVLAError for a name, a setting or a value that does not exist.
    """
    return build(RULES, 'rule', name, settings)
