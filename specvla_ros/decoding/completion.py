"""
Tokens that the target never saw: fast, unverified, and called so.

KERV (arXiv 2603.01581) takes the rest of an action from a Kalman filter once a draft was rejected;
HeiSD (arXiv 2603.17573) takes a whole action from its database where that knows the situation well
enough. Both are a drafter's prediction in the place of a pass. Neither strict nor relaxed
acceptance says anything of such tokens; a guard's forbidden bins are kept out of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from specvla_ros.configuration import CompletionConfig
from specvla_ros.errors import SpecVLAError

from .acceptance import Acceptance, Terms
from .drafters.drafter import DraftContext, Drafter, LastPass
from .trace import DecodeTrace


class Completion:
    """The default: the target verifies every token, nothing is completed without it."""

    def tokens(
        self, context: DraftContext, acceptance: Acceptance, terms: Terms, trace: DecodeTrace
    ) -> list[int]:
        """
        All tokens that are still missing, if they are to be taken unverified, else [].

        Asked before the prefill (``context.last`` is None) and after each pass. What is taken is
        counted in the trace.
        """
        return []

    def remember(self, tokens: Sequence[int]) -> None:
        """Take in an action, [L] tokens."""

    def note_executed(self, steps: int) -> None:
        """Take in how many steps of the last action were due before this one."""

    def reset(self) -> None:
        """Forget earlier actions."""


NONE = Completion()


class Predicted(Completion):
    """
    Fills the rest of an action with a drafter's prediction that the target never verifies.

    Raises SpecVLAError if the drafter can't predict before the target has read the prompt.
    """

    def __init__(self, settings: CompletionConfig, drafter: Drafter) -> None:
        if drafter.reads_features or drafter.only_continues:
            raise SpecVLAError(
                f'completion drafts with {settings.drafter.name}, which predicts nothing alone '
                'before a pass; take one that does, such as kalman, history or retrieval')
        self.settings, self.drafter = settings, drafter
        self._since = settings.every  # actions since the last one completed

    def tokens(
        self, context: DraftContext, acceptance: Acceptance, terms: Terms, trace: DecodeTrace
    ) -> list[int]:
        """Predict the rest after a rejected draft, or all where the situation is well known."""
        if self._since < self.settings.every or not self._is_asked(context.last):
            return []
        tokens, least = self._predicted(context), self.settings.skip_above
        if not tokens or context.last is None and (
                least is None or not self.drafter.likeness(context) >= least):  # NaN isn't
            return []
        said = list(context.tokens)
        for token in tokens:
            said.append(acceptance.nearest_allowed(token, said, terms))
        self._since = 0
        trace.complete(tokens, self.settings.drafter.name)
        return said[len(context.tokens):]

    def remember(self, tokens: Sequence[int]) -> None:
        """Take in an action, [L] tokens."""
        self._since += 1
        self.drafter.remember(tokens)

    def note_executed(self, steps: int) -> None:
        """Take in how many steps of the last action were due before this one."""
        self.drafter.note_executed(steps)

    def reset(self) -> None:
        """Forget earlier actions."""
        self._since = self.settings.every
        self.drafter.reset()

    def _predicted(self, context: DraftContext) -> list[int]:
        """Tokens of the drafter's first branch, to the end of the action; [] if it is shorter."""
        context = _ToTheEnd(context.target, context.space, context.prompt, context.tokens,
                            context.situation, context.last)
        tree, tokens, node = self.drafter.guess(context), [], -1
        nodes = zip(tree.tokens.tolist(), tree.parents.tolist(), strict=True)
        for number, (token, parent) in enumerate(nodes):
            if parent == node:
                tokens.append(token)
                node = number
        return tokens if len(tokens) == context.max_depth else []

    def _is_asked(self, last: LastPass | None) -> bool:
        """Whether this is a moment to complete: after a rejection, or before the prefill."""
        if last is None:
            return self.settings.skip_above is not None
        return self.settings.after_rejection and len(last.accepted.nodes) < len(last.tree)


class _ToTheEnd(DraftContext):
    """The last token of the action is asked for as well: no bonus will bring it."""

    __slots__ = ()

    @property
    def max_depth(self) -> int:
        return self.space.length - len(self.tokens)
