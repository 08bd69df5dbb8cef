"""What every rule is asked; a rule that needs more than distances may rate drafts as well."""

from __future__ import annotations

from typing import cast, NamedTuple, Protocol, TYPE_CHECKING

from specvla_ros.action_space import ActionSpace
from specvla_ros.situation import Situation

if TYPE_CHECKING:
    from torch import Tensor


class Rule(Protocol):
    """Says how far drafts may be off: settings on the host, asked once an action."""

    def reach(self, space: ActionSpace, situation: Situation) -> tuple[int, ...]:
        """Bins a draft of each of the L tokens may be off; 0 = exact, -1 = none may stay."""


class Rating(Protocol):
    """
    A rule with a second check, which judges a draft by more than its distance.

    It is asked only about drafts within reach.
    """

    def stays(self, drafts: Drafts, space: ActionSpace) -> Tensor:
        """
        Which drafts within reach may stay, bool [G]; it runs in a graph: it may ask for no value.

        A path stays if all its nodes do.
        """


class Drafts(NamedTuple):
    """Gives `stays` the drafts of a tree: bins, distances, positions, paths and logits."""

    bins: Tensor  # int64 [G] their columns of the logits
    own: Tensor  # int64 [G] those of what the target chooses in their place
    off: Tensor  # int64 [G] bins between a draft and the target's own choice
    position: Tensor  # int64 [G] which of the L tokens
    paths: Tensor  # bool [G, G], row i true at i's ancestors and at i
    logits: Tensor  # [G, bins] what the target says in the draft's place; -inf = forbidden
    before: Tensor  # int64 [L] bins off of the action's tokens so far, then zeros


def rating(rule: Rule) -> Rating | None:
    """Return the rule, if it rates drafts by more than its reach."""
    return cast('Rating', rule) if hasattr(rule, 'stays') else None
