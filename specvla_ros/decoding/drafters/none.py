"""No drafts: plain autoregression, the baseline every speedup is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from specvla_ros.decoding.tree import TokenTree

from .drafter import DraftContext, Drafter, DRAFTERS


@DRAFTERS.register('none')
@dataclass(frozen=True, slots=True)
class NoDrafter(Drafter):
    """
    Never guesses: every pass gains one token. It has no settings.

    The prefill reads the prompt, each later pass one token.
    """

    weights: ClassVar[str | None] = None

    def drafter(self, weights: None) -> NoDrafter:
        """Return itself: nothing is remembered."""
        return self

    def propose(self, context: DraftContext) -> TokenTree:
        """Return the empty tree."""
        return TokenTree.empty()
