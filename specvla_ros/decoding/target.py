"""
The target: one decoding session on an OpenVLA.

It turns trees into passes. Prefill and verification are one thing here: a pass over
[what is known and not yet cached, …, root, draft nodes] behind the committed entries. In the
prefill the first part is the prompt, whose last token is the root; later it is the root alone,
the bonus token of the pass before. Plain autoregression verifies just the root, so its passes
are of one token.

Decoding is greedy over the action tokens: the logits of the others are not computed. An action
consists of action tokens only, a fine-tuned OpenVLA's argmax is one, and 256 rows of the
``lm_head`` are read instead of 32064.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from specvla_ros.errors import SpecVLAError
from specvla_ros.openvla.model import OpenVLA

from .acceptance import Path
from .cache import StaticCache
from .tree import TokenTree


@dataclass(frozen=True, slots=True, eq=False)
class Verified:
    """
    What the target says after the root (row 0) and after each of a tree's N nodes (row i + 1).

    argmax: N + 1 token ids, on the host.
    logits: [N + 1, action tokens], on the device, in the model's data type.
    """

    argmax: list[int]
    logits: Tensor

    @property
    def log_probs(self) -> Tensor:
        """Log-probabilities over the action tokens, float32 [N + 1, action tokens]."""
        return functional.log_softmax(self.logits, dim=-1, dtype=torch.float32)


@dataclass(frozen=True, slots=True, eq=False)
class FeaturePairs:
    """
    Committed features, each with the embedding of the token after it: what EAGLE drafts from.

    start: position of the first pair; 0 means a new action.
    features: [1, m, h] the target's hidden states after the final norm, f_i.
    embeds: [1, m, h] its input embeddings of the next position, e_{i+1}.
    """

    start: int
    features: Tensor
    embeds: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Pass:
    """The last pass: its inputs and hidden states [1, S, h]; the root stands at row ``root``."""

    start: int
    inputs: Tensor
    hidden: Tensor
    root: int


class Target:
    """
    Verify trees on a model, keep what is accepted.

    Call ``embed``, ``prefill``, then ``commit`` and ``verify`` in turns, under
    ``torch.inference_mode``. A new prefill starts a new action.
    """

    def __init__(self, model: OpenVLA) -> None:
        text, tokenizer = model.config.text_config, model.action_tokenizer
        self.model = model
        self._llama = model.fused_llama
        self.device = model.device
        self.cache = StaticCache(
            text.num_hidden_layers,
            text.num_key_value_heads,
            text.head_dim,
            model.dtype,
            model.device,
        )
        self.n_action_tokens = tokenizer.n_bins
        self._first_id = tokenizer.first_id
        action_rows = slice(tokenizer.first_id, tokenizer.last_id + 1)
        self._action_head = model.lm_head.weight.detach()[action_rows]
        self._root = -1
        self._last: _Pass | None = None
        self._committed: list[tuple[_Pass, Path]] = []

    def embed(self, prompt_ids: Tensor, pixel_values: Tensor) -> Tensor:
        """Prompt embeddings [1, P + T, h] of ids [1, T] and pixel values [1, 6, H, W]."""
        return self.model.embed(prompt_ids, pixel_values)

    def embed_tokens(self, tokens: Sequence[int]) -> Tensor:
        """Embeddings [1, n, h] of n token ids."""
        return self.model.embed_tokens(torch.tensor([tokens], device=self.device))

    def action_logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., action tokens] of hidden states [..., h]; column 0 is the first id."""
        return functional.linear(hidden, self._action_head)

    def action_embeds(self, columns: Tensor) -> Tensor:
        """Embeddings [..., h] of action tokens [...], 0 being the first action id."""
        return self.model.embed_tokens(columns + self._first_id)

    def prefill(self, prompt: Tensor, tree: TokenTree) -> Verified:
        """Run the prompt [1, S, h] and the guesses of what follows it in one pass."""
        self.cache.reset()
        self._committed.clear()
        root = prompt.shape[1] - 1
        if len(tree):
            prompt = torch.cat((prompt, self.embed_tokens(tree.tokens.tolist())), dim=1)
        return self._run(prompt, root, tree)

    def verify(self, tree: TokenTree) -> Verified:
        """Run the root, which is the last commit's bonus, and the tree below it in one pass."""
        return self._run(self.embed_tokens([self._root, *tree.tokens.tolist()]), 0, tree)

    def commit(self, path: Path) -> None:
        """Keep the root and the accepted nodes of the last pass; the bonus is the next root."""
        self._committed.append((self._last, path))
        self.cache.commit([0, *(node + 1 for node in path.nodes)])
        self._root = path.bonus

    def new_pairs(self) -> FeaturePairs | None:
        """Pairs committed since the last call; None if nothing was."""
        if not self._committed:
            return None
        features, embeds = [], []
        for done, path in self._committed:
            features.append(done.hidden[:, : done.root + 1])
            if path.nodes:
                features.append(done.hidden[:, [done.root + 1 + node for node in path.nodes]])
            next_tokens = self.embed_tokens([*path.tokens, path.bonus])
            embeds += [done.inputs[:, 1 : done.root + 1], next_tokens]
        start = self._committed[0][0].start
        self._committed.clear()
        return FeaturePairs(start, torch.cat(features, dim=1), torch.cat(embeds, dim=1))

    def _run(self, inputs: Tensor, root: int, tree: TokenTree) -> Verified:
        """One pass over ``inputs`` [1, S, h]: up to the root a chain, below it the tree."""
        start = self.cache.length
        chain = np.arange(start, start + root + 1)
        positions = np.concatenate((chain, start + root + tree.depth))
        hidden = self._llama(
            inputs,
            torch.from_numpy(positions).to(self.device),
            self._mask(start, root, tree),
            self.cache,
        )
        self._last = _Pass(start, inputs, hidden, root)
        # What stands before the root is known: only root and tree await the rule.
        self.cache.advance(root)
        return self._read(self.action_logits(hidden[0, root:]))

    def _mask(self, start: int, root: int, tree: TokenTree) -> Tensor | None:
        """
        Who attends to whom, bool [1, 1, S, start + S]; None is causal.

        Everybody sees what is committed. A node sees the chain up to the root, its ancestors
        and itself; nodes never see their siblings' branches.
        """
        if not len(tree) and (root == 0 or start == 0):
            return None
        rows = root + 1 + len(tree)
        attends = np.tri(rows, start + rows, start, dtype=bool)
        attends[root + 1 :, start + root + 1 :] = tree.ancestor_mask
        return torch.from_numpy(attends)[None, None].to(self.device)

    def _read(self, logits: Tensor) -> Verified:
        """Argmax to the host: the one copy of a pass, the maxima with it to see NaN and inf."""
        values, columns = logits.max(dim=-1)
        values, columns = torch.stack((values.float(), columns.float())).tolist()
        if not all(map(math.isfinite, values)):
            raise SpecVLAError(
                f'the target gave logits that are not finite (data type {logits.dtype}); check '
                'the checkpoint, or load it in float32 or bfloat16'
            )
        return Verified([self._first_id + int(column) for column in columns], logits)
