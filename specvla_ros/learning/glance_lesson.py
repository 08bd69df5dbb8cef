"""
What a glance network is taught: its target's own tokens, blurred over the neighbouring bins.

So a guess that is one bin off costs less than one that is far off. Used by `specvla train glance`,
`specvla adapt` and the node that learns while it runs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

BLUR, DROPOUT = 1.5, 0.1  # standard deviation in bins; share of the wide layers' numbers


def blurred(bins: int, deviation: float) -> Tensor:
    """Label of each bin [bins, bins]: a Gaussian around it; deviation: in bins."""
    if not deviation:
        return torch.eye(bins)
    numbers = torch.arange(bins)
    labels = torch.exp(-0.5 * ((numbers[:, None] - numbers) / deviation) ** 2)
    return labels / labels.sum(1, keepdim=True)


def lesson_loss(logits: Tensor, columns: Tensor, labels: Tensor) -> Tensor:
    """
    Mean cross entropy of frames, nats a token.

    logits: float32 [B, L, bins]; columns: int64 [B, L], the target's own bins; labels: `blurred`.
    """
    # Both come in the form [frames · L, bins].
    return functional.cross_entropy(logits.flatten(0, 1), labels[columns.flatten()])


def dropout(random: np.random.Generator, batch: int, width: int, share: float) -> Tensor:
    """Factors [2, B, width] for the two wide layers; a share of them is 0. Drawn by numpy."""
    kept = 1 - share
    return torch.from_numpy(random.random((2, batch, width), np.float32) < kept) / kept
