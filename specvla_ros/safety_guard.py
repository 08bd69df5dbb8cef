"""
The safety envelope inside the acceptance: which bins the target may choose from.

Translation and rotation are vectors, so what is allowed of y depends on the x that was said. A bin
is allowed if the vector can be completed inside the envelope; inside is what `safety.fit` leaves
unchanged. One completion is tried, the one that asks least of the limits: along the step before,
as far as the length allows. It is made axis by axis, so the next axis of a completion that is
inside is itself an allowed bin: no prefix of allowed bins is a dead end.

Bins are a grid. Where no bin of a vector is inside the envelope, only the bin nearest to zero
motion is allowed. `safety.fit` shortens the rest: it stays the last check.

All of it is a function of tensors whose shapes never change, and the limits are its input: an
envelope that changes captures no graph anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import chain
import math
from typing import Any, NamedTuple, TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from specvla_ros.action_space import ActionSpace
from specvla_ros.bin_limits import BinValues, NUMBERS, part_numbers, PARTS
from specvla_ros.safety import StepLimits

if TYPE_CHECKING:
    from specvla_ros.decoding.guard import Guard

Array = Any  # a tensor, or on the host an array

_TINY = 1e-30  # 0 / 0 is 1: to a step before of no length any share of it is as near
_EXACT = 1e-9  # of a bin: what rounding does to one that stands on a wall
_NONE = 1e6  # no bin
_LAST = 254.0  # the last bin


@dataclass(frozen=True, slots=True)
class EnvelopeGuard:
    """
    Allow the bins that the safety envelope holds: a `guard.Guard`.

    rotation: what the three angles of an action are, one of `data_sets.ROTATIONS`.
    other: a guard that must allow a bin as well; where both leave none, its answer counts.
    """

    rotation: str = 'rotation_vector'
    other: Guard | None = None

    def allowed(self, said: Tensor, position: Tensor, state: Tensor, space: ActionSpace) -> Tensor:
        """Return the bins inside, bool [R, bins]; the state's last numbers: `guard_numbers`."""
        bins = _bins(space.tokenizer, said.device)
        inside = self._inside(self._rows(said, position, state, space), bins)
        if self.other is not None:
            theirs = self.other.allowed(said, position, state, space)
            both = inside & theirs
            inside = both.where(both.any(-1, keepdim=True), theirs)
        return inside

    def _rows(self, said: Tensor, position: Tensor, state: Tensor, space: ActionSpace) -> _Rows:
        """Pick what each row needs of the limits and of what was said."""
        axis = position % space.action_dim
        places, before = (it.index_select(0, axis) for it in _places(said.device))
        if space.chunk == 1:
            rows = state[-_PREPARED:][places]
        else:
            rows = self._moved(said, position, state[-_RAW:], space).gather(1, places)
        bins = space.tokenizer.bins(said.gather(1, (position - axis)[:, None] + before))
        known = rows[:, 3:6].addcmul(rows[:, :3], bins.to(rows.dtype))
        columns = (it.T[:, :, None].unbind(0) for it in (known, rows[:, 6:]))
        return _Rows._make(chain.from_iterable(columns))

    def _moved(
        self, said: Tensor, position: Tensor, numbers: Tensor, space: ActionSpace
    ) -> Tensor:
        """Let the steps said before a row's own move the walls and be the step before."""
        table, constants = numbers.split((PARTS * NUMBERS, len(_CONSTANTS)))
        table = table.view(PARTS, NUMBERS)
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
        return torch.cat((rows.flatten(1), constants.expand(len(said), -1)), 1)

    def _inside(self, rows: _Rows, bins: Tensor) -> Tensor:
        """Return the bins whose vectors can be completed inside, bool [R, bins]."""
        x = torch.addcmul(rows.bin_x, bins, rows.unit_x)
        x = torch.addcmul(rows.lowest_x, x, rows.size_x)
        length, along = x * x, x * rows.before_x
        way = _way(length, along, rows.shorter, rows.open_x, rows.tiny_x, rows.share_x)
        y = torch.addcmul(rows.zero_y, way, rows.scale_y).addcmul_(bins, rows.unit_y)
        y = y.round_().clamp(rows.first_y, rows.last_y)
        y = torch.addcmul(rows.lowest_y, y, rows.size_y)
        length, along = length.addcmul_(y, y), along.addcmul_(y, rows.before_y)
        way = _way(length, along, rows.shorter, rows.open_y, rows.tiny_y, rows.share_y)
        z = torch.addcmul(rows.zero_z, way, rows.scale_z).addcmul_(bins, rows.unit_z)
        z = z.round_().clamp(rows.first_z, rows.last_z)
        z = torch.addcmul(rows.lowest_z, z, rows.size_z)
        if self.rotation == 'euler_xyz':
            turned = zip(_rotation_vectors(x, y, z), (x, y, z), strict=True)
            x, y, z = (turn.where(rows.turns > 0, it) for turn, it in turned)
            length = torch.addcmul(x * x, y, y)
            along = torch.addcmul(x * rows.before_x, y, rows.before_y)
        length, along = length.addcmul_(z, z), along.addcmul_(z, rows.before_z)
        way = torch.addcmul(rows.tiny_z, along, rows.share_z).clamp_(0.0, 1.0)
        # |v - way · before|² = length - 2 way (along - way known / 2)
        off = torch.addcmul(length, way, along.addcmul_(way, rows.half), value=-2)
        inside = (length <= rows.longest) & (off <= rows.change)
        inside &= bins.clamp(rows.first, rows.last) == bins
        return inside.where(inside.any(-1, keepdim=True), bins == rows.rest)


def _way(
    length: Tensor, along: Tensor, shorter: Tensor, behind: Tensor, tiny: Tensor, share: Tensor
) -> Tensor:
    """How far a completion goes along the step before, 0 … 1: no longer than it may be."""
    most = (shorter - length).mul_(behind).clamp_(0.0, 1.0).sqrt_()
    return torch.addcmul(tiny, along, share).clamp_(min=0.0).minimum(most)


class _Rows(NamedTuple):
    """
    Of each row the vector that its next token belongs to, and its limits: [R, 1] each, m or rad.

    The next axis takes the bins as they are; an axis before it was said; of one behind it the
    completion decides. So ``bin``, ``unit`` and the bounds of an axis are: 0, 1 and all bins where
    it is next; the bin said, 0 and nothing else; those of the walls, and 0.
    """

    bin_x: Tensor
    first_y: Tensor
    last_y: Tensor
    unit_x: Tensor
    unit_y: Tensor
    unit_z: Tensor
    zero_y: Tensor  # bin of no motion, bins of the step before
    zero_z: Tensor
    scale_y: Tensor
    scale_z: Tensor
    first_z: Tensor
    last_z: Tensor
    first: Tensor  # of the next axis the bins between the walls; none where a later one has none
    last: Tensor
    rest: Tensor  # bin nearest to no motion
    lowest_x: Tensor  # the grid: value of bin 0, size of a bin
    lowest_y: Tensor
    lowest_z: Tensor
    size_x: Tensor
    size_y: Tensor
    size_z: Tensor
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
    half: Tensor  # - its square / 2
    shorter: Tensor  # squares: how long a completion is made, how long the vector may be, and
    longest: Tensor
    change: Tensor  # how far from the way to the step before
    turns: Tensor  # 1 of a rotation


# What `prepared` works out, by name: of each axis, of the vector; and what never changes.
_OF_AXIS = ('lowest', 'size', 'before', 'share', 'tiny', 'zero', 'scale', 'low', 'high', 'last',
            'rest')
_OF_PART = ('open_x', 'open_y', 'half', 'shorter', 'longest', 'change')
_CONSTANTS = {'0': 0.0, '1': 1.0, 'all': _LAST, 'inf': math.inf}
_WIDTH = 3 * len(_OF_AXIS) + len(_OF_PART)
_RAW, _PREPARED = (PARTS * width + len(_CONSTANTS) for width in (NUMBERS, _WIDTH))
# Where a row's numbers come from, by its next axis: x, y, z. Of others the name is the same.
_SOURCES = {
    'bin_x': ('0', '0', '0'), 'first_y': ('low_y', '0', '0'), 'last_y': ('high_y', 'all', '0'),
    'unit_x': ('1', '0', '0'), 'unit_y': ('0', '1', '0'), 'unit_z': ('0', '0', '1'),
    'zero_y': ('zero_y', '0', '0'), 'zero_z': ('zero_z', 'zero_z', '0'),
    'scale_y': ('scale_y', '0', '0'), 'scale_z': ('scale_z', 'scale_z', '0'),
    'first_z': ('low_z', 'low_z', '0'), 'last_z': ('high_z', 'high_z', 'all'),
    'first': ('low_x', 'low_y', 'low_z'), 'last': ('last_x', 'last_y', 'last_z'),
    'rest': ('rest_x', 'rest_y', 'rest_z'),
}
# Whether x, y and y again of the vector were said: what was is added to the first three.
_SAID = (('0', '1', '1'), ('0', '0', '1'), ('0', '0', '1'))
_GRIPPER = {'last': 'all', 'longest': 'inf', 'change': 'inf'}  # every bin is inside


@cache  # for good: a graph goes on reading them
def _places(device: torch.device) -> tuple[Tensor, Tensor]:
    """
    Where a row's numbers stand among those prepared, int64 [7, 3 + fields], by the next dimension;
    and where among the tokens of its step x, y, y of its vector, int64 [7, 3].
    """
    names = [f'{name}_{axis}' for name in _OF_AXIS for axis in 'xyz'] + list(_OF_PART)
    places = []
    for part in range(PARTS):
        at = {name: part * _WIDTH + number for number, name in enumerate(names)}
        at |= {name: PARTS * _WIDTH + number for number, name in enumerate(_CONSTANTS)}
        at['turns'] = at[str(part)]
        for axis in range(3):
            places.append([at[it[axis]] for it in _SAID] + [
                at[_SOURCES[name][axis] if name in _SOURCES else name] for name in _Rows._fields])
    places.append([at['0']] * 3 + [at[_GRIPPER.get(name, '0')] for name in _Rows._fields])
    tokens = [[0, 1, 1]] * 3 + [[3, 4, 4]] * 3 + [[0, 0, 0]]
    return torch.tensor(places).to(device), torch.tensor(tokens).to(device)


@cache
def _bins(tokenizer: Any, device: torch.device) -> Tensor:
    """Bins of the action tokens, float64 [bins], by id."""
    ids = torch.arange(tokenizer.n_bins) + tokenizer.first_id
    return tokenizer.bins(ids).to(torch.float64).to(device)


def prepared(
    xp: Any, low: Array, high: Array, before: Array, lowest: Array, size: Array, squares: Array
) -> Array:
    """
    Work out what does not depend on the tokens of a vector, [..., 39] in the order of `_OF_AXIS`.

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
                    xp.where(lowest <= high, 0.0, -_NONE)).clip(None, _LAST)
    x, y, z = ((first <= last)[..., axis] for axis in range(3))  # is a bin between the walls?
    there = xp.stack((x & y & z, y & z, z), axis=-1)
    low, high = first.clip(None, _LAST), last.clip(0.0, None)
    rest = xp.minimum(xp.maximum(xp.round(zero), low), high)
    known = (before * before).cumsum(axis=-1)
    share = 1 / (known + _TINY)
    total = known[..., 2:]
    return xp.concatenate((
        lowest, size, before, share, _TINY * share, zero, before * per, low, high,
        xp.where(there, last, -_NONE), rest, 1 / (total - known[..., :2] + _TINY),
        -total / 2, squares), axis=-1)


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
    return (*numbers.ravel().tolist(), *_CONSTANTS.values())


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
