"""The keys and values of a decoding session, in one tensor allocated once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_STEP = 32  # entries


class StaticCache:
    """
    Stores keys and values in one tensor; when it is full a larger one takes its place.

    Committed entries come first. A pass writes its entries to slots behind this border; only
    ``commit`` and ``advance`` move it. The mask of a pass says which row sees which entry. Of a
    tree pass only the accepted path stays: one gather over all layers closes the gaps, and the
    next pass overwrites the rest. So a rejected draft costs nothing to take back.

    storage: [layers, 2 (key, value), 1, key/value heads, capacity, head_dim]. The last slot is
    never committed: it takes what is written for padding.
    columns: int64 [capacity], the slots' numbers: compared with rows they make a mask.
    """

    def __init__(
        self, layers: int, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device,
        capacity: int = _STEP,
    ) -> None:
        self.length = 0
        shape = layers, 2, 1, heads, capacity, head_dim
        self._allocate(torch.zeros(shape, dtype=dtype, device=device))

    def _allocate(self, storage: Tensor) -> None:
        self.storage = storage
        self.columns = torch.arange(storage.shape[4], device=storage.device)
        self._layers = tuple((layer, layer[0], layer[1]) for layer in storage.unbind(0))

    @property
    def capacity(self) -> int:
        """Slots there are."""
        return self.storage.shape[4]

    @property
    def spare(self) -> int:
        """The slot for padding."""
        return self.capacity - 1

    def forget(self) -> None:
        """Forget everything; the memory stays, and the numbers in it."""
        self.length = 0

    def reset(self) -> None:
        """Forget everything, for passes that read all slots."""
        self.forget()
        # A masked slot is still multiplied by zero: a NaN of an earlier action would stay NaN.
        self.storage.zero_()

    def reserve(self, entries: int, room: int = _STEP) -> bool:
        """
        Make room for this many entries, keeping the committed ones.

        room: entries to leave beyond them when it has to grow, for the passes that follow.
        Returns whether the memory has moved. It never shrinks.
        """
        if entries < self.capacity:
            return False
        shape = list(self.storage.shape)
        shape[4] = ((entries + room) // _STEP + 1) * _STEP
        grown = self.storage.new_zeros(shape)
        grown[..., : self.length, :] = self.storage[..., : self.length, :]
        self._allocate(grown)
        return True

    def at(self, slots: Tensor, width: int | None = None) -> CacheWriter:
        """
        Return what a pass writes through: its row i goes to slot ``slots[i]``, int64 [S].

        width: how many slots the pass reads, the first ones; None = all.
        """
        if width is None:
            return CacheWriter(self._layers, slots)
        read = self.storage.narrow(4, 0, width).flatten(0, 1).unbind(0)
        return CacheWriter(tuple(zip(self.storage.unbind(0), read[::2], read[1::2], strict=True)),
                           slots)

    def commit(self, entries: Sequence[int]) -> None:
        """
        Keep these entries of the last pass, in this order, behind the committed ones.

        entries: ascending indices, 0 = the first slot behind the border.
        """
        start, count = self.length, len(entries)
        if count and entries[-1] != count - 1:  # else they stand where they belong already
            source = torch.tensor(entries).to(self.storage.device, non_blocking=True) + start
            self.storage[..., start : start + count, :] = self.storage.index_select(4, source)
        self.length += count

    def advance(self, entries: int) -> None:
        """Keep the first ``entries`` behind the border."""
        self.length += entries


class CacheWriter(NamedTuple):
    """Writes the keys and values of one pass into given slots of the cache."""

    layers: tuple[tuple[Tensor, Tensor, Tensor], ...]  # storage; keys and values to read
    rows: Tensor

    def put(self, entries: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """
        Write a layer's new entries [S, 2, heads, d], keys first, at once; return its keys and
        values, [1, heads, width, d] each.
        """
        layer, keys, values = self.layers[layer_idx]
        layer.index_copy_(3, self.rows, entries.permute(1, 2, 0, 3).unsqueeze(1))
        return keys, values

    def slots(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Return a layer's storage [2, 1, heads, capacity, d] and the slots to write, [S]."""
        return self.layers[layer_idx][0], self.rows
