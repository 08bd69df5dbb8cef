"""The keys and values of a decoding session, in one tensor allocated once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class StaticCache:
    """
    Committed entries first, then those of the pass under way; only ``commit`` moves the border.

    A pass writes behind the border and reads everything up to its own end. Of a tree pass only
    the accepted path stays: one gather over all layers closes the gaps, and the rest is
    overwritten by the next pass. So a rejected draft costs nothing to take back.

    storage: [layers, 2 (key, value), 1, key/value heads, capacity, head_dim].
    """

    def __init__(
        self,
        layers: int,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        capacity: int = 64,
    ) -> None:
        self.storage = torch.zeros(
            (layers, 2, 1, heads, capacity, head_dim), dtype=dtype, device=device
        )
        self.length = 0
        self._write: tuple[tuple[Tensor, Tensor], ...] = ()
        self._read: tuple[tuple[Tensor, Tensor], ...] = ()

    @property
    def capacity(self) -> int:
        """Entries there is room for."""
        return self.storage.shape[4]

    def reset(self) -> None:
        """Forget everything; the memory stays."""
        self.length = 0

    def reserve(self, entries: int) -> None:
        """Make room for this many entries, keeping the committed ones."""
        if entries <= self.capacity:
            return
        # The next multiple of 64 and one more: after the first prefill nothing grows any more.
        shape = list(self.storage.shape)
        shape[4] = (entries // 64 + 2) * 64
        grown = self.storage.new_zeros(shape)
        grown[..., : self.length, :] = self.storage[..., : self.length, :]
        self.storage = grown

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *_: object
    ) -> tuple[Tensor, Tensor]:
        """
        Write a layer's new entries [1, heads, S, d]; return its [1, heads, length + S, d].

        The contract of transformers' ``Cache.update``. Layers come in order, from 0.
        """
        if layer_idx == 0:
            self._open(key.shape[2])
        written_key, written_value = self._write[layer_idx]
        written_key.copy_(key)
        written_value.copy_(value)
        return self._read[layer_idx]

    def _open(self, entries: int) -> None:
        """Make the views of a pass for all layers at once: a slice per layer costs more."""
        start, stop = self.length, self.length + entries
        self.reserve(stop)
        read = self.storage[..., :stop, :]
        write = read[..., start:, :]
        self._read = tuple(layer.unbind(0) for layer in read.unbind(0))
        self._write = tuple(layer.unbind(0) for layer in write.unbind(0))

    def commit(self, entries: Sequence[int]) -> None:
        """
        Keep these entries of the last pass, in this order, behind the committed ones.

        entries: ascending indices, 0 = the first entry the pass wrote.
        """
        start, count = self.length, len(entries)
        if count and entries[-1] != count - 1:  # else they stand where they belong already
            source = torch.tensor(entries, device=self.storage.device) + start
            self.storage[..., start : start + count, :] = self.storage.index_select(4, source)
        self.length += count

    def advance(self, entries: int) -> None:
        """Keep the first ``entries`` of the last pass."""
        self.length += entries

    def truncate(self, length: int) -> None:
        """Take back everything from this entry on."""
        self.length = length
