"""
The target: one decoding session on an OpenVLA.

It turns trees into passes. Prefill and verification are one thing here: a pass over a chain whose
last token is the root, and the draft nodes below it, behind the committed entries. In the prefill
the chain is the prompt; later it is the root alone, the bonus token of the pass before. Plain
autoregression verifies just the root, so its passes are of one token.

What a pass computes has shapes that depend on the numbers of rows only, and it asks for no
tensor's value: so it can be a graph (see ``graphs``). The host waits for the device once a pass,
when acceptance copies what the target said.

Decoding is greedy over the action tokens: the logits of the others are not computed. An action
consists of action tokens only, a fine-tuned OpenVLA's argmax is one, and 256 rows of the
``lm_head`` are read instead of 32064.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor
from torch.nn import functional

from specvla_ros.graphs import GraphRunner, Padded, Runner, runner_on
from specvla_ros.openvla.model import OpenVLA

from .cache import StaticCache
from .tree import Accepted, TokenTree

MILLION = 1e6  # entropies are copied to the host as whole numbers, together with tokens


@dataclass(frozen=True, slots=True, eq=False)
class Verification:
    """
    Holds the target's own next token after the root and after every draft, right or wrong.

    argmax: int64 [N + 1] token ids, on the device; -1 where the logits were not finite.
    logits: [N + 1, action tokens], on the device, in the model's data type.
    runner: of the pass; acceptance uses the same.
    entropy: int64 [N + 1] of what it says there, in millionths of the largest there is.
    """

    argmax: Tensor
    logits: Tensor
    runner: Runner
    entropy: Tensor


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
    """
    The last pass: its chain [1, root + 1, h], and hidden states [1, rows, h].

    nodes: row of the first node's hidden state; None of a prefill that kept no features.
    """

    start: int
    chain: Tensor
    hidden: Tensor
    nodes: int | None


class Target:
    """
    Runs one decoding session of the OpenVLA model: it verifies trees and keeps the cache.

    Call ``embed``, ``prefill``, then ``commit`` and ``verify`` in turns, under
    ``torch.inference_mode``, with trees on its device. A new prefill starts a new action.

    runner: how passes are run; None = as graphs where the device has them. prompt: what ``embed``
    made last, [1, P + T, h]; None before.
    """

    def __init__(self, model: OpenVLA, runner: Runner | None = None) -> None:
        text, tokenizer = model.config.text_config, model.action_tokenizer
        self.model = model
        self._llama = model.fused_llama
        self.device = model.device
        self.runner = runner or runner_on(model.device)
        self.cache = StaticCache(
            text.num_hidden_layers, text.num_key_value_heads, text.head_dim, model.dtype,
            model.device)
        self.n_action_tokens = tokenizer.n_bins
        self.first_id = tokenizer.first_id
        action_rows = slice(tokenizer.first_id, tokenizer.last_id + 1)
        self._action_head = model.lm_head.weight.detach()[action_rows]
        self.prompt: Tensor | None = None
        self._root = -1
        self._last: _Pass | None = None
        self._committed: list[tuple[_Pass, Accepted]] = []

    def embed(self, prompt_ids: Tensor, pixel_values: Tensor) -> Tensor:
        """Prompt embeddings [1, P + T, h] of ids [1, T] and pixel values [1, 6, H, W]."""
        patches = self.runner.run(self.model.embed_image, pixel_values)
        self.prompt = self.model.multimodal_prompt(prompt_ids, patches)
        return self.prompt

    def embed_tokens(self, tokens: Sequence[int]) -> Tensor:
        """Embeddings [1, n, h] of n token ids."""
        return self.model.embed_tokens(self._on_device([tokens]))

    def action_logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., action tokens] of hidden states [..., h]; column 0 is the first id."""
        return functional.linear(hidden, self._action_head)

    def action_embeds(self, columns: Tensor) -> Tensor:
        """Embeddings [..., h] of action tokens [...], 0 being the first action id."""
        return self.model.embed_tokens(columns + self.first_id)

    def prefill(self, prompt: Tensor, tree: TokenTree, features: bool = True) -> Verification:
        """
        Run the prompt [1, S, h] and the guesses of what follows it in one pass.

        features: keep those of the prompt for ``new_pairs``. Without, the last layer leaves out
        all rows but the root's and the guesses'.
        """
        if isinstance(self.runner, GraphRunner):
            self.cache.reset()
        else:
            self.cache.forget()  # a pass reads only slots that this action has written
        self._committed.clear()
        return self._run(prompt, tree, features)

    def verify(self, tree: TokenTree) -> Verification:
        """Run the root, which is the last commit's bonus, and the tree below it in one pass."""
        embeddings = self.model.language_model.embed_tokens.weight
        return self._run(embeddings.narrow(0, self._root, 1)[None], tree)

    def commit(self, accepted: Accepted) -> None:
        """Keep the root and the accepted nodes of the last pass; the bonus is the next root."""
        assert self._last is not None  # a pass was run
        self._committed.append((self._last, accepted))
        self.cache.commit([0, *(node + 1 for node in accepted.nodes)])
        self._root = accepted.bonus

    def new_pairs(self) -> FeaturePairs | None:
        """
        Pairs committed since the last call; None if nothing was.

        Raises RuntimeError if the prefill kept no features.
        """
        if not self._committed:
            return None
        features, embeds = [], []
        for done, path in self._committed:
            if done.nodes is None:
                raise RuntimeError(
                    'the prefill kept no features: the drafter lacks reads_features')
            features.append(done.hidden[:, : done.chain.shape[1]])
            if path.nodes:
                rows = [done.nodes + node for node in path.nodes]
                features.append(done.hidden.index_select(1, self._on_device(rows)))
            embeds += [done.chain[:, 1:], self.embed_tokens([*path.tokens, path.bonus])]
        start = self._committed[0][0].start
        self._committed.clear()
        return FeaturePairs(start, torch.cat(features, dim=1), torch.cat(embeds, dim=1))

    def _run(self, chain: Tensor, tree: TokenTree, features: bool = True) -> Verification:
        """One pass over a chain [1, S, h], whose last row is the root, and the tree below it."""
        start, root, n = self.cache.length, chain.shape[1] - 1, len(tree)
        rows = self.runner.size(root + 1) + self.runner.size(n)
        if self.cache.reserve(start + rows, self.runner.room):
            self.runner.clear()
        run = self.runner.run(
            self._forward, Padded(chain, (1,)), Padded(tree.tokens), Padded(tree.depth),
            Padded(tree.ancestor_mask, (0, 1)), start, root, features=features,
        )
        hidden, logits, says = map(self.runner.safe_copy, run)
        nodes = hidden.shape[1] - self.runner.size(n) if features else None
        self._last = _Pass(start, chain, hidden, nodes)
        # What stands before the root is known: only root and tree await the rule.
        self.cache.advance(root)
        own, entropy = says[:, : n + 1]
        return Verification(own, logits[: n + 1], self.runner, entropy)

    def _forward(
        self, chain: Tensor, tokens: Tensor, depth: Tensor, ancestors: Tensor,
        start: int | Tensor, root: int | Tensor, *, features: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Compute a pass: hidden states of chain and nodes; what root and nodes say: logits, and
        int64 [2, rows] the best tokens with the entropy.

        chain: [1, C, h]; tokens, depth: int64 [G]; ancestors: bool [G, G]. Rows of the chain
        behind ``root`` are padding, and so may the last nodes be. Without ``features`` the hidden
        states are those of the root and the nodes only.
        """
        rows, n, numbers, width = chain.shape[1], len(tokens), self.cache.columns, None
        slots = positions = seen = numbers[:rows] + start
        if isinstance(start, int):
            width = start + rows + n
            asked = numbers[rows - 1 : rows + n]
        else:
            asked = torch.cat((numbers[:1] + root, numbers[rows : rows + n]))
            slots = slots.where(positions <= start + root, self.cache.spare)
        if n:
            places = numbers[1 : n + 1] + (start + root)
            slots = torch.cat((slots, places))
            positions = torch.cat((positions, depth + (start + root)))
            seen = positions.clamp_max(start + root)
            drafts = functional.embedding(tokens, self.model.language_model.embed_tokens.weight)
            chain = torch.cat((chain, drafts[None]), dim=1)
        # A row sees the rows before it in the chain; a node the chain up to the root, its
        # ancestors and itself, but never its siblings' branches.
        attends = None  # a root alone sees all that was written
        if width is None or rows + n > 1:
            seen_by = numbers[:width] <= seen[:, None]
            if n:
                # The mask's padding may be an older tree's. Ancestors stand before their nodes in
                # any tree, so none of it is seen by a node of this one.
                seen_by[rows:].scatter_(1, places.expand(n, n), ancestors)
            attends = seen_by[None, None]
        # ``asked``: rows of the root and the nodes. Where the chain is the root alone: all rows.
        hidden = self._llama(
            chain, positions, attends, self.cache.at(slots, width),
            None if features or rows == 1 else asked)
        says = hidden[0]
        if features and rows > 1:
            says = says.index_select(0, asked)
        logits = self.action_logits(says)
        # Where the best logit is not finite, probabilities and entropy are NaN.
        entropy = torch.special.entr(logits.softmax(-1, dtype=torch.float32)).sum(-1)
        own = (logits.argmax(-1) + self.first_id).masked_fill(entropy.isnan(), -1)
        entropy = entropy.mul_(MILLION / log(self.n_action_tokens)).round_().long()
        return hidden, logits, torch.stack((own, entropy))

    def _on_device(self, values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values).to(self.device, non_blocking=True)
