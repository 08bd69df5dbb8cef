"""A copy of a glance network that learns, while the network itself goes on guessing."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn, Tensor

from specvla_ros.decoding.drafters import GlanceHead
from specvla_ros.learning.glance_lesson import BLUR, blurred, DROPOUT, dropout, lesson_loss

BATCH = 16  # actions a step: about 5 ms on one core, whatever the target's size
_RATE, _WEIGHT_DECAY, _BETAS, _CLIP = 1e-3, 0.05, (0.9, 0.98), 1.0
_AVERAGE = 0.98  # decay of the averaged weights per step
# The layers behind the condensed patches. Those before them stay, so that an action is kept as a
# few kB. Measured on 1212 frames of a moved camera, passes alone in the last half: 3.3 with these
# layers, 3.3 with all.
LEARNING_LAYERS = ('first', 'second', 'mixture', 'shapes')


class Shadow:
    """
    Learns from batches of actions; `averaged` is the network to try.

    :param head: where it begins; it is copied, in float32, to the CPU
    """

    def __init__(self, head: GlanceHead, random: np.random.Generator) -> None:
        self._random = random
        self._labels = blurred(head.config.bins, BLUR)
        self.restart(head)

    def restart(self, head: GlanceHead) -> None:
        """Begin anew from a head."""
        self._head, self.averaged = cpu_copy(head), cpu_copy(head)
        self._learning = list(_learning(self._head))
        for parameter in self._learning:
            parameter.requires_grad_(True)
        self._optimizer = torch.optim.AdamW(
            self._learning, lr=_RATE, weight_decay=_WEIGHT_DECAY, betas=_BETAS)
        self.steps = 0

    def learn(self, features: Tensor, columns: Tensor) -> None:
        """Take one step on a batch: float32 [B, F], int64 [B, L]."""
        kept = dropout(self._random, len(features), self._head.config.width, DROPOUT)
        loss = lesson_loss(self._head.guess(features, kept), columns, self._labels)
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._learning, _CLIP)
        self._optimizer.step()
        with torch.no_grad():
            for average, now in zip(_learning(self.averaged), self._learning, strict=True):
                average.lerp_(now, 1 - _AVERAGE)
        self.steps += 1


def cpu_copy(head: GlanceHead) -> GlanceHead:
    """Return a head of its own in float32 on the CPU, without gradients."""
    return copy.deepcopy(head).to('cpu', torch.float32).requires_grad_(False)


def put_in_place(source: GlanceHead, head: GlanceHead) -> None:
    """
    Give a head the numbers of another, where its own stand: its tensors stay the same.

    So recorded CUDA graphs, which know addresses, read them as well, and so does every decoder
    that drafts with it. Only to be called between two actions.
    """
    with torch.no_grad():
        for new, old in zip(_learning(source), _learning(head), strict=True):
            old.copy_(new)


def _learning(head: GlanceHead) -> list[nn.Parameter]:
    return [parameter for layer in LEARNING_LAYERS
            for parameter in getattr(head, layer).parameters()]
