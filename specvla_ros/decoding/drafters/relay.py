"""Several drafters at once: they guess for the prefill together, the last goes on from there."""

from __future__ import annotations

from collections.abc import Sequence

from specvla_ros.decoding.tree import TokenTree

from .drafter import DraftContext, Drafter
from .side_by_side import merged


class RelayDrafter(Drafter):
    """
    A relay of drafters, named ``first+second+…`` in a preset.

    Their guesses for the prefill are merged to one tree; what the earlier ones guessed counts
    as theirs; one that only continues guesses nothing then. After the prefill the last drafter
    proposes alone; where it has no guess, the one before it does.
    """

    def __init__(self, drafters: Sequence[Drafter]) -> None:
        self.drafters = tuple(drafters)
        self.reads_features = any(drafter.reads_features for drafter in drafters)

    def guess(self, context: DraftContext) -> TokenTree:
        """Merge what each guesses before the target has seen the image."""
        return merged(
            [drafter.guess(context) for drafter in self.drafters if not drafter.only_continues])

    def propose(self, context: DraftContext) -> TokenTree:
        """Let the last one guess that has a guess."""
        for drafter in reversed(self.drafters):
            if len(tree := drafter.propose(context)):
                return tree
        return TokenTree.empty()

    def remember(self, tokens: Sequence[int]) -> None:
        """Let each take in an action."""
        for drafter in self.drafters:
            drafter.remember(tokens)

    def reset(self) -> None:
        """Let each forget."""
        for drafter in self.drafters:
            drafter.reset()
