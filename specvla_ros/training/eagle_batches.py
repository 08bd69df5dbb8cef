"""Regenerated frames → batches of rows for an EAGLE network."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
from torch.nn import functional

from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training.regenerated import ShardFrames
from specvla_ros.training.shard_check import check_finite
from specvla_ros.training.unroll import EagleBatch


@dataclass(frozen=True, slots=True)
class Perturbation:
    """
    How a training frame is varied.

    own_share: share of frames whose tokens are the target's own; the others' are off by a few
    bins, as relaxed acceptance leaves them. noise: uniform noise on the features that are read,
    ± this share of their deviation (EAGLE: so that the drafter bears with its own errors).
    noise_by_length: the same as EAGLE itself has it, ± this · 512 / rows of the sequence, however
    large the features are.
    """

    own_share: float = 0.5
    noise: float = 0.1
    noise_by_length: float = 0.0


NONE = Perturbation(own_share=1.0, noise=0.0)


class EagleBatchMaker:
    """Make batches for the EAGLE networks of one target; safe to call from several threads."""

    def __init__(self, model: OpenVLA, dtype: torch.dtype) -> None:
        tokenizer = model.action_tokenizer
        rows = slice(tokenizer.first_id, tokenizer.last_id + 1)
        self.action_head = model.lm_head.weight.detach()[rows].float()
        self.dtype, self.device = dtype, model.device
        self._model = model
        self._prompts: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(
        self, frames: ShardFrames, indices: NDArray[np.int64], random: np.random.Generator,
        perturbation: Perturbation,
    ) -> EagleBatch:
        """Frames at running indices [B] as a batch."""
        located = [frames.locate(int(index)) for index in indices]
        records = [shard.records[frame] for shard, frame in located]
        paths = [self._path(len(record['tokens']), random, perturbation) for record in records]
        tokens = self._tensor([r['tokens'][path] for r, path in zip(records, paths, strict=True)])
        next_features = self._tensor(
            [r['features'][path] for r, path in zip(records, paths, strict=True)]).float()
        fed = self._model.embed_tokens(tokens[:, :-1].long()).float()
        longest = max(len(record['prompt']) for record in records)
        features, embeds, real = [], [], []
        for (shard, _), record in zip(located, records, strict=True):
            prompt = self._tensor(record['prompt'])
            inputs = torch.cat((self._tensor(record['patches']).float(),
                                self._text(shard.instruction)))
            padding = longest - len(prompt)
            features.append(functional.pad(prompt.float(), (0, 0, padding, 0)))
            embeds.append(functional.pad(inputs, (0, 0, padding, 0)))
            real.append(torch.arange(longest - 1, device=self.device) >= padding)
        real = torch.stack(real)
        # The last prompt row reads e of the first action token, the last action row the feature
        # of the last token but one.
        features = torch.cat((torch.stack(features), next_features[:, :-1]), dim=1)
        rows = torch.arange(features.shape[1], device=self.device)
        padded = (~real).sum(dim=1, keepdim=True)
        embeds = torch.cat((torch.stack(embeds), fed), dim=1)
        for read in (features, next_features, embeds):
            check_finite(read, located)
        return EagleBatch(
            features=self._noisy(features, random, perturbation).to(self.dtype),
            embeds=embeds.to(self.dtype),
            positions=(rows - padded).clamp(min=0),
            real=real,
            next_features=next_features,
            logits=functional.linear(next_features, self.action_head),
        )

    def _path(
        self, paths: int, random: np.random.Generator, perturbation: Perturbation
    ) -> int:
        if paths == 1 or random.random() < perturbation.own_share:
            return 0
        return int(random.integers(1, paths))

    def _noisy(
        self, features: Tensor, random: np.random.Generator, perturbation: Perturbation
    ) -> Tensor:
        most = (perturbation.noise * float(features.std())
                + perturbation.noise_by_length * 512 / features.shape[1])
        if not most:
            return features
        drawn = random.uniform(-most, most, features.shape).astype(np.float32)
        return features + torch.from_numpy(drawn).to(self.device)

    def _text(self, instruction: str) -> Tensor:
        """Embeddings [T - 1, h] of a prompt's text behind BOS and the patches."""
        if instruction not in self._prompts:
            ids = self._model.prompt_ids(instruction)
            self._prompts[instruction] = self._model.embed_tokens(ids[1:]).float()
        return self._prompts[instruction]

    def _tensor(self, values: NDArray | list[NDArray]) -> Tensor:
        return torch.from_numpy(np.array(values)).to(self.device)
