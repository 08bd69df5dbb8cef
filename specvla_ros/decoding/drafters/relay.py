"""Several drafters at once: they guess for the prefill together, the last goes on from there."""

from __future__ import annotations

from collections.abc import Sequence

from specvla_ros.decoding.tree import TokenTree

from .drafter import DraftContext, Drafter
from .node_budget import MergedGuesses


class RelayDrafter(Drafter):
    """
    A relay of drafters, named ``first+second+…`` in a preset.

    Before the prefill all guess, and their trees are merged into one. With a limit on its nodes
    the branches come first that gain most, by their measured hit rates. A node that several
    guessed counts as the earliest one's; a drafter that only continues guesses nothing then. After
    the prefill the last drafter proposes alone; where it has no guess, the one before it does. A
    switch among them decides for each action who takes part.

    nodes: of the tree in the prefill, at most; None = as many as there are guesses. guesses: makes
    that tree, and has the hit rates measured so far (``guesses.rates``).
    """

    def __init__(self, drafters: Sequence[Drafter], nodes: int | None = None) -> None:
        self.drafters = tuple(drafters)
        self.reads_features = any(drafter.reads_features for drafter in drafters)
        self.guesses = MergedGuesses(nodes)
        self._playing = self.drafters
        self._judged: int | None = None  # tokens that the prefill decided; None = all

    def guess(self, context: DraftContext) -> TokenTree:
        """Merge what each guesses before the target has seen the image."""
        self._playing, self._judged = self.drafters, None
        for drafter in self.drafters:
            self._playing = tuple(drafter.players(self._playing, context))
        return self.guesses.merge(
            [drafter.guess(context) for drafter in self._playing if not drafter.only_continues],
            context.space.length)

    def propose(self, context: DraftContext) -> TokenTree:
        """Let the last one guess that has a guess."""
        if self._judged is None:
            self._judged = len(context.tokens)
        for drafter in reversed(self._playing):
            if len(tree := drafter.propose(context)):
                return tree
        return TokenTree.empty()

    def remember(self, tokens: Sequence[int]) -> None:
        """Let each take in an action, and measure the guesses by it."""
        self.guesses.judge(tokens, len(tokens) if self._judged is None else self._judged)
        for drafter in self.drafters:
            drafter.remember(tokens)

    def note_executed(self, steps: int) -> None:
        """Tell each how much of the last action was executed."""
        for drafter in self.drafters:
            drafter.note_executed(steps)

    def note_new_weights(self, weights: object) -> bool:
        """Forget all hit rates if one drafts with these: it takes nodes from the others."""
        drafting = [it for it in self.drafters if it.note_new_weights(weights)]  # all are told
        if drafting:
            self.guesses.forget()
        return bool(drafting)

    def reset(self) -> None:
        """Let each forget."""
        self.guesses.forget()
        for drafter in self.drafters:
            drafter.reset()
