"""
A guard forbids bins. The target's own choice is then the best bin that the guard allows, for the
bonus as well, so strict decoding under a guard is plain autoregression under the same guard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from specvla_ros.action_space import ActionSpace
from specvla_ros.errors import SpecVLAError

_FAR = 2**40  # more than any distance between two ids


class Guard(Protocol):
    """Says which bins may be said at all: hashable settings, a frozen dataclass."""

    def allowed(self, said: Tensor, position: Tensor, state: Tensor, space: ActionSpace) -> Tensor:
        """
        Bins allowed as the next token, bool [R, bins]; column 0 is the first action id.

        said: int64 [R, L] the tokens so far, -1 = not yet; position: int64 [R] which of the L is
        next; state: float64, ``Situation.numbers``. It runs in a graph: it may ask for no value.
        """


def said_before(paths: Tensor, tokens: Tensor, position: Tensor, said: Tensor) -> Tensor:
    """
    Tokens before the next one in each row, int64 [R, L], -1 = not yet.

    paths: bool [R, G] the nodes behind the root in each row; tokens, position: int64 [G] of the
    nodes; said: int64 [L] those before the tree.
    """
    places = torch.arange(len(said), device=said.device)
    stands = paths[:, :, None] & (position[:, None] == places)  # [R, G, L]
    return (stands * tokens[:, None]).sum(1).where(stands.any(1), said)


def needs_no_guard(
    space: ActionSpace, free: Sequence[tuple[int, int]], said: Sequence[int],
    drafts: Sequence[int], depth: Sequence[int], own: Sequence[int],
) -> bool:
    """
    Whether the free bins hold all that a guard would judge, on the host.

    free: lowest and highest bin by position, ``Situation.free_bins``. said: the tokens so far;
    drafts, depth: of the nodes; own: what the target says after the root and each node.
    """
    known, tokenizer = len(said), space.tokenizer
    begun = [place for place in range(known) if space.groups(place) == space.groups(known)]
    asked = [*((place, said[place]) for place in begun),
             *((known + deep - 1, token) for deep, token in zip(depth, drafts, strict=True)),
             *((known + deep, token) for deep, token in zip((0, *depth), own, strict=True))]
    return all(
        tokenizer.is_action(token) and free[place][0] <= tokenizer.bins(token) <= free[place][1]
        for place, token in asked if place < space.length)


def best_allowed(
    guard: Guard, space: ActionSpace, own: Tensor, logits: Tensor, said: Tensor, position: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """
    Best allowed tokens, int64 [R], and the logits [R, bins], -inf where forbidden.

    -1 where the logits were not finite, as in ``own``; ~id, below -1, where no bin is allowed.
    """
    allowed = guard.allowed(said, position, state, space)
    if allowed.shape != logits.shape or allowed.dtype != torch.bool:
        raise SpecVLAError(
            f'the guard {guard} gives {allowed.dtype} {list(allowed.shape)}, must be bool '
            f'{list(logits.shape)}')
    logits = logits.where(allowed, -torch.inf)
    most, best = logits.max(dim=-1)
    best = best + space.tokenizer.first_id
    return best.where(most > -torch.inf, ~best).where(own >= 0, own), logits


def nearest_allowed(
    guard: Guard, space: ActionSpace, wanted: Tensor, said: Tensor, state: Tensor
) -> Tensor:
    """
    Move the last tokens of an action to the nearest allowed, one after the other, int64 [n].

    wanted: int64 [n]; said: int64 [1, L] the tokens so far, -1 = not yet: they are filled in. ~id,
    below -1, where no bin is allowed. It asks for no value: the host need not wait for each token.
    """
    first = space.tokenizer.first_id
    ids = torch.arange(first, first + space.tokenizer.n_bins, device=said.device)
    for position, token in enumerate(wanted, space.length - len(wanted)):
        allowed = guard.allowed(said, torch.full_like(said[0, :1], position), state, space)[0]
        # Of two ids as near as each other the lower comes first: an order without ties.
        off = 2 * (ids - token).abs() + (ids > token)
        nearest = ids[off.masked_fill(~allowed, _FAR).argmin(keepdim=True)]
        said[:, position] = nearest.where(allowed.any(), ~nearest)
    return said[0, space.length - len(wanted):]
