"""
The loss of EAGLE: continue the target's features, and then its own.

Training-time test (EAGLE-3, arXiv 2503.01840): at depth 1 every row reads the target's feature of
its position, at depth 2 the drafter's own guess of it, and so on, just as a draft tree grows. A
row sees what it sees in decoding: the target's features up to the root of its draft, behind that
one guess of each depth. All of it goes through `EagleHead.forward` and its cache, so that
training can't compute anything else than drafting does.

Rows are pairs (f_i, e_{i+1}) → f̂_{i+1}. Those of the prompt come first, padded on the left to the
longest prompt; the last A = L - 1 are those of the action, whose e_{i+1} is an action token.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from specvla_ros.decoding.drafters.eagle_head import EagleHead


@dataclass(frozen=True, slots=True)
class EagleBatch:
    """
    Rows of a batch for EAGLE, S = R + A of them a frame.

    features, embeds: [B, S, h], f_i and e_{i+1}; positions: int64 [B, S], i; real: bool [B, R],
    false where a prompt row is padding; next_features: [B, A, h], f_{i+1} of the action rows;
    logits: [B, A, action tokens], what the target makes of them.
    """

    features: Tensor
    embeds: Tensor
    positions: Tensor
    real: Tensor
    next_features: Tensor
    logits: Tensor

    @property
    def action_rows(self) -> int:
        """A: rows whose guess says an action token."""
        return self.next_features.shape[1]


class _Grown:
    """A cache that training can go back through: the keys and values of all depths."""

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    def update(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Take new [B, heads, S, d]; return all."""
        if self.key is not None:
            key, value = torch.cat((self.key, key), 2), torch.cat((self.value, value), 2)
        self.key, self.value = key, value
        return key, value


@lru_cache
def _sees(rows: int, depth: int) -> Tensor:
    """
    Which action rows' entries the rows of a depth see, bool [n, A + (A - 1) + …].

    At depth d, n = A - d + 1 rows are left. The q-th of them is row q + d - 1, drafted from the
    root q: it sees the target's rows up to q, and of each further depth the q-th entry.
    """
    left = rows - depth + 1
    blocks = [torch.ones(left, rows, dtype=torch.bool).tril()]
    for earlier in range(2, depth + 1):
        blocks.append(torch.eye(left, rows - earlier + 1, dtype=torch.bool))
    return torch.cat(blocks, dim=1)


def unroll(
    head: EagleHead, batch: EagleBatch, prompt: bool = False, most: int = 0
) -> tuple[list[Tensor], Tensor]:
    """
    Guesses of depths 1 … A, [B, A - d + 1, h] each, and those of the prompt rows.

    The q-th guess of depth d is of the token d after the root q: number q + d of the action.
    prompt: whether to guess after the prompt's rows too, [B, R, h]; else that is empty. most:
    depths at most; 0 = all.
    """
    rows, padded = batch.action_rows, batch.real.shape[1]
    cache = _Grown()
    queries = padded + rows if prompt else rows
    guessed = head(batch.features, batch.embeds, batch.positions,
                   _first_mask(batch, queries), cache, queries=queries)
    depths = [guessed[:, -rows:]]
    for depth in range(2, min(rows, most or rows) + 1):
        here = slice(padded + depth - 1, None)
        sees = _sees(rows, depth)[None, None].to(batch.real.device)
        real = batch.real[:, None, None].expand(-1, 1, sees.shape[2], -1)
        mask = torch.cat((real, sees.expand(len(real), -1, -1, -1)), dim=-1)
        depths.append(head(depths[-1][:, :-1], batch.embeds[:, here], batch.positions[:, here],
                           _additive(mask, guessed.dtype), cache))
    return depths, guessed[:, :-rows]


def _first_mask(batch: EagleBatch, queries: int) -> Tensor:
    """Causal, without the padding; padding sees itself, lest its softmax be empty."""
    size = batch.features.shape[1]
    real = functional.pad(batch.real, (0, size - batch.real.shape[1]), value=True)
    sees = torch.ones(size, size, dtype=torch.bool, device=real.device).tril()
    itself = torch.eye(size, dtype=torch.bool, device=real.device)
    mask = (sees & real[:, None]) | itself
    return _additive(mask[:, None, -queries:], batch.features.dtype)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
        ~mask, float('-inf'))


@dataclass(frozen=True, slots=True)
class LossWeights:
    """
    Parts of the drafter's loss; Spec-VLA has features 1, tokens 0.1, and prompt as features.

    Greedy decoding only asks for the target's favourite, and a target trained on smoothed labels
    says several bins with nearly the same probability, so its distribution is sharpened.
    Measured once each (one seed, 1790 training frames, 12 epochs, a half-trained target whose
    favourite had 12 % on average): temperature 1 → 0.5 took the strict acceptance length from 2.8
    to 3.5, the relaxed one stayed (5.8, 5.7); drafting a constant action had 2.5 and 3.1.
    """

    tokens: float = 1.0  # cross entropy with the target's distribution, action rows of all depths
    features: float = 0.1  # SmoothL1 of the features, action rows of all depths
    prompt: float = 0.0  # SmoothL1 of the features, prompt rows
    temperature: float = 0.5  # of the target's distribution; below 1 its favourite counts more
    depths: int = 0  # guesses made of guesses, 1 = only of the target's features; 0 = all of them


@dataclass(frozen=True, slots=True)
class EagleLoss:
    """Parts of the loss, means over a batch; `total` carries the gradient."""

    total: Tensor
    tokens: Tensor  # cross entropy above that of the target's own distribution (KL), nats
    features: Tensor


def eagle_loss(
    head: EagleHead, action_head: Tensor, batch: EagleBatch, weights: LossWeights
) -> EagleLoss:
    """Loss of a batch; action_head: [action tokens, h], the target's rows of the action tokens."""
    depths, prompt = unroll(head, batch, weights.prompt > 0, weights.depths)
    guesses = torch.cat(depths, dim=1)
    wanted = torch.cat([batch.next_features[:, depth:] for depth in range(len(depths))], dim=1)
    logits = torch.cat([batch.logits[:, depth:] for depth in range(len(depths))], dim=1)
    said = functional.log_softmax(functional.linear(guesses, action_head).float(), dim=-1)
    should = functional.log_softmax(logits.float() / weights.temperature, dim=-1)
    tokens = functional.kl_div(said, should, log_target=True, reduction='none').sum(-1).mean()
    features = functional.smooth_l1_loss(guesses.float(), wanted.float())
    total = weights.tokens * tokens + weights.features * features
    if weights.prompt > 0:
        # Row i of the prompt guesses the feature that row i + 1 reads.
        after = batch.features[:, 1:1 + prompt.shape[1]]
        error = functional.smooth_l1_loss(prompt.float(), after.float(), reduction='none').mean(-1)
        total = total + weights.prompt * (error * batch.real).sum() / batch.real.sum()
    return EagleLoss(total, tokens.detach(), features.detach())


@torch.no_grad()
def distances(
    head: EagleHead, action_head: Tensor, batch: EagleBatch
) -> Tensor:
    """
    Ids between the drafter's first choice and the target's, int64 [B, A, A].

    Entry [d - 1, p - 1] is that of the action's token p drafted at depth d; -1 where d > p.
    """
    depths, _ = unroll(head, batch)
    rows = batch.action_rows
    own = batch.logits.argmax(-1)
    off = own.new_full((len(own), rows, rows), -1)
    for depth, guesses in enumerate(depths):
        said = functional.linear(guesses, action_head).argmax(-1)
        off[:, depth, depth:] = (said - own[:, depth:]).abs()
    return off
