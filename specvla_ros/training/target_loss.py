"""
The loss of a target: say the expert's action tokens, and know where things are.

One forward pass teaches all L tokens (teacher forcing): BOS, patches, prompt, the first L - 1
action tokens. Neighbouring bins mean nearly the same motion, so the labels are smoothed over them
by a Gaussian whose width shrinks during training. Two linear heads, thrown away afterwards, must
tell the simulator's privileged state from the patch features and from the last prompt position:
from tokens alone the vision towers learn where the objects are only slowly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn, Tensor
from torch.nn import functional

from specvla_ros.openvla.model import OpenVLA

_TRANSLATION = 3  # dimensions; an action begins with it


@dataclass(frozen=True, slots=True)
class TargetBatch:
    """
    Training frames of a target as tensors, each with I instructions behind the one picture.

    pixel_values float [B, 6, size, size]; input_ids int64 [B, N], BOS, and then for each
    instruction the rest of its prompt and the first L - 1 action tokens, padded on the right;
    owner int64 [B, N], which of the instructions each token belongs to, 1 … I (0: BOS, which all
    share, and padding); prompt_ends int64 [B, I], where the last prompt tokens stand among
    input_ids; labels int64 [B, I, L] action ids; state float [B, I, S], standardised; task int64
    [B, I], number of the instruction.
    """

    pixel_values: Tensor
    input_ids: Tensor
    owner: Tensor
    prompt_ends: Tensor
    labels: Tensor
    state: Tensor
    task: Tensor

    @property
    def n_labels(self) -> int:
        """Actions that it asks for: pictures times instructions."""
        return self.task.numel()

    def to(self, device: torch.device | str) -> 'TargetBatch':
        """Return it on the device that computes."""
        return TargetBatch(**{name: getattr(self, name).to(device, non_blocking=True)
                              for name in self.__slots__})


class StateHeads(nn.Module):
    """
    Read the privileged state [B, S] from patch features, and from the last prompt position.

    Where the target is depends on the instruction, which the vision towers don't see: the patch
    head has one part for all and one for each instruction.
    """

    def __init__(self, features: int, hidden: int, state: int, tasks: int) -> None:
        super().__init__()
        self.state = state
        self.patches = nn.Linear(features, state * (1 + tasks))
        self.prompt = nn.Linear(hidden, state)
        nn.init.zeros_(self.patches.weight)
        nn.init.zeros_(self.prompt.weight)

    def forward(self, patches: Tensor, hidden: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        """Two guesses of the state: patches [B, P, D], hidden [B, I, h], task int64 [B, I]."""
        return self.from_patches(patches, task), self.prompt(hidden)

    def from_patches(self, patches: Tensor, task: Tensor) -> Tensor:
        """Guess of the states [B, I, S] from patch features [B, P, D] alone."""
        # Adam moves every weight by the learning rate: unscaled, thousands of inputs would let
        # the guess jump by tens of deviations a step.
        scaled = patches.flatten(1) * self.patches.in_features**-0.5
        parts = self.patches(scaled).unflatten(1, (-1, self.state))
        own = parts[torch.arange(len(task), device=task.device)[:, None], 1 + task]
        return parts[:, :1] + own

    @torch.no_grad()
    def go_on_from(
        self, taught: Mapping[str, Tensor], known: Sequence[str], instructions: Sequence[str]
    ) -> bool:
        """
        Take the weights of heads that an earlier training taught; return whether they fit.

        taught: their `state_dict`; known: the instructions in their order; instructions: those of
        these heads. Parts for instructions that they don't know are left as they are.
        """
        mine, rows = self.state_dict(), {'patches': self.state * (1 + len(known))}
        fitting = {name: (rows.get(name.split('.')[0], len(value)), *value.shape[1:])
                   for name, value in mine.items()}
        if {name: tuple(value.shape) for name, value in taught.items()} != fitting:
            return False
        for name in ('prompt.weight', 'prompt.bias'):
            mine[name].copy_(taught[name])
        both = [(known.index(text), own) for own, text in enumerate(instructions) if text in known]
        for name in ('patches.weight', 'patches.bias'):
            theirs, ours = (it[name].unflatten(0, (-1, self.state)) for it in (taught, mine))
            ours[0] = theirs[0]
            for their, own in both:
                ours[1 + own] = theirs[1 + their]
        return True


def soft_labels(rows: Tensor, sigma: Tensor, n_bins: int) -> Tensor:
    """
    Gaussian over neighbouring bins: int64 [..., L] rows, [L] widths → float [..., L, n_bins].

    What lies beyond the first or last bin is spread over all, so that no peak is higher than
    another: a hand that is unsure would else say full speed too soon. A width of 0 is a hard
    label.
    """
    bins = torch.arange(-n_bins, 2 * n_bins, device=rows.device)
    distance = (bins - rows[..., None]).float()
    width = sigma.clamp(min=1e-3).to(rows.device)[:, None]
    spread = torch.softmax(-0.5 * (distance / width) ** 2, dim=-1)
    labels = spread[..., n_bins : 2 * n_bins]
    beyond = (1 - labels.sum(-1, keepdim=True)).clamp(min=0)
    return labels + beyond / n_bins


@dataclass(frozen=True, slots=True)
class LabelWidths:
    """
    Widths of the smoothed labels, bins: `start` at first, `translation` and `rotation` at last.

    A hand that is unsure where it is says the commonest answer, about zero, and stays there. Wide
    labels make neighbouring answers help each other; a rotation is hardly ever unsure.
    """

    start: float
    translation: float
    rotation: float

    def at(self, done: float, action_dim: int, chunk: int) -> Tensor:
        """Widths [L] when a share of the training is done; a gripper's labels are hard."""
        last = torch.full((action_dim,), self.rotation)
        last[:_TRANSLATION] = self.translation
        sigma = self.start + (last - self.start) * done
        sigma[-1] = 0
        return sigma.repeat(chunk)


def own_mask(owner: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive causal mask [B, 1, S, S]: a token sees those of its own owner and of owner 0."""
    seen = (owner[:, None] == 0) | (owner[:, None] == owner[:, :, None])
    mask = torch.zeros(seen.shape, dtype=dtype, device=owner.device)
    return mask.masked_fill_(~seen.tril_(), float('-inf'))[:, None]


def own_positions(owner: Tensor) -> Tensor:
    """Positions [B, S]: each owner's tokens are counted on from the last shared one."""
    index = torch.arange(owner.shape[1], device=owner.device).expand_as(owner)
    begins = owner.diff(dim=1, prepend=owner[:, :1]) != 0
    start = torch.where(begins, index, 0).cummax(1).values  # of the owner at hand
    shared = (owner == 0).cumprod(1).sum(1, keepdim=True)
    return torch.where(owner == 0, index, index - start + shared)


def hidden_at(model: OpenVLA, embeds: Tensor, rows: Tensor, owner: Tensor) -> Tensor:
    """
    Hidden states after the final norm at some positions only: [B, S, h], int64 [B, N] → [B, N, h].

    The last layer is evaluated at these alone (about 6 % of a training step saved). owner: int64
    [B, S], as in `TargetBatch`; where all are 0, equal to `model(embeds)` at these positions.
    """
    llama = model.language_model
    batch = len(embeds)
    cos, sin = llama.rotary_emb(embeds, own_positions(owner))
    mask = own_mask(owner, embeds.dtype)
    hidden = embeds
    for layer in llama.layers[:-1]:
        hidden = layer(hidden, attention_mask=mask, position_embeddings=(cos, sin))
    layer, attention = llama.layers[-1], llama.layers[-1].self_attn
    heads = (batch, -1, llama.config.num_attention_heads, attention.head_dim)
    kv_heads = (batch, -1, llama.config.num_key_value_heads, attention.head_dim)
    pick = rows[..., None].expand(-1, -1, hidden.shape[-1])
    normed = layer.input_layernorm(hidden)
    residual = hidden.gather(1, pick)
    query = attention.q_proj(normed.gather(1, pick)).view(heads).transpose(1, 2)
    key = attention.k_proj(normed).view(kv_heads).transpose(1, 2)
    value = attention.v_proj(normed).view(kv_heads).transpose(1, 2)
    which = torch.arange(batch, device=rows.device)[:, None]
    query = _rotate(query, cos[which, rows][:, None], sin[which, rows][:, None])
    key = _rotate(key, cos[:, None], sin[:, None])
    groups = heads[2] // kv_heads[2]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * attention.scaling + mask[which, 0, rows][:, None]
    mixed = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype) @ value
    hidden = residual + attention.o_proj(mixed.transpose(1, 2).reshape(batch, rows.shape[1], -1))
    hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return llama.norm(hidden)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding as Llama applies it: halves, not pairs."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


def action_hidden(model: OpenVLA, batch: TargetBatch) -> tuple[Tensor, Tensor]:
    """Patch features [B, P, D] and hidden states [B, I, L, h] that say the action tokens."""
    patches = model.vision(batch.pixel_values.to(model.dtype))
    tokens = model.embed_tokens(batch.input_ids)
    embeds = torch.cat((tokens[:, :1], model.projector(patches), tokens[:, 1:]), dim=1)
    owner = functional.pad(batch.owner, (model.config.n_patches, 0))  # all see the patches
    steps = torch.arange(batch.labels.shape[2], device=tokens.device)
    rows = batch.prompt_ends[..., None] + model.config.n_patches + steps
    hidden = hidden_at(model, embeds, rows.flatten(1), owner)
    return patches, hidden.unflatten(1, rows.shape[1:])


@dataclass(frozen=True, slots=True)
class TargetLoss:
    """Parts of the loss, means over a batch; `total` carries the gradient."""

    total: Tensor
    tokens: Tensor  # cross entropy above that of the smoothed labels themselves (KL), nats
    # Mean absolute error of the standardised state, of both heads together: about 1.6 where both
    # only know its mean. None where it has no weight: nothing teaches the heads then.
    state: Tensor | None


    @classmethod
    def mean(cls, losses: Sequence['TargetLoss'], weights: Sequence[int]) -> 'TargetLoss':
        """Return the weighted mean of the losses of several batches."""
        parts = zip(*((it.total, it.tokens, it.state) for it in losses), strict=True)
        return cls(*(None if part[0] is None else
                     sum(w * x for w, x in zip(weights, part, strict=True)) / sum(weights)
                     for part in parts))


def target_loss(
    model: OpenVLA, heads: StateHeads, batch: TargetBatch, sigma: Tensor, state_weight: float
) -> TargetLoss:
    """
    Cross entropy of the action tokens, plus `state_weight` times the heads' absolute error.

    Over the whole vocabulary, as OpenVLA: at inference a text token must not win either.
    sigma: [L] widths of the smoothed labels in bins.
    """
    patches, hidden = action_hidden(model, batch)
    tokenizer = model.action_tokenizer
    log_probs = functional.log_softmax(model.logits(hidden).float(), dim=-1)
    log_probs = log_probs[..., tokenizer.first_id : tokenizer.last_id + 1]
    labels = soft_labels(batch.labels - tokenizer.first_id, sigma, tokenizer.n_bins)
    entropy = -torch.xlogy(labels, labels).sum(-1)
    tokens = (-(labels * log_probs).sum(-1) - entropy).mean()
    if not state_weight:
        return TargetLoss(tokens, tokens.detach(), None)
    guesses = heads(patches, hidden[:, :, 0], batch.task)
    state = sum(_state_error(guess, batch) for guess in guesses)
    return TargetLoss(tokens + state_weight * state, tokens.detach(), state.detach())


def vision_loss(model: OpenVLA, heads: StateHeads, batch: TargetBatch) -> TargetLoss:
    """
    Absolute error of the state that the patch head alone reads: the towers without the Llama.

    Costs a third of `target_loss`, and finding the arm is what a random start learns slowest.
    """
    patches = model.vision(batch.pixel_values.to(model.dtype))
    state = _state_error(heads.from_patches(patches, batch.task), batch)
    return TargetLoss(state, torch.zeros_like(state.detach()), state.detach())


def _state_error(guess: Tensor, batch: TargetBatch) -> Tensor:
    """Return the mean absolute error of a guess [B, I, S], in deviations."""
    # The hand has to be within millimetres. The gradient of a squared error is small already at
    # a centimetre, a tenth of a deviation.
    return functional.l1_loss(guess.float(), batch.state)
