"""How good a drafter is in the real decoder: acceptance lengths and passes."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from specvla_ros.configuration import load_preset
from specvla_ros.decoding.decoder import Decoder
from specvla_ros.decoding.drafters import DraftContext, Drafter
from specvla_ros.decoding.trace import DecodeTrace
from specvla_ros.decoding.tree import TokenTree
from specvla_ros.loaded_checkpoint import Checkpoint
from specvla_ros.training.dataset import Episode, Frames
from specvla_ros.training.regenerated import Shard


@dataclass(frozen=True, slots=True)
class ConstantDrafter(Drafter):
    """
    Always drafts the same action: a trained drafter has to beat it.

    Where a target hardly ever turns the hand, three tokens of seven are guessed right for
    nothing; an acceptance length alone doesn't tell how much of it the drafter has learned.
    """

    action: tuple[int, ...]  # L token ids

    @classmethod
    def of(cls, shards: list[Shard]) -> 'ConstantDrafter':
        """Take the token that the target says most often at each position."""
        own = np.concatenate([shard.records['tokens'][:, 0] for shard in shards])
        return cls(tuple(int(np.bincount(tokens).argmax()) for tokens in own.T))

    def propose(self, context: DraftContext) -> TokenTree:
        """Guess the rest of the constant action."""
        known = len(context.tokens)
        return TokenTree.chain(self.action[known:known + context.max_depth], source='constant')


@dataclass(frozen=True, slots=True)
class AcceptanceLength:
    """Mean tokens gained per pass after the prefill, bonus included."""

    drafter: float
    constant: float  # by `ConstantDrafter`


def acceptance_lengths(
    checkpoint: Checkpoint, constant: ConstantDrafter, episodes: list[Episode], frames: int,
    presets: tuple[str, ...] = ('strict', 'relaxed'),
) -> dict[str, AcceptanceLength]:
    """
    Acceptance lengths by the deployed decoder, for each preset.

    Over up to `frames` frames, spread evenly over the episodes.
    """
    decoders = {name: checkpoint.decoder(load_preset(name)) for name in presets}
    decoders |= {f'{name} constant': replace(decoder, drafter=constant)
                 for name, decoder in decoders.items()}
    means = {name: float(np.mean(sum((trace.acceptance_lengths for trace in traces), [])))
             for name, traces in _decoded(checkpoint, decoders, episodes, frames).items()}
    return {name: AcceptanceLength(means[name], means[f'{name} constant']) for name in presets}


def passes(
    checkpoint: Checkpoint, episodes: list[Episode], frames: int, presets: tuple[str, ...]
) -> dict[str, float]:
    """Mean passes of the target per action, the prefill counted, for each preset."""
    decoders = {name: checkpoint.decoder(load_preset(name)) for name in presets}
    return {name: float(np.mean([trace.target_passes for trace in traces]))
            for name, traces in _decoded(checkpoint, decoders, episodes, frames).items()}


def _decoded(
    checkpoint: Checkpoint, decoders: dict[str, Decoder], episodes: list[Episode], frames: int
) -> dict[str, list[DecodeTrace]]:
    """Decode frames spread evenly over the episodes; return the costs of each decoder."""
    traces: dict[str, list[DecodeTrace]] = {name: [] for name in decoders}
    held_out = Frames.of(episodes)
    chosen = np.linspace(0, len(held_out) - 1, min(frames, len(held_out))).astype(np.int64)
    for index in chosen:
        episode, frame = held_out.locate(int(index))
        pixels = torch.from_numpy(np.array(episode.pixels[frame])).to(checkpoint.model.device)
        pixel_values = checkpoint.transform.normalise(pixels)[None]
        prompt_ids = checkpoint.prompt_ids(episode.instruction)
        for name, decoder in decoders.items():
            traces[name].append(decoder.decode(prompt_ids, pixel_values)[1])
    return traces
