"""
The one loop: propose → verify → accept → commit.

Every decoder is this loop with a drafter and an acceptance. Plain autoregression is the drafter
``none``: each verification is of the root alone and gains the bonus token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from specvla_ros.situation import Situation, UNKNOWN

from .acceptance import Acceptance
from .completion import Completion, NONE
from .drafters.drafter import DraftContext, Drafter
from .guard import Guard
from .target import Target
from .trace import DecodeTrace


@dataclass(frozen=True, slots=True)
class Decoder:
    """
    A target, a drafter that guesses for it, and what may stay of the guesses.

    depths: how deep to draft with 0, 1, … tokens known, [L]; None = as deep as may be.
    """

    target: Target
    drafter: Drafter
    acceptance: Acceptance
    completion: Completion = NONE  # tokens that the target never sees
    depths: tuple[int, ...] | None = None

    @torch.inference_mode()
    def decode(
        self, prompt_ids: Tensor, pixel_values: Tensor, situation: Situation = UNKNOWN
    ) -> tuple[list[int], DecodeTrace]:
        """
        Decode one action: its L token ids, and what they cost.

        prompt_ids: int64 [1, T], BOS first; pixel_values: float [1, 6, H, W].
        """
        target, drafter, acceptance = self.target, self.drafter, self.acceptance
        tokens: list[int] = []
        trace, length = DecodeTrace(), acceptance.space.length
        stage = partial(trace.stage, device=target.device)
        with stage('vision'):
            prompt = target.embed(prompt_ids, pixel_values)
        draft = DraftContext(
            target, acceptance.space, prompt, tokens, situation, depths=self.depths)
        terms = acceptance.terms(situation)
        trace.reach = terms.bins
        tokens += self.completion.tokens(draft, acceptance, terms, trace)
        if not tokens:
            with stage('draft'):
                tree = drafter.guess(draft).to(target.device)  # often no guess at all
            with stage('prefill'):
                verified = target.prefill(prompt, tree, drafter.reads_features)
        while len(tokens) < length:
            accepted = acceptance.accept(tree, verified, tokens, terms, trace.bins_off)
            tokens += [*accepted.tokens, accepted.bonus]
            trace.record(tree, accepted)
            draft = draft.after(tree, verified, accepted)
            tokens += self.completion.tokens(draft, acceptance, terms, trace)
            if len(tokens) >= length:
                break  # never verify what is already known
            target.commit(accepted)
            with stage('draft'):
                tree = drafter.propose(draft).to(target.device)
            with stage('verify'):
                verified = target.verify(tree)
        trace.settle()
        return tokens, trace

    def warm_up(
        self, prompt_ids: Tensor, pixel_values: Tensor, situation: Situation = UNKNOWN
    ) -> None:
        """Decode a few actions without accepting drafts, and forget them: captures graphs."""
        rehearsal = replace(self, acceptance=self.acceptance.rehearsal(), completion=NONE)
        for step in (1, -1, 1):  # drafters that remember actions see none, one, two that differ
            tokens, _ = rehearsal.decode(prompt_ids, pixel_values, situation)
            self.drafter.remember(tokens[::step])
        self.drafter.reset()

    def guarded(self, guard: Guard) -> Decoder:
        """Return the same decoder, memory included, under another guard."""
        return replace(self, acceptance=replace(self.acceptance, guard=guard))

    def remember(self, tokens: Sequence[int]) -> None:
        """Take in the L tokens of an action that the robot may do."""
        self.drafter.remember(tokens)
        self.completion.remember(tokens)

    def note_executed(self, steps: int) -> None:
        """Take in how many steps of the action remembered last were due before the next one."""
        self.drafter.note_executed(steps)
        self.completion.note_executed(steps)

    def note_new_weights(self, weights: object) -> bool:
        """Take in that a drafter's weights have new numbers; returns whether it uses them."""
        return self.drafter.note_new_weights(weights)

    def reset(self) -> None:
        """Forget earlier actions: a new episode begins."""
        self.drafter.reset()
        self.completion.reset()
