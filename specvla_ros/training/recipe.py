"""What the trainer must know of a network: its data, its loss, its measurement, its settings."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from specvla_ros.errors import counted
from specvla_ros.training.accuracy import TokenAccuracy


class Loss(Protocol):
    """Losses of some frames, a dataclass: `total` carries the gradient, `tokens` is shown."""

    @property
    def total(self) -> Tensor: ...

    @property
    def tokens(self) -> Tensor: ...


class FrameSet(Protocol):
    """Frames under one running index."""

    @property
    def n_episodes(self) -> int:
        """Episodes they are of."""
        ...

    def __len__(self) -> int: ...


class Accuracy(Protocol):
    """How near a network's guesses on held-out frames come."""

    def point(self) -> dict[str, Any]:
        """Return its part of a point of the learning curve."""
        ...

    def lines(self, action_dim: int) -> list[str]:
        """Return a table for people."""
        ...


class Recipe(ABC):
    """
    One network and how it is taught; `Trainer` does the rest.

    network: what is trained, on the device that computes; frames, held_out: those to train on and
    those to measure with; out: folder it is written to; keep: folders in that place which are not
    this network's.
    """

    keep: ClassVar[tuple[str, ...]] = ()
    only_trained: bool = False  # what is frozen need not be in a saved state

    network: nn.Module
    frames: FrameSet
    held_out: FrameSet
    out: Path

    @abstractmethod
    def loss(
        self, network: nn.Module, chosen: NDArray[np.int64], random: np.random.Generator,
        done: float,
    ) -> Loss:
        """
        Return the loss of training frames; called from several threads.

        network: the copy to compute with; chosen: running indices of the frames; random: for all
        that is drawn, so that a resumed training draws the same; done: share of the training.
        """

    @abstractmethod
    def distances(self, network: nn.Module, chosen: NDArray[np.int64]) -> Tensor:
        """
        Bins between what the network says to held-out frames and what it should, int [N, …].

        Called from several threads, without gradients.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What a resumed training must have in common with the interrupted one."""

    @abstractmethod
    def write(self, network: nn.Module, folder: Path, point: dict[str, Any]) -> None:
        """Write the averaged weights to an empty folder; point: what was measured last."""

    def accuracy(self, distances: Tensor) -> Accuracy:
        """Sum up the distances of all held-out frames."""
        return TokenAccuracy.of(distances)

    def curve(self, losses: Sequence[Loss]) -> dict[str, float | None]:
        """Return what a point of the learning curve says of the losses since the last."""
        return {'loss': mean([loss.tokens for loss in losses])}

    def refresh(self, at_end: bool) -> bool:
        """
        Take in new frames if there are any; return whether to begin a new epoch over them.

        at_end: an epoch ends anyway.
        """
        return False

    def state(self) -> dict[str, Any]:
        """What this recipe itself needs to go on: plain numbers, texts, lists and tensors."""
        return {}

    def measured_frames(self) -> NDArray[np.int64]:
        """Running indices of the held-out frames that a measurement takes."""
        return np.arange(len(self.held_out))

    def title(self) -> str:
        """Say what is trained on what."""
        return (f'{self.n_parameters() / 1e6:.2f} M parameters, '
                f'{counted(len(self.frames), "training frame")} of '
                f'{counted(self.frames.n_episodes, "episode")}, '
                f'{counted(len(self.held_out), "frame")} held out')

    def n_parameters(self) -> int:
        """Numbers in the network that is written."""
        return sum(p.numel() for p in self.network.parameters())


def mean(values: Sequence[Tensor]) -> float | None:
    """Mean of the scalars that are finite, as those of skipped steps may not be; None of none."""
    if not values:
        return None
    together = torch.stack(list(values))
    finite = together[together.isfinite()]
    return float(finite.mean()) if len(finite) else None
