"""
The safety envelope inside the acceptance: which bins the target may choose from.

Translation and rotation are vectors, so what is allowed of y depends on the x that was said. A bin
is allowed if the vector can be completed inside the envelope; inside is what `safety.fit` leaves
unchanged. One completion is tried, the one that asks least of the limits: along the step before,
as far as the length allows. It is made axis by axis, so the next axis of a completion that is
inside is itself an allowed bin: no prefix of allowed bins is a dead end.

Bins are a grid. Where none of a vector's is inside, the bin nearest to no motion is the one that
is allowed. What it sticks out, `fit` takes away: it stays the last gate.

All of it is a function of tensors whose shapes never change, and the limits are its input: an
envelope that changes captures no graph anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from specvla_ros.action_space import ActionSpace
from specvla_ros.bin_limits import BinValues, NUMBERS, part_numbers, PARTS
from specvla_ros.safety import StepLimits

if TYPE_CHECKING:
    from specvla_ros.decoding.acceptance import Guard

Array = Any  # a tensor, or on the host an array

_TINY = 1e-30  # 0 / 0 is 1: to a step before of no length any share of it is as near
_EXACT = 1e-9  # of a bin: what rounding does to one that stands on a wall
_NONE = 1e6  # no bin


@dataclass(frozen=True, slots=True)
class EnvelopeGuard:
    """
    Allow the bins that the safety envelope holds: an `acceptance.Guard`.

    rotation: what the three angles of an action are, one of `configuration.ROTATIONS`.
    other: a guard that must allow a bin as well; where both leave none, its answer counts.
    """

    rotation: str = 'rotation_vector'
    other: Guard | None = None

    def allowed(self, said: Tensor, position: Tensor, state: Tensor, space: ActionSpace) -> Tensor:
        """Return the bins inside, bool [R, bins]; the state's last numbers: `guard_numbers`."""
        inside = self._inside(self._rows(said, position, state, space), space)
        if self.other is not None:
            theirs = self.other.allowed(said, position, state, space)
            both = inside & theirs
            inside = both.where(both.any(-1, keepdim=True), theirs)
        return inside

    def _rows(self, said: Tensor, position: Tensor, state: Tensor, space: ActionSpace) -> _Rows:
        """Pick what each row needs of the limits and of what was said."""
        axis = position % space.action_dim
        place = axis.clamp(max=5)  # a row of the gripper's is worked out in vain
        if space.chunk == 1:
            numbers = state[-6 * _PREPARED :].view(6, _PREPARED).index_select(0, place)
        else:
            numbers = self._moved(said, position, state[-PARTS * NUMBERS :], space)
        vector = (position - place % 3 - axis + place)[:, None]
        tokens = said.gather(1, vector + torch.arange(3, device=said.device))
        bins = space.tokenizer.bins(tokens)[:, :2].to(state.dtype).T[:, :, None]
        is_gripper, axis = (axis > 5)[:, None], (place % 3)[:, None]
        return _Rows(
            axis == 0, axis == 1, axis == 2, is_gripper, (place > 2)[:, None], bins[0], bins[1],
            *numbers.T[:, :, None].unbind(0))

    def _moved(
        self, said: Tensor, position: Tensor, numbers: Tensor, space: ActionSpace
    ) -> Tensor:
        """Let the steps said before a row's own move the walls and be the step before."""
        table = numbers.view(PARTS, NUMBERS)
        squares, axes = table[:, :3], table[:, 3:].view(PARTS, 5, 3)
        lowest, size = axes[:, 3].reshape(6), axes[:, 4].reshape(6)
        bins = space.tokenizer.bins(said).view(-1, space.chunk, space.action_dim)[..., :6]
        steps = torch.addcmul(lowest, bins.to(size.dtype), size)
        if self.rotation == 'euler_xyz':
            turns = _rotation_vectors(steps[..., 3], steps[..., 4], steps[..., 5])
            steps = torch.cat((steps[..., :3], torch.stack(turns, -1)), -1)
        steps = steps.unflatten(-1, (PARTS, 3))  # [R, chunk, parts, 3]
        step = (position // space.action_dim)[:, None, None, None]
        numbers = torch.arange(space.chunk, device=said.device)[:, None, None]
        moved = (steps * (numbers < step)).sum(1)
        before = axes[:, 2].where(step[:, 0] == 0, (steps * (numbers == step - 1)).sum(1))
        rows = prepared(
            torch, axes[:, 0] - moved, axes[:, 1] - moved, before, axes[:, 3].expand_as(moved),
            axes[:, 4].expand_as(moved), squares.expand(len(said), -1, -1))
        place = (position % space.action_dim).clamp(max=5)[:, None, None]
        return rows.flatten(1, 2).take_along_dim(place, 1)[:, 0]

    def _inside(self, rows: _Rows, space: ActionSpace) -> Tensor:
        """Return the bins whose vectors can be completed inside, bool [R, bins]."""
        tokenizer = space.tokenizer
        ids = torch.arange(tokenizer.n_bins, device=rows.first.device) + tokenizer.first_id
        bins = tokenizer.bins(ids).to(rows.first.dtype)
        candidates = torch.addcmul(rows.lowest, bins, rows.size)
        x = candidates.where(rows.is_x, torch.addcmul(rows.lowest_x, rows.bin_x, rows.size_x))
        length, along = x * x, x * rows.before_x
        way = torch.addcmul(rows.tiny_x, along, rows.share_x).clamp(0.0, 1.0)
        way = way.minimum(((rows.shorter - length).clamp(min=0.0) * rows.open_x).sqrt())
        y = torch.addcmul(rows.zero_y, way, rows.scale_y).round().clamp(rows.first_y, rows.last_y)
        y = y.where(rows.is_x, rows.bin_y)
        y = candidates.where(rows.is_y, torch.addcmul(rows.lowest_y, y, rows.size_y))
        length = torch.addcmul(length, y, y)
        along = torch.addcmul(along, y, rows.before_y)
        way = torch.addcmul(rows.tiny_y, along, rows.share_y).clamp(0.0, 1.0)
        way = way.minimum(((rows.shorter - length).clamp(min=0.0) * rows.open_y).sqrt())
        z = torch.addcmul(rows.zero_z, way, rows.scale_z).round().clamp(rows.first_z, rows.last_z)
        z = candidates.where(rows.is_z, torch.addcmul(rows.lowest_z, z, rows.size_z))
        if self.rotation == 'euler_xyz':
            x, y, z = (turn.where(rows.is_rotation, it) for turn, it in zip(
                _rotation_vectors(x, y, z), (x, y, z), strict=True))
            length = torch.addcmul(x * x, y, y)
            along = torch.addcmul(x * rows.before_x, y, rows.before_y)
        length = torch.addcmul(length, z, z)
        along = torch.addcmul(along, z, rows.before_z)
        way = torch.addcmul(rows.tiny_z, along, rows.share_z).clamp(0.0, 1.0)
        off = torch.addcmul(length, way, way * rows.known - 2 * along)  # |v - way · before|²
        inside = (length <= rows.longest) & (off <= rows.change)
        inside &= (bins >= rows.first) & (bins <= rows.last)
        rest = (bins == rows.rest) | rows.is_gripper
        return inside.where(inside.any(-1, keepdim=True), rest) | rows.is_gripper


class _Rows(NamedTuple):
    """
    Of each row the vector that its next token belongs to, and its limits: [R, 1] each, m or rad.

    From ``shorter`` on these are the columns of `prepared`.
    """

    is_x: Tensor  # which axis of the vector is next
    is_y: Tensor
    is_z: Tensor
    is_gripper: Tensor
    is_rotation: Tensor
    bin_x: Tensor  # bins said; anything where not yet
    bin_y: Tensor
    shorter: Tensor  # squares: how long a completion is made, how long the vector may be, and
    longest: Tensor
    change: Tensor  # how far from the way to the step before
    before_x: Tensor  # the step before
    before_y: Tensor
    before_z: Tensor
    share_x: Tensor  # 1 / the square of its first axis, its first two, all
    share_y: Tensor
    share_z: Tensor
    tiny_x: Tensor  # the same times _TINY
    tiny_y: Tensor
    tiny_z: Tensor
    open_x: Tensor  # 1 / the square of its axes behind x, behind y
    open_y: Tensor
    known: Tensor  # its square
    lowest_x: Tensor  # the grid: value of bin 0, size of a bin
    lowest_y: Tensor
    lowest_z: Tensor
    size_x: Tensor
    size_y: Tensor
    size_z: Tensor
    zero_y: Tensor  # bin of no motion, bins of the step before
    zero_z: Tensor
    scale_y: Tensor
    scale_z: Tensor
    first_y: Tensor  # bins between the walls
    first_z: Tensor
    last_y: Tensor
    last_z: Tensor
    lowest: Tensor  # of the next axis
    size: Tensor
    first: Tensor  # none where a later axis has none
    last: Tensor
    rest: Tensor  # bin nearest to no motion


_PREPARED = len(_Rows._fields) - _Rows._fields.index('shorter')


def prepared(
    xp: Any, low: Array, high: Array, before: Array, lowest: Array, size: Array, squares: Array
) -> Array:
    """
    Work out what does not depend on the tokens of a vector, [..., 3, 34] for its next axis each.

    xp: ``torch``, or ``numpy`` on the host, where small arrays cost a third of small tensors. Of
    [..., 3] all others: low, high: to the walls; before: the step before; lowest, size: of the
    bins; squares: see ``part_numbers``.
    """
    low, high, moves = low.clip(None, 0.0), high.clip(0.0, None), size > 0
    per = xp.where(moves, 1 / xp.where(moves, size, 1.0), 0.0)
    zero = -lowest * per
    first = xp.where(moves, xp.ceil(low * per + zero - _EXACT),
                     xp.where(lowest >= low, 0.0, _NONE)).clip(0.0, None)
    last = xp.where(moves, xp.floor(high * per + zero + _EXACT),
                    xp.where(lowest <= high, 0.0, -_NONE)).clip(None, 254.0)
    there = first <= last
    nearest = first.clip(None, 254.0), last.clip(0.0, None)  # where none is between the walls
    rest = xp.minimum(xp.maximum(xp.round(zero), nearest[0]), nearest[1])
    behind = xp.stack(
        (there[..., 1] & there[..., 2], there[..., 2], there[..., 2] | True), axis=-1)
    known = (before * before).cumsum(axis=-1)
    share = 1 / (known + _TINY)
    total = known[..., 2:]
    common = xp.concatenate((
        squares, before, share, _TINY * share, 1 / (total - known[..., :2] + _TINY), total,
        lowest, size, zero[..., 1:], (before * per)[..., 1:], nearest[0][..., 1:],
        nearest[1][..., 1:]), axis=-1)
    own = xp.stack((lowest, size, xp.where(behind, first, _NONE), last, rest), axis=-1)
    shape = (*own.shape[:-1], common.shape[-1])
    return xp.concatenate((xp.broadcast_to(common[..., None, :], shape), own), axis=-1)


def guard_numbers(limits: StepLimits, bins: BinValues, chunk: int) -> tuple[float, ...]:
    """
    Return ``Situation.limits``, what the guard reads of the limits of the next control step.

    Of one step nothing depends on what is said: it is `prepared` here, once. Of a chunk the later
    steps' limits do, so these are `part_numbers`.
    """
    numbers = np.array(part_numbers(limits, bins))
    if chunk == 1:
        low, high, before, lowest, size = numbers[:, 3:].reshape(PARTS, 5, 3).swapaxes(0, 1)
        numbers = prepared(np, low, high, before, lowest, size, numbers[:, :3])
    return tuple(numbers.ravel().tolist())


def _rotation_vectors(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return turns about the fixed axes x, y, z as rotation vectors; `rotation` in torch."""
    (sx, cx), (sy, cy), (sz, cz) = ((it.sin(), it.cos()) for it in (x / 2, y / 2, z / 2))
    w = cz * cy * cx + sz * sy * sx
    vector = (cz * cy * sx - sz * sy * cx,
              cz * sy * cx + sz * cy * sx,
              sz * cy * cx - cz * sy * sx)
    sine = (vector[0].square() + vector[1].square() + vector[2].square()).sqrt()
    angle = 2 * torch.atan2(sine, w.abs())
    factor = (angle / sine.clamp(min=_TINY)).where(sine > 0, 2.0)
    factor = factor.where(w >= 0, -factor)
    return factor * vector[0], factor * vector[1], factor * vector[2]
