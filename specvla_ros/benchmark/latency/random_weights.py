"""
Random weights under a drawn acceptance: the parts of a projection that compute.

The published distribution counts EAGLE's accepted drafts. So decoders with another drafter are
refused, except for plain autoregression, which has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from tokenizers import models, pre_tokenizers, Tokenizer
import torch
from transformers import PreTrainedTokenizerFast

from specvla_ros.action_space import ActionSpace
from specvla_ros.benchmark.latency import projection
from specvla_ros.configuration import DecoderConfig
from specvla_ros.decoding.acceptance import Acceptance
from specvla_ros.decoding.decoder import Decoder
from specvla_ros.decoding.drafters import (
    DraftContext,
    Drafter,
    EagleConfig,
    EagleHead,
    make_drafter,
)
from specvla_ros.decoding.guard import Guard
from specvla_ros.decoding.target import Target
from specvla_ros.decoding.tree import TokenTree
from specvla_ros.errors import SpecVLAError
from specvla_ros.loaded_checkpoint import Checkpoint
from specvla_ros.openvla.config import OpenVLAConfig
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.openvla.prompt import PROMPT
from specvla_ros.openvla.quantization import quantize, stored_bytes
from specvla_ros.situation import Situation

_NONE = -1  # a reach: no draft may stay, not even the target's own token
# Of a LIBERO checkpoint's form: six dimensions to scale, and the gripper.
_STATISTICS = {'libero_object': {'action': {
    'q01': [-1.0] * 6 + [0.0], 'q99': [1.0] * 7, 'mask': [True] * 6 + [False]}}}


class DrawnRule:
    """
    Keeps as many drafts of a pass as a distribution says, whatever their tokens are.

    The draws of an action are its reach: a pass accepts the tokens that may be any, and ends at
    one that may be none, which the target says itself. So a tree has to be as deep as the longest
    draw, as those of ``DeepDrafter`` are.
    """

    def __init__(self, shares: Sequence[float], seed: int) -> None:
        """Take the probabilities of 0, 1, 2 … drafts."""
        self._shares = tuple(shares)
        self._random = np.random.default_rng(seed)

    def reach(self, space: ActionSpace, situation: Situation) -> tuple[int, ...]:
        """Draw how many drafts each pass after the prefill accepts."""
        tokens = [_NONE]  # the prefill has no guesses
        while len(tokens) < space.length:
            drawn = int(self._random.choice(len(self._shares), p=self._shares))
            tokens += [space.tokenizer.n_bins] * drawn + [_NONE]
        return tuple(tokens[: space.length])


@lru_cache
def _deep_tree(nodes: int, depth: int, device: torch.device) -> TokenTree:
    """Make a tree: one path of this depth, the other nodes beside its end; made once."""
    parents = [*range(-1, depth - 1), *[max(depth - 2, -1)] * (nodes - depth)]
    return TokenTree.of(parents, parents, '').to(device)


class DeepDrafter(Drafter):
    """
    Drafts with another drafter, then sets its nodes in one long path with twigs at its end.

    An untrained drafter spreads its nodes over the first levels, where no long path could be
    accepted; the number of nodes, and with it what a pass costs, stays.
    """

    def __init__(self, drafter: Drafter, longest: int) -> None:
        """Take the drafter and the most drafts that are ever accepted."""
        self._drafter, self._longest = drafter, longest
        self.reads_features = drafter.reads_features

    def propose(self, context: DraftContext) -> TokenTree:
        """Guess a tree of the drafter's nodes in another order."""
        tree = self._drafter.propose(context)
        depth = min(self._longest, context.max_depth, len(tree))
        deep = _deep_tree(len(tree), depth, tree.tokens.device)
        return replace(deep, tokens=tree.tokens, sources=tree.sources, finite=tree.finite)

    def reset(self) -> None:
        """Let the drafter forget."""
        self._drafter.reset()


class RandomCheckpoint(Checkpoint):
    """A random model and a random EAGLE drafter, whose decoders draw their acceptance."""

    def __init__(
        self, model: OpenVLA, acceptance: projection.PublishedAcceptance, seed: int,
        chunk: int | None = None,
    ) -> None:
        super().__init__(model, chunk=chunk)
        self._acceptance, self._seed = acceptance, seed
        with torch.device(model.device), torch.random.fork_rng():
            torch.manual_seed(seed)
            head = EagleHead(EagleConfig.like(model))
        self._head = head.to(model.dtype).eval().requires_grad_(False)

    def decoder(self, config: DecoderConfig, guard: Guard | None = None) -> Decoder:
        """
        Decoder on these weights.

        :raises SpecVLAError: nothing is published of its drafter
        """
        if config.completion is not None:
            raise SpecVLAError(
                f'decoder {config.name} takes tokens without a pass, and what it would take is '
                'not published; give decoders without a completion')
        if config.drafter.name not in ('none', 'eagle'):
            raise SpecVLAError(
                f'decoder {config.name} drafts with {config.drafter.name}; the table counts '
                'the accepted drafts of eagle, so give decoders of eagle or none')
        settings = config.drafter.settings_on(self.model.device.type)
        drafter = make_drafter(config.drafter.name, settings, {'eagle': lambda: self._head})
        shares = self._acceptance.of(config)
        longest = int(max(np.flatnonzero(shares)))
        target = Target(self.model)
        return Decoder(target, DeepDrafter(drafter, longest), Acceptance(
            DrawnRule(shares, self._seed), guard, self.space, target))


def random_checkpoint(
    config: OpenVLAConfig, acceptance: projection.PublishedAcceptance, instruction: str,
    device: torch.device, dtype: torch.dtype, quantization: str, seed: int,
    chunk: int | None = None,
) -> RandomCheckpoint:
    """
    Make a random model of these dimensions on the device.

    :raises SpecVLAError: it doesn't fit into the memory
    """
    with torch.device('meta'):
        shape = OpenVLA(config).to(dtype)
        drafter = EagleHead(EagleConfig.like(shape)).to(dtype)
    projection.check_memory(stored_bytes([*shape.parameters(), *drafter.parameters()]), device)
    model = OpenVLA.untrained(config, device, dtype, seed)
    if quantization != 'none':
        quantize(model.language_model.layers, quantization, device)
    # As a fine-tuned model, this one says action tokens only: a peer's tokens can be compared.
    first, end = model.action_tokenizer.first_id, model.action_tokenizer.vocab_size
    model.lm_head.weight[:first] = 0
    model.lm_head.weight[end:] = 0
    model.norm_stats = _STATISTICS
    model.tokenizer = word_tokenizer(config.action_vocab_size, instruction)
    return RandomCheckpoint(model, acceptance, seed, chunk)


def word_tokenizer(size: int, instruction: str) -> PreTrainedTokenizerFast:
    """
    Return a tokenizer of this many tokens: a word of the prompt is one.

    That is near what Llama's makes of it: it has nearly all of these words whole.
    """
    splitter = pre_tokenizers.Whitespace()
    said = [word for word, _ in splitter.pre_tokenize_str(PROMPT.format(instruction))]
    words = list(dict.fromkeys(['<unk>', '<s>', '</s>', *said]))
    names = [*words, *(f'<{i}>' for i in range(len(words), size))]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, '<unk>'))
    backend.pre_tokenizer = splitter
    return PreTrainedTokenizerFast(tokenizer_object=backend)
