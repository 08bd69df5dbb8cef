"""
Acceptance: which drafts may stay, given what the target itself would have said.

Spec-VLA (arXiv 2507.22424, section 3.2): walk down the tree from the root. A draft stays where
|bin(draft) - bin(target's argmax at its parent)| <= r and its parent stays; the longest path is
accepted, and the target's own argmax after its last node is the bonus token. A rule says how large
r is for each token. Two things the published code leaves open are decided here: ties go to the
path closest to the target's own choices, and only action tokens may stay.
A guard (``guard``) may forbid bins, of the bonus as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from specvla_ros.action_space import ActionSpace
from specvla_ros.errors import SpecVLAError
from specvla_ros.graphs import Input, Padded
from specvla_ros.situation import Situation

from .guard import best_allowed, Guard, nearest_allowed, said_before
from .rules.rule import Drafts, Rating, rating, Rule
from .target import MILLION, Target, Verification
from .tree import Accepted, TokenTree

# A level of a path counts more than any sum of bin distances along it.
_LONGER = 2**20


class Terms(NamedTuple):
    """Holds the limits for the guesses of one action."""

    reach: Tensor  # int64 [2L + 1], on the device: 0 for the root, the rule's bins, L zeros
    state: Tensor | None  # float64 [n], ``Situation.numbers``; None = no guard, no ``stays``
    bins: tuple[int, ...]  # the rule's reach on the host, [L]


@dataclass(frozen=True, slots=True)
class Acceptance:
    """
    Decides on the target's device what stays, by a rule and, unless it is None, a guard.

    strict_above: if the risk of the action before was more, this one is exact.
    """

    rule: Rule
    guard: Guard | None
    space: ActionSpace
    target: Target
    strict_above: float = inf

    def __post_init__(self) -> None:
        for kind, asked in (('guard', self.guard), ('rule', rating(self.rule))):
            try:
                hash(asked)
            except TypeError as error:
                raise SpecVLAError(f'the {kind} {asked} has no hash ({error}); make it a frozen '
                                   'dataclass of numbers and tuples') from error

    def terms(self, situation: Situation) -> Terms:
        """Ask the rule, once an action; raise SpecVLAError if its answer is no L integers."""
        space, device, state = self.space, self.target.device, None
        reach = tuple(self.rule.reach(space, situation))
        if len(reach) != space.length or not all(isinstance(it, Integral) for it in reach):
            raise SpecVLAError(
                f'{self.rule} has the reach {reach}, must be {space.length} whole numbers')
        if situation.risk is not None and situation.risk > self.strict_above:
            reach = tuple(min(bins, 0) for bins in reach)
        if self.guard is not None or rating(self.rule) is not None:
            numbers = situation.numbers(space.action_dim)
            state = torch.tensor(numbers, dtype=torch.float64).to(device, non_blocking=True)
        return Terms(_uploaded(reach, device), state, reach)

    def accept(
        self, tree: TokenTree, verified: Verification, tokens: Sequence[int], terms: Terms,
        bins_off: Sequence[int | None] = (),
    ) -> Accepted:
        """
        Take the longest path that may stay; of equally long ones the closest to the target's own.

        tokens: the action's before the tree; bins_off: how far they are off. Decided on the
        device, in a graph where there are any; the host gets the path in the one copy of the
        pass. Raises SpecVLAError if numbers of target or drafter are not finite, or the guard
        forbids every bin.
        """
        n, known, run = len(tree), len(tokens), verified.runner.run
        walk, own = _Walk(self.guard, rating(self.rule), self.space), verified.argmax
        asked: tuple[Input, ...] = ()
        if terms.state is not None:
            blank = self.space.length - known
            off = [*(it or 0 for it in bins_off), *[0] * (self.space.length - len(bins_off))]
            said = torch.tensor([[*tokens, *[-1] * blank], off])
            said = said.to(self.target.device, non_blocking=True)
            asked = Padded(verified.logits), said, terms.state, known
        if not n:
            forbidden = own[:0]
            if self.guard is not None:
                own, forbidden = run(walk.root, Padded(own), *asked).split(1)
            bonus, unsure, *wrong = torch.cat((own[:1], verified.entropy, forbidden)).tolist()
            return Accepted((), (), self._checked(bonus, known), (), unsure / MILLION, sum(wrong))
        # Without probabilities nothing can be wrong: a node attends to itself, so this is true.
        finite = tree.ancestor_mask[0, :1] if tree.finite is None else tree.finite
        decided = run(
            walk.decide, Padded(tree.tokens), Padded(tree.parents), Padded(tree.depth),
            Padded(tree.ancestor_mask, (0, 1)), finite, Padded(own), Padded(verified.entropy),
            terms.reach[known : known + self.space.length + 1], n, *asked,
        )
        is_finite, bonus, unsure, forbidden, *rest = decided.tolist()
        if not is_finite:
            raise SpecVLAError('the drafter gave probabilities that are not finite; check it')
        drafts, off = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        nodes = tuple(node for node in range(n) if off[node] >= 0)
        bonus = self._checked(bonus, known + len(nodes))
        return Accepted(nodes, tuple(drafts[node] for node in nodes), bonus,
                        tuple(off[node] for node in nodes), unsure / MILLION, forbidden)

    def nearest_allowed(self, wanted: Tensor, said: Sequence[int], terms: Terms) -> list[int]:
        """
        Return the last tokens of an action, [n]; each the nearest allowed behind those before it.

        wanted: int64 [n]; said: the tokens before. The host waits once, whatever n. Raises
        SpecVLAError if the guard allows none.
        """
        if self.guard is not None:
            assert terms.state is not None  # as there is a guard
            row = torch.tensor([[*said, *[-1] * len(wanted)]])
            row, wanted = (it.to(self.target.device, non_blocking=True) for it in (row, wanted))
            wanted = nearest_allowed(self.guard, self.space, wanted, row, terms.state)
        return [self._checked(token, place)
                for place, token in enumerate(wanted.tolist(), len(said))]

    def rehearsal(self) -> Acceptance:
        """Return one that does the same work, lets no draft stay, and ends no action early."""
        return _Rehearsal(self.rule, self.guard, self.space, self.target)

    def _checked(self, token: int, position: int) -> int:
        """Return a token decided on the device; raise SpecVLAError if it is none."""
        if token == -1:
            raise SpecVLAError(
                'the target gave logits that are not finite (data type '
                f'{self.target.model.dtype}); check the checkpoint, or load it in float32 or '
                'bfloat16')
        if token < -1:
            raise SpecVLAError(
                f'the guard {self.guard} forbids every bin of token {position + 1} of '
                f'{self.space.length}; no action is left')
        return token


class _Rehearsal(Acceptance):
    """For warming up: a guard is asked, and its answer is ignored."""

    __slots__ = ()

    def terms(self, situation: Situation) -> Terms:
        reach = _uploaded((-1,) * self.space.length, self.target.device)
        return super().terms(situation)._replace(reach=reach)

    def _checked(self, token: int, position: int) -> int:
        return super()._checked(~token if token < -1 else token, position)


@dataclass(frozen=True, slots=True)
class _Walk:
    """What is decided on the device: functions of tensors, the same for all rules."""

    guard: Guard | None
    rating: Rating | None
    space: ActionSpace

    def root(
        self, own: Tensor, logits: Tensor, said: Tensor, state: Tensor, known: int | Tensor
    ) -> Tensor:
        """Best allowed token after the root, and whether the best of all is another, int64 [2]."""
        assert self.guard is not None
        own = own[:1]
        best, _ = best_allowed(self.guard, self.space, own, logits[:1], said[:1],
                               torch.zeros_like(own) + known, state)
        return torch.cat((best, best != own))

    def decide(
        self, tokens: Tensor, parents: Tensor, depth: Tensor, ancestors: Tensor, finite: Tensor,
        own: Tensor, entropy: Tensor, reach: Tensor, n: int | Tensor, *asked: Any,
    ) -> Tensor:
        """
        Choose a path, int64: finite, bonus, entropy of the path and the bonus, at how many of
        their tokens the target's own choice is forbidden, tokens [G], bins off [G]: -1 where a
        node is not on the path.

        own, entropy: int64 [R] what the target says after the root and each node; reach: int64
        [L + 1] by depth; asked: of guards and ratings, logits, said, state, known. The first n of
        G nodes are no padding; all if n is a plain number.
        """
        padded, tokenizer, rows = isinstance(n, Tensor), self.space.tokenizer, parents + 1
        if padded:
            real = torch.arange(len(tokens), device=tokens.device) < n
            depth, ancestors = depth.where(real, 0), ancestors & real
        paths = functional.pad(ancestors, (0, 0, 1, 0))  # the root's has no node
        free, known = own, 0
        if asked:
            logits, said, state, known = asked
            position = known + depth - 1  # of the drafts
        if self.guard is not None:
            # Of a padded pass and a padded tree one may have more rows, or one fewer.
            count = min(len(tokens) + 1, len(own))
            before = said_before(paths[:count], tokens, position, said[0])
            own, logits = best_allowed(
                self.guard, self.space, own[:count], logits[:count], before,
                functional.pad(depth, (1, 0))[:count] + known, state)
        choice = own.index_select(0, rows)
        # Ids, not bins: neighbours in one are neighbours in the other, except that the two
        # lowest ids share a bin. They are different inputs to the target: r = 0 tells them apart.
        stays = (tokens - choice).abs() <= reach.index_select(0, depth)
        stays &= tokens.minimum(choice) >= tokenizer.first_id
        stays &= tokens.maximum(choice) <= tokenizer.last_id
        if asked:
            columns, chosen = ((it - tokenizer.first_id).clamp(0, tokenizer.n_bins - 1)
                               for it in (tokens, choice))
        if self.guard is not None:
            stays &= logits[rows, columns] > -torch.inf
        distance = (tokenizer.bins(tokens) - tokenizer.bins(choice)).abs()
        if self.rating is not None:
            stays &= self.rating.stays(Drafts(
                columns, chosen, distance, position.clamp(0, self.space.length - 1), ancestors,
                logits.index_select(0, rows), said[1]), self.space)
        refused = (ancestors & ~stays).any(1)
        scores = depth * _LONGER - (ancestors * distance).sum(1)
        scores = scores.masked_fill(refused | ~real if padded else refused, -1)
        # The root beats refusals only. Of equal scores argmax takes the first.
        best = functional.pad(scores, (1, 0)).argmax(keepdim=True)
        path = paths.index_select(0, best)[0]
        on_path = functional.pad(path, (1, 0), value=True)  # the root is on each
        unsure = on_path[: len(entropy)]
        unsure = (entropy[: len(unsure)] * unsure).sum(0, keepdim=True)
        forbidden = finite[:0]
        if self.guard is not None:
            forbidden = on_path[: len(own)] & (own != free[: len(own)])
        return torch.cat((finite, own.index_select(0, best), unsure,
                          forbidden.sum(0, keepdim=True), tokens, distance.where(path, -1)))


@lru_cache(maxsize=64)
def _uploaded(reach: tuple[int, ...], device: torch.device) -> Tensor:
    """``Terms.reach``: copied to the device once for all actions that have the same."""
    return torch.tensor((0, *reach, *(0 for _ in reach))).to(device, non_blocking=True)
