"""
Token ⇄ bin ⇄ normalised action ⇄ data-set units.

The range [-1, 1] is cut at ``linspace(-1, 1, 256)``: 256 edges, but only 255 bins between them,
whose midpoints are the values an action can take. ``digitize`` counts from 1 and the ids count
downwards from the end of the vocabulary, so ``id = vocab - digitize(value)``: digitize gives 1
… 256, where 256 happens at exactly +1 only. That is why decoding subtracts one more
(``vocab - id - 1``) and clips at 254: the two lowest ids (31744 and 31745 of Llama-2's 32000)
mean the same value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import CheckpointError
from .json_file import Fields, shown

_MOST = 1e30  # far below float32's end: sums and differences stay finite
_HUGE = 1e300  # an int of more digits is no float


@lru_cache
def _edges(n_bins: int) -> NDArray[np.float64]:
    """Edges of the bins: asked for by drafters several times an action."""
    return np.linspace(-1.0, 1.0, n_bins, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class ActionTokenizer:
    """
    The last ``n_bins`` ids of a vocabulary as values in [-1, 1].

    ``vocab_size`` counts no rows of padding: 32000 for Llama-2. Source: arXiv 2406.09246,
    section 3.2.
    """

    vocab_size: int
    n_bins: int = 256

    @property
    def first_id(self) -> int:
        """Smallest action id (31744): the largest value."""
        return self.vocab_size - self.n_bins

    @property
    def last_id(self) -> int:
        """Largest action id (31999): the smallest value."""
        return self.vocab_size - 1

    def encode(self, normalised: ArrayLike) -> NDArray[np.int64]:
        """
        Ids of normalised values; values outside [-1, 1] are clipped to it.

        Raises ValueError for NaN, which ``digitize`` would take for the largest value.
        """
        clipped = np.clip(np.asarray(normalised, dtype=np.float64), -1.0, 1.0)
        if np.isnan(clipped).any():
            raise ValueError('an action to encode holds NaN, must be numbers')
        return (self.vocab_size - np.digitize(clipped, _edges(self.n_bins))).astype(np.int64)

    def decode(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Normalised bin centres of ids; an id that is no action token gives the nearest."""
        edges = _edges(self.n_bins)
        centres = (edges[:-1] + edges[1:]) / 2
        return centres[self.bins(np.asarray(ids))].astype(np.float32)

    def bins(self, ids: Any) -> Any:
        """
        Index of the bin centre, 0 (lowest value) … n_bins - 2, of ids.

        Works on numpy arrays, torch tensors and ints alike. Differences of it are the bin
        distances of relaxed acceptance.
        """
        bins = self.vocab_size - 1 - ids
        if isinstance(bins, int):
            return min(max(bins, 0), self.n_bins - 2)
        return bins.clip(0, self.n_bins - 2)

    def is_action(self, ids: Any) -> Any:
        """Whether ids are action tokens: elementwise on numpy, torch or an int."""
        return (ids >= self.first_id) & (ids <= self.last_id)


@dataclass(frozen=True, slots=True)
class ActionStatistics:
    """
    The 1st and 99th percentile of a data set's actions, one per action dimension [D].

    Dimensions with a false ``mask`` (the gripper) are left as they are.
    """

    q01: NDArray[np.float64]
    q99: NDArray[np.float64]
    mask: NDArray[np.bool_]

    @classmethod
    def from_dict(cls, statistics: Mapping[str, Any], key: str) -> ActionStatistics:
        """
        Read ``norm_stats[key]['action']``. Without a ``mask`` every dimension is scaled.

        Raises CheckpointError, naming data set and field, unless q01, q99 and mask are lists of
        one length, the first two of numbers, mask of true and false.
        """
        fields = Fields(statistics, f'statistics of {shown(key)}', 'action')
        q01, q99 = (_numbers(fields, name) for name in ('q01', 'q99'))
        mask = fields.items('mask', [True] * len(q01))
        if not all(isinstance(flag, bool) for flag in mask):
            fields.refuse('mask', 'a list of true and false')
        if not len(q01) == len(q99) == len(mask) or not q01:
            raise CheckpointError(
                f'statistics of {shown(key)}: lengths of q01 {len(q01)}, q99 {len(q99)} and mask '
                f'{len(mask)} differ or are 0, must be one length: the action dimension'
            )
        return cls(np.array(q01), np.array(q99), np.array(mask, dtype=bool))

    def check_numbers(self, key: str) -> None:
        """
        Raise CheckpointError, naming data set and field, unless actions can be made of them.

        All must be finite and q01 <= q99. Equal ones are right: a dimension that never moves.
        """
        for name, values in (('q01', self.q01), ('q99', self.q99)):
            for index, value in enumerate(values.tolist()):
                if not abs(value) <= _MOST:
                    raise CheckpointError(
                        f'statistics of {shown(key)}: action {name}[{index}] is {value!r}, must '
                        f'be a finite number of at most {_MOST:g} either way')
        for index, (low, high) in enumerate(
                zip(self.q01.tolist(), self.q99.tolist(), strict=True)):
            if low > high:
                raise CheckpointError(
                    f'statistics of {shown(key)}: action q01[{index}] is {low!r}, must be at most '
                    f'q99[{index}], {high!r}')

    @property
    def action_dim(self) -> int:
        """Number of action dimensions."""
        return self.q01.size

    def unnormalize(self, normalised: ArrayLike) -> NDArray[np.float32]:
        """[..., D] in [-1, 1] → data-set units: 0.5·(a+1)·(q99-q01)+q01 where masked."""
        values = np.asarray(normalised, dtype=np.float64)
        scaled = 0.5 * (values + 1) * (self.q99 - self.q01) + self.q01
        return np.where(self.mask, scaled, values).astype(np.float32)

    def normalize(self, values: ArrayLike) -> NDArray[np.float32]:
        """
        [..., D] in data-set units → clipped to [-1, 1].

        A dimension that never moves (q99 = q01) normalises to 0.
        """
        values = np.asarray(values, dtype=np.float64)
        span = self.q99 - self.q01
        still = span == 0
        scaled = 2 * (values - self.q01) / np.where(still, 1.0, span) - 1
        scaled = np.where(still, 0.0, scaled)
        return np.clip(np.where(self.mask, scaled, values), -1.0, 1.0).astype(np.float32)


def _numbers(fields: Fields, name: str) -> list[float]:
    """List of numbers, NaN and infinity among them."""
    numbers = fields.items(name)
    for index, value in enumerate(numbers):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise fields.error(f'{name}[{index}] is {shown(value)}, must be a number')
    return [float(max(-_HUGE, min(value, _HUGE))) if isinstance(value, int) else value
            for value in numbers]
