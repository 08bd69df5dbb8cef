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
from functools import lru_cache
from typing import ClassVar

from specvla_ros.action_space import ActionSpace
from specvla_ros.decoding.tree import ReadBack, TokenTree
from specvla_ros.errors import SpecVLAError

from .drafter import DraftContext, Drafter, DRAFTERS, LastPass

_STARTS = ('last', 'middle')


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

    Then come the tokens of ``start``. Where no draft was rejected it guesses nothing. Acceptance
    has already copied to the host what was said.
    """

    only_continues = True

    def __init__(self, settings: Jacobi) -> None:
        self.settings = settings
        self._tokens: tuple[int, ...] = ()

    def guess(self, context: DraftContext) -> TokenTree:
        """Guess the whole action where nothing was said: not asked in a relay."""
        return TokenTree.chain(self._at_start(context)[: context.max_depth], 'jacobi')

    def propose(self, context: DraftContext) -> TokenTree:
        """Guess the target's own words; nothing where no draft was rejected."""
        last, known, depth = context.last, len(context.tokens), context.max_depth
        if last is None or len(last.accepted.nodes) == len(last.tree) or not depth:
            return TokenTree.empty()
        # A word that was not finite is -1, which has no embedding. A later pass will say so.
        lowest = context.space.tokenizer.first_id
        words = [max(word, lowest) for word in _words(last)]
        chain = (*words, *self._at_start(context)[known + len(words) :])
        return TokenTree.chain(chain[:depth], 'jacobi')

    def remember(self, tokens: Sequence[int]) -> None:
        """Take in an action, [L] tokens."""
        if self.settings.start == 'last':
            self._tokens = tuple(tokens)

    def reset(self) -> None:
        """Forget it."""
        self._tokens = ()

    def _at_start(self, context: DraftContext) -> tuple[int, ...]:
        """Return the guess where the target said nothing, [L]."""
        tokens, executed = self._tokens, context.situation.executed
        if not tokens:
            return (_middle(context.space),) * context.space.length
        if executed is None:
            return tokens
        # What is left of the last chunk, and its last step again behind it.
        size = context.space.action_dim
        done = min(executed, context.space.chunk - 1)
        return (*tokens[done * size :], *(tokens[-size:] * done))


def _words(last: LastPass) -> list[int]:
    """
    Return what the target said behind the rejected node that is nearest to the bonus.

    Of several branches behind it the deepest, of equal ones the first.
    """
    accepted = last.accepted
    parents, drafts, own = accepted.read_back or ReadBack(
        last.tree.parents_on_host(), last.tree.tokens.tolist(), last.verified.argmax.tolist())
    end = accepted.nodes[-1] if accepted.nodes else -1
    # Of each node behind the accepted path: how near and deep its branch is, and its nodes.
    branches: dict[int, tuple[int, list[int]]] = {}
    for node, parent in enumerate(parents):
        if parent == end:
            branches[node] = abs(drafts[node] - accepted.bonus), [node]
        elif parent in branches:
            off, nodes = branches[parent]
            branches[node] = off, [*nodes, node]
    _, nearest = min(branches.values(), key=lambda it: (it[0], -len(it[1])), default=(0, []))
    return [own[node + 1] for node in nearest]


@lru_cache(maxsize=64)
def _middle(space: ActionSpace) -> int:
    """Token of the middle bin: in normalised space zero, no motion."""
    return int(space.tokenizer.encode([0.0])[0])
