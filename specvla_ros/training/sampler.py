"""Choose the frames of a training step: shuffled epochs over a data set that may grow."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class Sampler:
    """
    Every frame once an epoch, in an order that only seed, epoch and number of frames decide.

    The number of frames changes between epochs only (`begin`). An epoch's rest that doesn't fill
    a batch is left out.
    """

    seed: int
    batch: int
    frames: int = 0
    epoch: int = -1
    position: int = 0
    _order: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def at_end(self) -> bool:
        """Whether the epoch has no further batch."""
        return self.epoch < 0 or self.position + self.batch > self.frames

    def begin(self, frames: int) -> None:
        """Begin the next epoch, over this many frames."""
        if frames < self.batch:
            raise ValueError(f'{frames} training frames, must be at least a batch of {self.batch}')
        self.epoch, self.position, self.frames = self.epoch + 1, 0, frames
        self._shuffle()

    def next(self) -> NDArray[np.int64]:
        """Running indices of the next batch."""
        batch = self._order[self.position:self.position + self.batch]
        self.position += self.batch
        return batch

    def state_dict(self) -> dict[str, int]:
        """Where it is."""
        return {'epoch': self.epoch, 'position': self.position, 'frames': self.frames}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self.epoch, self.position, self.frames = (
            state['epoch'], state['position'], state['frames'])
        self._shuffle()

    def _shuffle(self) -> None:
        self._order = np.random.default_rng([self.seed, self.epoch]).permutation(self.frames)
