"""How good a drafter is in the real decoder: acceptance lengths and passes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
import torch

from specvla_ros.configuration import DecoderConfig, load_preset
from specvla_ros.decoding.decoder import Decoder
from specvla_ros.decoding.drafters import DraftContext, Drafter
from specvla_ros.decoding.trace import DecodeTrace
from specvla_ros.decoding.tree import TokenTree
from specvla_ros.drafter_verdict import DecodedEpisode
from specvla_ros.loaded_checkpoint import Checkpoint
from specvla_ros.training.dataset import Episode, Frames
from specvla_ros.training.regenerated import Shard

CONSTANT = 'constant'  # behind the name of a decoder whose drafter always says the same

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
    decoders = with_constant(
        {name: checkpoint.decoder(load_preset(name)) for name in presets}, constant)
    return mean_lengths(gains(checkpoint, episodes, frames, decoders), presets)


def with_constant(
    decoders: Mapping[str, Decoder], constant: ConstantDrafter
) -> dict[str, Decoder]:
    """Add each decoder a second time, as `<name> constant`, with this drafter."""
    return dict(decoders) | {f'{name} {CONSTANT}': replace(decoder, drafter=constant)
                             for name, decoder in decoders.items()}


def mean_lengths(gained: Mapping[str, tuple[DecodedEpisode, ...]], names: tuple[str, ...]
                 ) -> dict[str, AcceptanceLength]:
    """Return the acceptance lengths of decoders, of what `gains` returned."""
    means = {name: _mean_gain(of_decoder) for name, of_decoder in gained.items()}
    return {name: AcceptanceLength(means[name], means[f'{name} {CONSTANT}']) for name in names}


def _mean_gain(episodes: tuple[DecodedEpisode, ...]) -> float:
    counts = np.sum([episode.gained for episode in episodes], axis=0)
    return float(counts @ np.arange(len(counts)) / counts.sum())


def gains(
    checkpoint: Checkpoint, episodes: list[Episode], frames: int, decoders: dict[str, Decoder],
) -> dict[str, tuple[DecodedEpisode, ...]]:
    """
    What the passes of decoders gain on held-out frames, episode by episode.

    Frames as in `acceptance_lengths`.
    """
    length = next(iter(decoders.values())).acceptance.space.length
    traces = _decoded(checkpoint, decoders, episodes, frames)
    chosen = [_located(episodes, int(index)) for index in _chosen(episodes, frames)]
    return {name: tuple(
        DecodedEpisode(episode, tuple(frame for other, frame in chosen if other == episode),
                       _gained([trace for (other, _), trace in zip(chosen, of_decoder, strict=True)
                                if other == episode], length))
        for episode in dict.fromkeys(name for name, _ in chosen))
        for name, of_decoder in traces.items()}


def _gained(traces: list[DecodeTrace], length: int) -> tuple[int, ...]:
    """Count the passes that gained 0 … L - 1 tokens."""
    lengths = [n for trace in traces for n in trace.acceptance_lengths]
    return tuple(np.bincount(np.array(lengths, np.int64), minlength=length).tolist())


def widest(config: DecoderConfig) -> DecoderConfig:
    """Return a preset with the tree that it drafts on a GPU, the paper's, on any device."""
    settings = config.drafter.settings_on('cuda')
    return replace(config, drafter=replace(config.drafter, settings=settings, by_device={}))


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
    for index in _chosen(episodes, frames):
        episode, frame = held_out.locate(int(index))
        pixels = torch.from_numpy(np.array(episode.pixels[frame])).to(checkpoint.model.device)
        pixel_values = checkpoint.transform.normalise(pixels)[None]
        prompt_ids = checkpoint.prompt_ids(episode.instruction)
        for name, decoder in decoders.items():
            traces[name].append(decoder.decode(prompt_ids, pixel_values)[1])
    return traces


def _chosen(episodes: list[Episode], frames: int) -> NDArray[np.int64]:
    """Return running indices of so many frames at most, spread evenly."""
    count = len(Frames.of(episodes))
    return np.linspace(0, count - 1, min(frames, count)).astype(np.int64)


def _located(episodes: list[Episode], index: int) -> tuple[str, int]:
    """Return the name of a frame's episode, and its number within it."""
    episode, frame = Frames.of(episodes).locate(index)
    return episode.name, frame
