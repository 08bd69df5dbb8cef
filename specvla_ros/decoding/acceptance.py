"""
Acceptance: which drafts may stay, given what the target itself would have said.

Spec-VLA (arXiv 2507.22424, section 3.2): walk down the tree from the root. A draft stays where
|bin(draft) - bin(target's argmax at its parent)| <= r and its parent stays; the longest path is
accepted, and the target's own argmax after its last node is the bonus token. A rule says how large
r is for each token. Two things the published code leaves open are decided here: ties go to the
path closest to the target's own choices, and only action tokens may stay.
A guard (``guard``) may forbid bins, of the bonus as well.

The host walks down the tree. It has to wait for the pass anyway, and one copy brings it a few
whole numbers for each node. Guards, and rules that rate drafts, read logits: they run on the
device, before that copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from specvla_ros.action_space import ActionSpace
from specvla_ros.errors import SpecVLAError
from specvla_ros.graphs import GraphRunner, Padded
from specvla_ros.situation import Situation

from .guard import best_allowed, Guard, nearest_allowed, needs_no_guard, said_before
from .rules.rule import Drafts, Rating, rating, Rule
from .target import MILLION, Target, Verification
from .tree import Accepted, ReadBack, TokenTree


class Terms(NamedTuple):
    """Holds the limits for the guesses of one action."""

    bins: tuple[int, ...]  # the rule's reach, [L]
    state: Tensor | None  # float64 [n], ``Situation.numbers``; None = no guard, no ``stays``
    free: tuple[tuple[int, int], ...] = ()  # ``Situation.free_bins``, [L]; () = none known


class _Path(NamedTuple):
    """Of a path that may stay: how many nodes it has, how many bins off they are in all."""

    length: int
    off: int


_ROOT = _Path(0, 0)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """
    Decides what stays, by a rule and, unless it is None, a guard.

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
        space, state = self.space, None
        reach = tuple(self.rule.reach(space, situation))
        if len(reach) != space.length or not all(isinstance(it, Integral) for it in reach):
            raise SpecVLAError(
                f'{self.rule} has the reach {reach}, must be {space.length} whole numbers')
        if situation.risk is not None and situation.risk > self.strict_above:
            reach = tuple(min(bins, 0) for bins in reach)
        if self.guard is not None or rating(self.rule) is not None:
            numbers = situation.numbers(space.action_dim)
            state = torch.tensor(numbers, dtype=torch.float64)
            state = state.to(self.target.device, non_blocking=True)
        return Terms(reach, state, () if rating(self.rule) else situation.free_bins)

    def accept(
        self, tree: TokenTree, verified: Verification, tokens: Sequence[int], terms: Terms,
        bins_off: Sequence[int | None] = (),
    ) -> Accepted:
        """
        Take the longest path that may stay; of equally long ones the closest to the target's own.

        tokens: the action's before the tree; bins_off: how far they are off. The host waits for
        the device here, once a pass. Raises SpecVLAError if numbers of target or drafter are not
        finite, or the guard forbids every bin.
        """
        n, known = len(tree), len(tokens)
        allowed = permitted = None
        if terms.state is not None and not self._is_free(tree, verified, tokens, terms.free):
            allowed, permitted = self._judged(tree, verified, tokens, terms.state, bins_off)
        parts = (verified.argmax, verified.entropy, tree.tokens if n else None, allowed, permitted,
                 tree.parents if n and tree.layout is None else None, tree.finite)
        own, entropy, drafts, best, stays, asked_parents, finite = _on_host(parts)
        if not all(finite):
            raise SpecVLAError('the drafter gave probabilities that are not finite; check it')
        best = best or own
        reach = (*terms.bins[known:], *[0] * n)
        parents = tree.layout or asked_parents
        nodes = self._longest(parents, drafts, best, stays or [True] * n, reach)
        rows = [0, *(node + 1 for node in nodes)]
        path = tuple(drafts[node] for node in nodes)
        off = tuple(self._bins_off(draft, best[row])
                    for draft, row in zip(path, rows[:-1], strict=True))
        return Accepted(
            nodes, path, self._checked(best[rows[-1]], known + len(nodes)), off,
            sum(entropy[row] for row in rows) / MILLION,
            sum(best[row] != own[row] for row in rows), ReadBack(parents, drafts, own))

    def _is_free(
        self, tree: TokenTree, verified: Verification, tokens: Sequence[int],
        free: Sequence[tuple[int, int]],
    ) -> bool:
        """Whether nothing here can be forbidden; asked where it takes no copy, on a CPU alone."""
        if not free or verified.argmax.device.type != 'cpu' or isinstance(
                verified.runner, GraphRunner):
            return False
        depth, drafts = (it.tolist() if len(tree) else [] for it in (tree.depth, tree.tokens))
        return needs_no_guard(
            self.space, free, tokens, drafts, depth, verified.argmax.tolist())

    def _longest(
        self, parents: Sequence[int], drafts: Sequence[int], own: Sequence[int],
        stays: Sequence[int], reach: Sequence[int],
    ) -> tuple[int, ...]:
        """
        Nodes of the path to accept, from the root down.

        own: what the target says after the root and each node; stays: 0 where guard or rating
        refuse a draft; reach: how many bins a draft may be off, by depth, the root's children
        first.
        """
        is_action = self.space.tokenizer.is_action
        paths: list[_Path | None] = []  # to each node; None = it may not stay
        for parent, draft, may_stay in zip(parents, drafts, stays, strict=True):
            before, choice = paths[parent] if parent >= 0 else _ROOT, own[parent + 1]
            # Ids, not bins: neighbours in one are neighbours in the other, except that the two
            # lowest ids share a bin. They are different inputs to the target: r = 0 tells them
            # apart.
            if (before is None or not may_stay or abs(draft - choice) > reach[before.length]
                    or not is_action(draft) or not is_action(choice)):
                paths.append(None)
            else:
                off = before.off + self._bins_off(draft, choice)
                paths.append(_Path(before.length + 1, off))
        best, node = _ROOT, -1
        for number, path in enumerate(paths):
            if path and (path.length, -path.off) > (best.length, -best.off):
                best, node = path, number
        nodes = []
        while node >= 0:
            nodes.append(node)
            node = parents[node]
        return tuple(reversed(nodes))

    def _bins_off(self, draft: int, choice: int) -> int:
        bins = self.space.tokenizer.bins
        return abs(bins(draft) - bins(choice))

    def _judged(
        self, tree: TokenTree, verified: Verification, tokens: Sequence[int], state: Tensor,
        bins_off: Sequence[int | None],
    ) -> tuple[Tensor, Tensor | None]:
        """
        Ask guard and rating, on the device, in a graph where there are any.

        Returns the best allowed tokens after the root and each node, int64 [N + 1], and which
        drafts may stay, bool [N]; None without drafts.
        """
        n, known, own = len(tree), len(tokens), verified.argmax
        if not n and self.guard is None:  # a rating is of drafts
            return own, None
        judge, run = _Judge(self.guard, rating(self.rule), self.space), verified.runner.run
        blank = self.space.length - known
        off = [*(it or 0 for it in bins_off), *[0] * (self.space.length - len(bins_off))]
        said = torch.tensor([[*tokens, *[-1] * blank], off])
        said = said.to(self.target.device, non_blocking=True)
        asked = Padded(verified.logits), said, state, known
        if not n:
            return run(judge.root, Padded(own), *asked), None
        best, stays = run(
            judge.nodes, Padded(tree.tokens), Padded(tree.parents), Padded(tree.depth),
            Padded(tree.ancestor_mask, (0, 1)), Padded(own), n, *asked)
        return best[: n + 1], stays[:n]

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
        """Return the token; raise SpecVLAError if a negative number says that there is none."""
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
        return super().terms(situation)._replace(bins=(-1,) * self.space.length)

    def _checked(self, token: int, position: int) -> int:
        return super()._checked(~token if token < -1 else token, position)


@dataclass(frozen=True, slots=True)
class _Judge:
    """What needs logits: functions of tensors, the same for all guards and rules."""

    guard: Guard | None
    rating: Rating | None
    space: ActionSpace

    def root(
        self, own: Tensor, logits: Tensor, said: Tensor, state: Tensor, known: int | Tensor
    ) -> Tensor:
        """Best allowed token after the root, int64 [1]."""
        assert self.guard is not None
        own = own[:1]
        return best_allowed(self.guard, self.space, own, logits[:1], said[:1],
                            torch.zeros_like(own) + known, state)[0]

    def nodes(
        self, tokens: Tensor, parents: Tensor, depth: Tensor, ancestors: Tensor, own: Tensor,
        n: int | Tensor, logits: Tensor, said: Tensor, state: Tensor, known: int | Tensor,
    ) -> tuple[Tensor, Tensor]:
        """
        Best allowed tokens after the root and each node, int64, and which drafts may stay, bool.

        own: int64 [R] what the target says there. The first n of G nodes are no padding; all if n
        is a plain number.
        """
        tokenizer, rows = self.space.tokenizer, parents + 1
        # Of a padded pass and a padded tree one may have more rows, or one fewer.
        count = min(len(tokens) + 1, len(own))
        own, logits = own[:count], logits[:count]
        if isinstance(n, Tensor):
            real = torch.arange(len(tokens), device=tokens.device) < n
            depth, ancestors = depth.where(real, 0), ancestors & real
        position = known + depth - 1  # of the drafts
        columns = (tokens - tokenizer.first_id).clamp(0, tokenizer.n_bins - 1)
        stays = torch.ones_like(depth, dtype=torch.bool)
        if self.guard is not None:
            paths = functional.pad(ancestors, (0, 0, 1, 0))  # the root's has no node
            before = said_before(paths[:count], tokens, position, said[0])
            own, logits = best_allowed(
                self.guard, self.space, own, logits, before,
                functional.pad(depth, (1, 0))[:count] + known, state)
            stays = logits[rows, columns] > -torch.inf
        if self.rating is not None:
            choice = own.index_select(0, rows)
            chosen = (choice - tokenizer.first_id).clamp(0, tokenizer.n_bins - 1)
            distance = (tokenizer.bins(tokens) - tokenizer.bins(choice)).abs()
            stays &= self.rating.stays(Drafts(
                columns, chosen, distance, position.clamp(0, self.space.length - 1), ancestors,
                logits.index_select(0, rows), said[1]), self.space)
        # A graph's own output: what it was given is overwritten by the next pass.
        return own.clone() if self.guard is None else own, stays


def _on_host(parts: Sequence[Tensor | None]) -> list[list[int]]:
    """Copy vectors of whole numbers to the host, all in one copy; None becomes an empty list."""
    read = iter(torch.cat([part for part in parts if part is not None]).tolist())
    return [[] if part is None else list(islice(read, len(part))) for part in parts]
