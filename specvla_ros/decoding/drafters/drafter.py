"""
What every drafter is asked, what it may look at, and how it is made from a preset.

A drafter is one file in this folder: its settings, a frozen dataclass that registers itself in
``DRAFTERS`` under the name that presets give it, and the ``Drafter`` that they make.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TYPE_CHECKING

from specvla_ros.decoding.tree import Accepted, TokenTree
from specvla_ros.registry import Registry
from specvla_ros.situation import Situation, UNKNOWN

if TYPE_CHECKING:
    from torch import Tensor

    from specvla_ros.action_space import ActionSpace
    from specvla_ros.decoding.target import Target, Verification
    from specvla_ros.openvla.model import OpenVLA


class LastPass(NamedTuple):
    """The pass before: the tree it verified, what the target said there, what was accepted."""

    tree: TokenTree
    verified: Verification
    accepted: Accepted


@dataclass(frozen=True, slots=True, eq=False)
class DraftContext:
    """
    What is known while one action is decoded.

    prompt: [1, S, h] the embedded prompt: BOS, the image's patches, the text.
    tokens: the action's tokens so far; grows as the loop goes on, and its last one is the root
    of the tree to propose (before the prefill it is empty, and the root is the prompt's end).
    situation: what the robot knows.
    last: the pass before; None before the prefill.
    depths: levels a tree should have at most with 0, 1, … tokens known, [L]; None = no limit.
    bonus: tokens that the target adds to a path, 1; 0 where it does not see the drafts.
    """

    target: Target
    space: ActionSpace
    prompt: Tensor
    tokens: Sequence[int]
    situation: Situation = UNKNOWN
    last: LastPass | None = None
    depths: Sequence[int] | None = None
    bonus: int = 1

    def after(self, tree: TokenTree, verified: Verification, accepted: Accepted) -> DraftContext:
        """Return what is known after a pass."""
        return replace(self, last=LastPass(tree, verified, accepted))

    @property
    def max_depth(self) -> int:
        """
        Levels a tree may have, L - known - bonus or less where ``depths`` says so.

        The token after an accepted path is the target's bonus, so a draft of the action's last
        token could save nothing. 0 when one token is missing: verifying the root brings it.
        """
        known = len(self.tokens)
        most = self.space.length - known - self.bonus
        return most if self.depths is None or most <= 0 else min(most, self.depths[known])


class Drafter(ABC):
    """
    Guesses the tokens of an action, cheaply.

    A subclass returns a tree of at most ``context.max_depth`` levels; nothing checks this.

    reads_features: whether it asks the target for ``new_pairs``; else the prefill keeps none.
    only_continues: whether it leaves the guess before the prefill to the others of a relay.
    """

    reads_features: bool = False
    only_continues: bool = False

    def guess(self, context: DraftContext) -> TokenTree:
        """Guess from the start of the action, before the target has seen the image."""
        return TokenTree.empty()

    @abstractmethod
    def propose(self, context: DraftContext) -> TokenTree:
        """Guess what follows the last known token."""

    def players(self, relay: Sequence[Drafter], context: DraftContext) -> Sequence[Drafter]:
        """Return who of a relay takes part in this action: all, unless this one is a switch."""
        return relay

    def likeness(self, context: DraftContext) -> float:
        """How like what it has seen before this is, at most 1; NaN = it can't say."""
        return nan

    def remember(self, tokens: Sequence[int]) -> None:  # noqa: B027 (most drafters do not)
        """Take in the L tokens of an action that the target verified and the robot may do."""

    def note_executed(self, steps: int) -> None:  # noqa: B027 (most drafters count no steps)
        """
        Take in how many steps of the action remembered last were due before the next action.

        The next action says the others again: a step counts once. Said before the next action, of
        a drafter that guesses nothing for it too; never said = all of them.
        """

    def note_new_weights(self, weights: object) -> bool:
        """
        Forget how often guesses were right, if they are made with these weights.

        Their numbers were replaced between two actions. Returns whether it drafts with them.
        """
        return False

    def reset(self) -> None:  # noqa: B027 (most drafters remember nothing)
        """Forget earlier actions: a new episode begins."""


class DrafterSettings(Protocol):
    """
    Holds a drafter's settings from a preset and makes the drafter.

    weights: name of the folder of its weights, see ``drafter_folders``; None = it has none.
    """

    weights: ClassVar[str | None]

    def drafter(self, weights: Any) -> Drafter:
        """Make a drafter, with caches of its own; weights: what ``read`` gives, or None."""


class LearnedSettings(DrafterSettings, Protocol):
    """
    Settings of a drafter with trained weights: they also read the weights.

    It may say ``may_lack_weights = True``: it can do without, and then ``read`` is asked with None
    for the folder.
    """

    @staticmethod
    def read(folder: Path | None, target: OpenVLA) -> Any:
        """Read weights for a target; asked only if there are some, once for all decoders."""


DRAFTERS: Registry[DrafterSettings] = Registry('drafter', __name__.rpartition('.')[0])
