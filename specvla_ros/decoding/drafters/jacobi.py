"""
Jacobi decoding: the target's own words behind a rejected draft are the next guess.

A pass says a next token after every node of its tree, behind a rejected one too. It heard a wrong
token there, so these words are a guess, and a good one: they cost nothing and need no weights.
PD-VLA (arXiv 2503.02310) decodes like this from any first guess at all L tokens: the drafter
alone. In a relay, `history+glance+jacobi`, the others guess for the prefill and it goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from specvla_ros.action_space import ActionSpace
from specvla_ros.decoding.tree import TokenTree
from specvla_ros.errors import SpecVLAError
from specvla_ros.graphs import Padded

from .drafter import DraftContext, Drafter, DRAFTERS
from .side_by_side import chains

_STARTS = ('last', 'middle')
# A bin nearer to the bonus counts more than any depth.
_NEARER = 2**20
_NEVER = 2**62


@DRAFTERS.register('jacobi')
@dataclass(frozen=True, slots=True)
class Jacobi:
    """
    Settings of the drafter ``jacobi``: its guess where the target has said nothing.

    start: 'last' guesses the last action (of a chunk: the steps not yet executed, then its last
    step again), or the middle bin if there was none; 'middle' always guesses the middle bin. If
    ``jacobi`` is the only drafter, it guesses these in the prefill. In later passes they stand at
    positions that the target did not answer.
    """

    weights: ClassVar[str | None] = None

    start: str = 'last'

    def __post_init__(self) -> None:
        if self.start not in _STARTS:
            raise SpecVLAError(
                f'start of the drafter jacobi is {self.start!r}, must be one of {list(_STARTS)}')

    def drafter(self, weights: None) -> JacobiDrafter:
        """Guess by these settings."""
        return JacobiDrafter(self)


class JacobiDrafter(Drafter):
    """
    Guesses what the target itself said behind the rejected draft in the last pass.

    Then come the tokens of ``start``. Where no draft was rejected it guesses nothing.
    """

    only_continues = True

    def __init__(self, settings: Jacobi) -> None:
        self.settings = settings
        self._tokens: tuple[int, ...] = ()
        self._start: Tensor | None = None  # int64 [L + 1]: its L tokens, and one slot to spare

    def guess(self, context: DraftContext) -> TokenTree:
        """Guess the whole action where nothing was said: not asked in a relay."""
        return _chain(self._at_start(context), context)

    def propose(self, context: DraftContext) -> TokenTree:
        """Guess the target's own words; nothing where no draft was rejected."""
        last, known = context.last, len(context.tokens)
        if last is None or len(last.accepted.nodes) == len(last.tree) or not context.max_depth:
            return TokenTree.empty()
        tree, nodes, runner = last.tree, last.accepted.nodes, context.target.runner
        said = runner.run(
            self._said, Padded(tree.tokens), Padded(tree.depth),
            Padded(tree.ancestor_mask, (0, 1)), Padded(last.verified.argmax[1:]),
            self._at_start(context), known, last.accepted.bonus, len(nodes),
            nodes[-1] if nodes else 0, len(tree), lowest=context.space.tokenizer.first_id)
        return _chain(runner.safe_copy(said)[known:], context)

    def remember(self, tokens: Sequence[int]) -> None:
        """Take in an action, [L] tokens."""
        if self.settings.start == 'last':
            self._tokens, self._start = tuple(tokens), None

    def reset(self) -> None:
        """Forget it."""
        if self._tokens:
            self._tokens, self._start = (), None

    def _at_start(self, context: DraftContext) -> Tensor:
        """Return the guess where the target said nothing, on its device; copied once an action."""
        if self._start is None:
            tokens = self._tokens or (_middle(context.space),) * context.space.length
            if self._tokens and context.situation.executed is not None:
                # What is left of the last chunk, and its last step again behind it.
                size = context.space.action_dim
                done = min(context.situation.executed, context.space.chunk - 1) * size
                tokens = (*tokens[done:], *(tokens[-size:] * (done // size)))
            self._start = torch.tensor((*tokens, 0)).to(context.target.device, non_blocking=True)
        return self._start

    def _said(
        self, tokens: Tensor, depth: Tensor, ancestors: Tensor, own: Tensor, start: Tensor,
        known: int | Tensor, bonus: int | Tensor, kept: int | Tensor, end: int | Tensor,
        n: int | Tensor, *, lowest: int,
    ) -> Tensor:
        """
        Put the target's words in their places of the action, int64 [L + 1]; others as ``start``.

        The words are those along the branch whose rejected node is nearest to the bonus; of
        several the deepest. own: int64 [G] what the target said after each node; known: tokens of
        the action, the bonus the last of them; kept: accepted nodes, the last of them ``end``.
        The first n of G nodes are no padding; all if n is a plain number.
        """
        device, spare = tokens.device, len(start) - 1
        beyond = depth - kept  # 1 = in the bonus's place
        if isinstance(n, Tensor):
            # The mask's padding may be an older tree's, but says nothing of a node: in any tree
            # ancestors stand before their nodes.
            beyond = beyond.where(torch.arange(len(tokens), device=device) < n, 0)
        rejected = beyond == 1
        behind = ancestors.index_select(1, torch.arange(1, device=device) + end)[:, 0]
        behind = (behind | (kept == 0)) & (beyond > 0)
        # Summed over a node's ancestors: how far its branch is off the bonus, then how deep it is.
        off = ((tokens - bonus).abs() * _NEARER).where(rejected, -1)
        off = (ancestors * off).sum(1).where(behind, _NEVER)
        path = ancestors.index_select(0, off.argmin(keepdim=True))[0] & behind
        places = (beyond + (known - 1)).where(path, spare)
        # A word that was not finite is -1, which has no embedding. A later pass will say so.
        return start.scatter(0, places, own.clamp_min(lowest))


def _chain(tokens: Tensor, context: DraftContext) -> TokenTree:
    """As many of these tokens as may be guessed, one after the other."""
    depth = context.max_depth
    return chains(tokens[None, :depth], 'jacobi') if depth else TokenTree.empty()


def _middle(space: ActionSpace) -> int:
    """Token of the middle bin: in normalised space zero, no motion."""
    return int(space.tokenizer.encode([0.0])[0])
