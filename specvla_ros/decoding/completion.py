"""
Tokens that the target never saw: fast, unverified, and called so.

KERV (arXiv 2603.01581) takes the rest of an action from a Kalman filter once a draft was rejected;
HeiSD (arXiv 2603.17573) takes a whole action from its database where that knows the situation well
enough. Both are a drafter's prediction in the place of a pass. Neither strict nor relaxed
acceptance says anything of such tokens; a guard's forbidden bins are kept out of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import math

import torch
from torch import Tensor

from specvla_ros.components import CompletionConfig
from specvla_ros.errors import SpecVLAError

from .acceptance import Acceptance, Terms
from .drafters.drafter import DraftContext, Drafter, LastPass
from .drafters.none import NoDrafter
from .trace import DecodeTrace


class Completion:
    """
    Ends an action with tokens that a drafter predicts and the target never verifies.

    It predicts the rest after a rejection, or a whole action before the prefill.

    settings: when; None = never: the target verifies every token. Raises SpecVLAError if the
    drafter can't predict before the target has read the prompt.
    """

    def __init__(self, settings: CompletionConfig | None, drafter: Drafter) -> None:
        if settings and (drafter.reads_features or drafter.only_continues):
            raise SpecVLAError(
                f'completion drafts with {settings.drafter.name}, which predicts nothing alone '
                'before a pass; take one that does, such as kalman, history or retrieval')
        self.settings, self.drafter = settings, drafter
        self._since = math.inf  # actions since the last one completed

    def tokens(
        self, context: DraftContext, acceptance: Acceptance, terms: Terms, trace: DecodeTrace
    ) -> list[int]:
        """
        All tokens that are still missing, if they are to be taken unverified, else [].

        Asked before the prefill (``context.last`` is None), where the situation may be well known,
        and after each pass, where a draft may have been rejected. What is taken is counted in the
        trace. The host waits for a device once for it, and once for a likeness.
        """
        settings = self.settings
        if settings is None or self._since < settings.every or not self._is_asked(context.last):
            return []
        wanted, least = self._predicted(context), settings.skip_above
        if not len(wanted) or context.last is None and (
                least is None or not self.drafter.likeness(context) >= least):  # NaN isn't
            return []
        self._since = 0
        trace.complete(len(wanted), settings.drafter.name)
        return acceptance.nearest_allowed(wanted, context.tokens, terms)

    def remember(self, tokens: Sequence[int]) -> None:
        """Take in an action, [L] tokens."""
        self._since += 1
        self.drafter.remember(tokens)

    def note_executed(self, steps: int) -> None:
        """Take in how many steps of the last action were due before this one."""
        self.drafter.note_executed(steps)

    def reset(self) -> None:
        """Forget earlier actions."""
        self._since = math.inf
        self.drafter.reset()

    def _predicted(self, context: DraftContext) -> Tensor:
        """
        Tokens of the drafter's first branch to the end of the action, int64 [n]; [0] if it is
        shorter. They stay on the drafter's device.
        """
        context = replace(context, depths=None, bonus=0)
        tree, nodes = self.drafter.guess(context), [-1]
        for number, parent in enumerate(tree.parents_on_host()):
            if parent == nodes[-1]:
                nodes.append(number)
        branch = nodes[1:] if len(nodes) > context.max_depth else []
        return tree.tokens.index_select(
            0, torch.tensor(branch, dtype=torch.int64).to(tree.tokens.device, non_blocking=True))

    def _is_asked(self, last: LastPass | None) -> bool:
        """Whether this is a moment to complete: after a rejection, or before the prefill."""
        assert self.settings is not None
        if last is None:
            return self.settings.skip_above is not None
        return self.settings.after_rejection and len(last.accepted.nodes) < len(last.tree)


NONE = Completion(None, NoDrafter())
