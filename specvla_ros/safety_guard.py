"""
The safety envelope inside the acceptance: which bins the target may choose from.

Translation and rotation are vectors, so what is allowed of y depends on the x that was said. A bin
is allowed if the vector can be completed inside the envelope; inside is what `safety.fit` leaves
unchanged. One completion is tried, the one that asks least of the limits: along the step before,
as far as the length allows. It is made axis by axis, so the first axis of a completion that is
inside is itself an allowed bin: no prefix of allowed bins is a dead end.

Bins are a grid. Where none of a vector's is inside (a narrow place) those are allowed that miss it
by a bin, and the one nearest to no motion. What they stick out, `fit` takes away: it stays the
last gate.

All of it is a function of tensors whose shapes never change, and the limits are its input: an
envelope that changes captures no graph anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TYPE_CHECKING

import torch
from torch import Tensor

from specvla_ros.action_space import ActionSpace
from specvla_ros.bin_limits import LENGTHS, NUMBERS, PARTS

if TYPE_CHECKING:
    from specvla_ros.decoding.acceptance import Guard

_TINY = 1e-30  # 0 / 0 is 1: to a step before of no length any share of it is as near


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
        """Return the bins inside, bool [R, bins]; the state's last numbers are the limits."""
        rows = self._rows(said, position, state[-PARTS * NUMBERS :].view(PARTS, NUMBERS), space)
        vectors = _completed(rows, space)
        if self.rotation == 'euler_xyz':
            turns = _rotation_vectors(*vectors)
            vectors = tuple(turn.where(rows.is_rotation, value)
                            for turn, value in zip(turns, vectors, strict=True))
        inside = _inside(rows, vectors, space)
        if self.other is not None:
            theirs = self.other.allowed(said, position, state, space)
            both = inside & theirs
            inside = both.where(both.any(-1, keepdim=True), theirs)
        return inside

    def _rows(self, said: Tensor, position: Tensor, table: Tensor, space: ActionSpace) -> _Rows:
        """Pick what each row needs of the limits and of what was said."""
        axis = position % space.action_dim
        part = (axis >= 3).long()  # a row of the gripper's is worked out in vain
        numbers = table.index_select(0, part)
        low, high, before, lowest, size, per = numbers[:, LENGTHS:].view(-1, 6, 3).unbind(1)
        if space.chunk > 1:
            way, turn = self._steps(said, table, space)
            step = (position // space.action_dim)[:, None, None]
            steps = torch.arange(space.chunk, device=said.device)[:, None]
            moved = (way * (steps < step)).sum(1) * (1 - part)[:, None]
            last = way.where(part[:, None, None] == 0, turn) * (steps == step - 1)
            low, high = low - moved, high - moved
            before = before.where(step[:, 0] == 0, last.sum(1))
        first = (position - axis + 3 * part)[:, None]
        tokens = said.gather(1, first + torch.arange(3, device=said.device))
        values = torch.addcmul(lowest, space.tokenizer.bins(tokens), size)
        return _Rows(
            (axis - 3 * part)[:, None], (part == 1)[:, None], numbers[:, :LENGTHS].split(1, 1),
            low.clamp(max=0.0), high.clamp(min=0.0), before, lowest, size, per, values)

    def _steps(self, said: Tensor, table: Tensor, space: ActionSpace) -> tuple[Tensor, Tensor]:
        """Translation and rotation vector of each control step said, [R, chunk, 3]."""
        lowest, size = table[:, LENGTHS:].view(PARTS, 6, 3)[:, 3:5].unbind(1)
        bins = space.tokenizer.bins(said).view(-1, space.chunk, space.action_dim)
        values = torch.addcmul(lowest.reshape(6), bins[..., :6], size.reshape(6))
        way, turn = values[..., :3], values[..., 3:]
        if self.rotation == 'euler_xyz':
            turn = torch.stack(_rotation_vectors(*turn.unbind(-1)), -1)
        return way, turn


class _Rows(NamedTuple):
    """Of each row the vector that its next token belongs to, and its limits; m or rad."""

    axis: Tensor  # [R, 1] which axis of it is next; 3: the gripper
    is_rotation: Tensor  # [R, 1]
    squares: tuple[Tensor, ...]  # [R, 1] each, see `limit_numbers`
    low: Tensor  # [R, 3], as all that follow: to the walls; no motion is between them
    high: Tensor
    before: Tensor  # the step before
    lowest: Tensor
    size: Tensor
    per: Tensor
    said: Tensor  # values of the axes; those not said yet are anything

    def at(self, values: Tensor) -> Tensor:
        """Return the values of the next axis, [R, 1]."""
        return values.gather(1, self.axis.clamp(max=2))


def _completed(rows: _Rows, space: ActionSpace) -> tuple[Tensor, Tensor, Tensor]:
    """Return the vector that each bin of the next axis leads to, axis by axis [R, bins]."""
    bins = _bins(rows, space)
    candidates = torch.addcmul(rows.at(rows.lowest), bins, rows.at(rows.size))
    known = rows.before.square().cumsum(-1)
    x = candidates.where(rows.axis == 0, rows.said[:, :1])
    length, along = x * x, x * rows.before[:, :1]
    y = _completion(rows, 1, known, length, along, space)
    y = candidates.where(rows.axis == 1, rows.said[:, 1:2]).where(rows.axis >= 1, y)
    length = torch.addcmul(length, y, y)
    along = torch.addcmul(along, y, rows.before[:, 1:2])
    z = candidates.where(rows.axis == 2, _completion(rows, 2, known, length, along, space))
    return x, y, z


def _completion(
    rows: _Rows, axis: int, known: Tensor, length: Tensor, along: Tensor, space: ActionSpace
) -> Tensor:
    """
    Return the value of an axis that asks least of the limits, given those before it, [R, bins].

    It lies on the way to the step before, where that is nearest to the axes before, but so near to
    "no motion" that the vector is a bin shorter than it may be, and between the walls.

    known: [R, 3] squares of the step before, summed up; length, along: [R, bins] the axes before
    this one, their squares' sum and their product with the step before.
    """
    behind, last = known[:, axis - 1 : axis], known[:, 2:]
    share = 1 / (behind + _TINY)
    way = torch.addcmul(_TINY * share, along, share).clamp(0.0, 1.0)
    left = (rows.squares[0] - length).clamp(min=0.0)
    way = way.minimum((left * (1 / (last - behind + _TINY))).sqrt())
    low, high, before, lowest, size, per = (
        it[:, axis : axis + 1] for it in (
            rows.low, rows.high, rows.before, rows.lowest, rows.size, rows.per))
    bins = torch.addcmul(-lowest * per, way, before * per).round()
    bins = bins.clamp(*_between_walls(low, high, lowest, per, space))
    return torch.addcmul(lowest, bins, size)


def _inside(
    rows: _Rows, vectors: tuple[Tensor, Tensor, Tensor], space: ActionSpace
) -> Tensor:
    """Return where the vectors, [R, bins] each axis, are inside; else what is nearest."""
    (x, y, z), (_, longest, longer, change, further) = vectors, rows.squares
    (bx, by, bz), axis = rows.before.split(1, 1), rows.axis
    known = rows.before.square().sum(-1, keepdim=True)
    length = torch.addcmul(torch.addcmul(x * x, y, y), z, z)
    along = torch.addcmul(torch.addcmul(x * bx, y, by), z, bz)
    way = (along * (1 / (known + _TINY))).clamp(0.0, 1.0)
    off = way * (way * known - 2 * along) + length  # |v - way · before| squared
    # The walls: of the next axis by bin, of those to come whether the grid has a bin between them.
    first, last = _between_walls(rows.low, rows.high, rows.lowest, rows.per, space)
    rest = (-rows.lowest * rows.per).round().clamp(first, last)
    still = torch.addcmul(rows.lowest, rest, rows.size)
    fits = (still >= rows.low) & (still <= rows.high)
    fits |= torch.arange(3, device=axis.device) <= axis
    bins = _bins(rows, space)
    # Constant dimension: all bins mean the lowest value, so a comparison of bins would not do.
    value = torch.addcmul(rows.at(rows.lowest), bins, rows.at(rows.size))
    between = (value >= rows.at(rows.low)) & (value <= rows.at(rows.high))
    between &= fits.all(-1, keepdim=True)
    inside = (length <= longest) & (off <= change) & between
    near = (length <= longer) & (off <= further) & between
    near |= bins == rows.at(rest)
    return inside.where(inside.any(-1, keepdim=True), near) | (axis == 3)


def _between_walls(
    low: Tensor, high: Tensor, lowest: Tensor, per: Tensor, space: ActionSpace
) -> tuple[Tensor, Tensor]:
    """Return the first and the last bin between two walls; the nearest there is if none is."""
    most = space.tokenizer.n_bins - 2
    return (((low - lowest) * per).ceil().clamp(0, most),
            ((high - lowest) * per).floor().clamp(0, most))


def _bins(rows: _Rows, space: ActionSpace) -> Tensor:
    """Return the bins of the action tokens, float64 [bins], first id first."""
    tokenizer = space.tokenizer
    columns = torch.arange(tokenizer.n_bins, device=rows.axis.device) + tokenizer.first_id
    return tokenizer.bins(columns).to(rows.lowest.dtype)


def _rotation_vectors(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return turns about the fixed axes x, y, z as rotation vectors; `rotation` in torch."""
    (sx, cx), (sy, cy), (sz, cz) = ((it.sin(), it.cos()) for it in (x / 2, y / 2, z / 2))
    w = cz * cy * cx + sz * sy * sx
    vector = (cz * cy * sx - sz * sy * cx, cz * sy * cx + sz * cy * sx, sz * cy * cx - cz * sy * sx)
    sine = (vector[0].square() + vector[1].square() + vector[2].square()).sqrt()
    angle = 2 * torch.atan2(sine, w.abs())
    factor = (angle / sine.clamp(min=_TINY)).where(sine > 0, 2.0)
    factor = factor.where(w >= 0, -factor)
    return tuple(factor * it for it in vector)
