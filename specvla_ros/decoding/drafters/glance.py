"""
A guess at first glance: from the image's patches, before the target has read them.

The prefill has to run anyway, and a guess in it costs only its rows. If the whole guess holds, the
action takes one pass. Otherwise the same glance guesses the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from specvla_ros.action_space import ActionSpace
from specvla_ros.decoding.tree import TokenTree
from specvla_ros.errors import SpecVLAError
from specvla_ros.graphs import Padded
from specvla_ros.openvla.model import OpenVLA

from .drafter import DraftContext, Drafter, DRAFTERS
from .glance_head import GlanceConfig, GlanceHead
from .side_by_side import chains

# What a bin's own chance counts beside its stretch's. Around a sure token all stretches are
# equally likely. Measured: guesses are off by 1.4 to 2.2 bins instead of 4, as often accepted.
_OWN = 0.1

__all__ = ['GlanceSettings', 'GlanceConfig', 'GlanceDrafter', 'GlanceHead']


@DRAFTERS.register('glance')
@dataclass(frozen=True, slots=True)
class GlanceSettings:
    """
    Settings of the drafter ``glance``: how its guess becomes a tree.

    within: guess the middle of the most probable stretch of 2 · within + 1 bins, of equal ones the
    likeliest bin; 0 = the most probable bin. A rule of r bins is served best by within = r.
    branches: number of guesses at the action's first token, in the prefill; the tokens behind
    them are the same.
    """

    weights: ClassVar[str | None] = 'glance'

    within: int = 0
    branches: int = 1

    def __post_init__(self) -> None:
        for setting, least in zip(fields(self), (0, 1), strict=True):
            value = getattr(self, setting.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise SpecVLAError(
                    f'{setting.name} of the drafter glance is {value!r}, must be a whole number '
                    f'>= {least}'
                )

    @staticmethod
    def read(folder: Path, target: OpenVLA) -> GlanceHead:
        """Read the network."""
        return GlanceHead.from_pretrained(folder, target)

    def drafter(self, weights: GlanceHead) -> GlanceDrafter:
        """Guess with a network by these settings."""
        return GlanceDrafter(weights, self)


class GlanceDrafter(Drafter):
    """Guess a whole action from the image's patches, before the target has read them."""

    def __init__(self, head: GlanceHead, settings: GlanceSettings) -> None:
        self.head = head
        self.settings = settings
        self._guessed = torch.zeros((0, 0), dtype=torch.int64)  # [branches, L]
        self._finite: Tensor | None = None

    def guess(self, context: DraftContext) -> TokenTree:
        """Look at the prompt; guess the action from its first token on."""
        prompt = context.prompt
        guessed, finite = context.target.runner.run(
            self._look, Padded(prompt, (1,)), prompt.shape[1], space=context.space)
        self._guessed, self._finite = map(context.target.runner.safe_copy, (guessed, finite))
        return self._tree(context, self.settings.branches)

    def propose(self, context: DraftContext) -> TokenTree:
        """Guess the tokens after those known; the guess doesn't depend on these."""
        return self._tree(context, 1)

    def note_new_weights(self, weights: object) -> bool:
        """Say whether these are its weights; it counts nothing."""
        return weights is self.head

    def _tree(self, context: DraftContext, branches: int) -> TokenTree:
        """Make a tree: some guesses at the next token, each with the same guesses behind it."""
        known, (most, length) = len(context.tokens), self._guessed.shape
        end = min(known + context.max_depth, length)
        if known >= end:
            return TokenTree.empty()
        paths = self._guessed[:1, known:end]
        if (branches := min(branches, most)) > 1:
            paths = paths.repeat(branches, 1)
            paths[:, 0] = self._guessed[:branches, known]
        return chains(paths, 'glance', self._finite)

    def _look(
        self, prompt: Tensor, rows: int | Tensor, *, space: ActionSpace
    ) -> tuple[Tensor, Tensor]:
        """
        Guess at each token of the action, the best guesses first: ids int64 [branches, L].

        prompt: [1, S, h], of which the first ``rows`` are no padding. Also returns whether the
        network's numbers are finite, bool [1].
        """
        patches = self.head.config.patches
        text = prompt[:, 1 + patches :]
        if isinstance(rows, Tensor):  # else there is no padding
            real = torch.arange(text.shape[1], device=text.device) < rows - (1 + patches)
            text = text.masked_fill(~real[:, None], 0) * (text.shape[1] / real.sum())
        text = text.mean(1)
        logits = self.head(prompt[:, 1 : 1 + patches], text)[0].float()
        chances = logits.softmax(-1)
        total = chances.sum()[None]
        finite = total == total  # a logit that is NaN or +inf makes chances NaN
        reach = min(self.settings.within, chances.shape[1])
        if reach:
            near = 2 * reach + 1
            around = functional.avg_pool1d(chances, near, 1, reach)
            around.add_(chances, alpha=_OWN / near)  # `around` is a mean over so many
            size = space.action_dim
            around[size - 1 :: size] = chances[size - 1 :: size]  # the grippers'
            chances = around
        guesses = [chances.argmax(-1)]
        if self.settings.branches > 1:
            bins = torch.arange(chances.shape[1], device=chances.device)
        while len(guesses) < self.settings.branches:
            taken = (bins - guesses[-1][:, None]).abs() <= reach
            chances = chances.masked_fill(taken, -1)
            guesses.append(chances.argmax(-1))
        return torch.stack(guesses) + space.tokenizer.first_id, finite
