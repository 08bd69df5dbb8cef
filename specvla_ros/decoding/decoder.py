"""
The one loop: propose → verify → accept → commit.

Every decoder of this package is this loop with a drafter and an acceptance rule. Plain
autoregression is the drafter ``none``: each verification is of the root alone and gains the
bonus token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from .acceptance import AcceptanceRule, ActionLayout, Refuse
from .drafters.drafter import DraftContext, Drafter
from .target import Target
from .trace import DecodeTrace


@dataclass(frozen=True, slots=True)
class Decoder:
    """A target, who guesses for it, what may stay of the guesses, and what an action is."""

    target: Target
    drafter: Drafter
    rule: AcceptanceRule
    layout: ActionLayout

    @torch.inference_mode()
    def decode(self, prompt_ids: Tensor, pixel_values: Tensor) -> tuple[list[int], DecodeTrace]:
        """
        Decode one action: its L token ids, and what they cost.

        prompt_ids: int64 [1, T], BOS first; pixel_values: float [1, 6, H, W].
        """
        target, drafter, rule, layout = self.target, self.drafter, self.rule, self.layout
        tokens: list[int] = []
        trace = DecodeTrace()
        stage = partial(trace.stage, device=target.device)

        with stage('vision'):
            prompt = target.embed(prompt_ids, pixel_values)
        draft = DraftContext(target, layout, prompt, tokens)
        with stage('draft'):
            # Before the target has read the prompt; often no guess at all.
            tree = drafter.guess(draft).to(target.device)
        with stage('prefill'):
            # Prompt and guesses in one pass.
            verified = target.prefill(prompt, tree, drafter.reads_features)
        while True:
            path = rule.accept(tree, verified, len(tokens), layout)
            tokens += [*path.tokens, path.bonus]
            trace.record(tree, path)
            if len(tokens) >= layout.length:
                break  # never verify what is already known
            target.commit(path)
            with stage('draft'):
                tree = drafter.propose(draft).to(target.device)
            with stage('verify'):
                verified = target.verify(tree)
        trace.settle()
        return tokens, trace

    def warm_up(self, prompt_ids: Tensor, pixel_values: Tensor) -> None:
        """
        Decode a few actions without accepting anything, and forget them.

        So every pass and draft there can be is run once: what is captured or allocated at its
        first use is then there, but for prompts of another length.
        """
        nothing = replace(self, rule=Refuse(self.rule))
        # What guesses from earlier actions has none, one, and then two that differ.
        for step in (1, -1, 1):
            tokens, _ = nothing.decode(prompt_ids, pixel_values)
            self.drafter.remember(tokens[::step])
        self.drafter.reset()
