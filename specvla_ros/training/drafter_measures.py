"""How good a drafter is: its guesses on held-out frames, and its passes in the real decoder."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from specvla_ros.configuration import load_preset
from specvla_ros.decoding.decoder import Decoder
from specvla_ros.decoding.drafters import DraftContext, Drafter
from specvla_ros.decoding.trace import DecodeTrace
from specvla_ros.decoding.tree import TokenTree
from specvla_ros.policy import Checkpoint
from specvla_ros.training.dataset import Episode, Frames
from specvla_ros.training.regenerated import Shard

NEAR = 9  # bins; the paper's r for LIBERO Goal, Object and Spatial


@dataclass(frozen=True, slots=True)
class Accuracy:
    """
    Share of guesses that are the target's token, and of those within `NEAR` bins of it.

    [depth - 1][token - 1] each, depth and token from 1 (token 0 is never drafted: the prefill
    says it); the guess of a token at a greater depth than its number doesn't exist and is 0.
    """

    exact: list[list[float]]
    near: list[list[float]]

    @classmethod
    def of(cls, off: Tensor) -> 'Accuracy':
        """From distances int [N, A, A], -1 where there is no guess."""
        shares = [((off >= 0) & (off <= most)).float().mean(0).tolist() for most in (0, NEAR)]
        return cls(*shares)

    def by_depth(self, shares: list[list[float]]) -> list[float]:
        """Mean over the tokens, a depth each."""
        return [sum(row[depth:]) / len(row[depth:]) for depth, row in enumerate(shares)]

    def point(self) -> dict[str, list[float]]:
        """Shares by depth, for the learning curve."""
        return {'held_out_exact': self.by_depth(self.exact),
                'held_out_within_9': self.by_depth(self.near)}

    def lines(self, action_dim: int) -> list[str]:
        """Table for people: a line a depth, exact/near percent of each token."""
        tokens = token_names(action_dim, len(self.exact) + 1)[1:]
        lines = [f'held out, % exact/within {NEAR}' + ''.join(f'{name:>10}' for name in tokens)]
        for depth, (exact, near) in enumerate(zip(self.exact, self.near, strict=True)):
            cells = [f'{100 * a:.0f}/{100 * b:.0f}' if token >= depth else ''
                     for token, (a, b) in enumerate(zip(exact, near, strict=True))]
            lines.append(f'depth {depth + 1}'.ljust(len(lines[0]) - 10 * len(tokens))
                         + ''.join(f'{cell:>10}' for cell in cells))
        return lines


def token_names(action_dim: int, length: int) -> list[str]:
    """Names of an action's tokens."""
    names = ['x', 'y', 'z', 'roll', 'pitch', 'yaw', 'gripper'] if action_dim == 7 \
        else [str(number) for number in range(action_dim)]
    return [names[number % action_dim] for number in range(length)]


@dataclass(frozen=True, slots=True)
class TokenAccuracy:
    """Share of guesses at each of L tokens that are the target's, and within `NEAR` bins of it."""

    exact: list[float]
    near: list[float]

    @classmethod
    def of(cls, off: Tensor) -> 'TokenAccuracy':
        """From distances int [N, L]."""
        return cls(*((off <= most).float().mean(0).tolist() for most in (0, NEAR)))

    def point(self) -> dict[str, list[float]]:
        """Shares by token, for the learning curve."""
        return {'held_out_exact': self.exact, 'held_out_within_9': self.near}

    def lines(self, action_dim: int) -> list[str]:
        """Table for people: exact/near percent of each token."""
        title = f'held out, % exact/within {NEAR}'
        cells = [f'{100 * a:.0f}/{100 * b:.0f}'
                 for a, b in zip(self.exact, self.near, strict=True)]
        names = token_names(action_dim, len(cells))
        return [title + ''.join(f'{name:>10}' for name in names),
                ' ' * len(title) + ''.join(f'{cell:>10}' for cell in cells)]


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
