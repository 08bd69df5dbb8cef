"""
The glance network: an action from the image's patches at once, before the target has read them.

The towers' projected patches are there before the prefill, and in a trained model they say where
arm and objects are. A few matrix products, small beside a pass, turn them and the
instruction into a guess at all L tokens. It is no policy: the target verifies every guess.
Source: ours; distilled from the target's own actions by ``specvla train glance``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn, Tensor
from torch.nn import functional

from specvla_ros.errors import shown, SpecVLAError
from specvla_ros.openvla.json_file import Fields
from specvla_ros.openvla.model import OpenVLA

from .head_files import load_head, save_head

_MODEL_TYPE = 'glance'
_MOST = 2**17  # of any dimension
_MOST_WEIGHTS = 2**29  # more is no glance


@dataclass(frozen=True, slots=True)
class GlanceConfig:
    """
    Dimensions of a glance network.

    hidden_size, patches, bins: of its target: width, image tokens, action tokens. length: L, the
    tokens it guesses. rank: numbers a patch is condensed to; width: of the layers behind them;
    shapes: number of curves over the bins; the logits of a token are a weighted sum of them.
    """

    hidden_size: int
    patches: int
    bins: int
    length: int
    rank: int = 24
    width: int = 256
    shapes: int = 64

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
                raise SpecVLAError(
                    f'glance {setting.name} is {shown(value)}, must be a positive whole number, '
                    f'at most {_MOST}'
                )

        weights = (self.patches + 1) * self.rank * self.width + self.width**2 + (
            self.length * self.width + self.bins) * self.shapes
        if weights > _MOST_WEIGHTS:
            raise SpecVLAError(
                f'glance dimensions make {weights:.1e} weights, must be at most '
                f'{_MOST_WEIGHTS:.1e}: see rank {self.rank}, width {self.width}, shapes '
                f'{self.shapes}, patches {self.patches}, length {self.length}'
            )

    @classmethod
    def like(cls, target: OpenVLA, length: int, **sizes: int) -> GlanceConfig:
        """Fit a target whose actions have this many tokens."""
        config = target.config
        return cls(
            config.hidden_size, config.n_patches, target.action_tokenizer.n_bins, length, **sizes
        )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> GlanceConfig:
        """Read what ``config.json`` says; raises SpecVLAError if it is of something else."""
        content = Fields(config, 'glance')
        names = [setting.name for setting in fields(cls)]
        missing = [name for name in names if name not in config]
        if missing or config.get('model_type') != _MODEL_TYPE:
            raise SpecVLAError(
                f'is no glance network (model_type {shown(config.get("model_type"))}, lacks '
                f'{missing}); `specvla train glance` makes one'
            )
        content.known({'model_type', *names})
        return cls(**{name: config[name] for name in names})


class GlanceHead(nn.Module):
    """The glance network: guesses an action from patches and instruction; random until trained."""

    def __init__(self, config: GlanceConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(config.hidden_size)
        self.patch = nn.Linear(config.hidden_size, config.rank)
        self.text = nn.Linear(config.hidden_size, config.rank)
        self.first = nn.Linear((config.patches + 1) * config.rank, config.width)
        self.second = nn.Linear(config.width, config.width)
        # Bins are neighbours: what is likely for one is for the next, and few curves say it all.
        self.mixture = nn.Linear(config.width, config.length * config.shapes)
        self.shapes = nn.Linear(config.shapes, config.bins)

    def forward(self, patches: Tensor, text: Tensor, kept: Tensor | None = None) -> Tensor:
        """
        Logits [B, L, bins] of the action tokens.

        patches: [B, P, h] projected patches; text: [B, h] mean embedding of the text behind
        them; kept: [2, B, width] what the two wide layers' numbers are multiplied by (dropout,
        in training).
        """
        return self.guess(self.condense(patches, text), kept)

    def condense(self, patches: Tensor, text: Tensor) -> Tensor:
        """Condense patches [B, P, h] and text [B, h] to [B, (P + 1) · rank], for ``guess``."""
        condensed = self.patch(self.norm(patches)).flatten(1)
        return torch.cat((condensed, self.text(self.norm(text))), dim=1)

    def guess(self, condensed: Tensor, kept: Tensor | None = None) -> Tensor:
        """Logits [B, L, bins] from what ``condense`` gives; kept: see ``forward``."""
        x = functional.gelu(self.first(functional.gelu(condensed)))
        first, second = (None, None) if kept is None else kept
        x = x + functional.gelu(self.second(_times(x, first)))
        mixture = self.mixture(_times(x, second))
        return self.shapes(mixture.view(-1, self.config.length, self.config.shapes))

    @classmethod
    def from_pretrained(cls, folder: str | Path, target: OpenVLA) -> GlanceHead:
        """
        Read a folder that ``save_pretrained`` wrote, for this target.

        Raises FileNotFoundError if a file is missing, and SpecVLAError if the network is another
        target's.
        """
        head = load_head(Path(folder), target, lambda it: cls(GlanceConfig.from_dict(it)))
        fits = GlanceConfig.like(target, head.config.length)
        for name in ('patches', 'bins'):
            if getattr(head.config, name) != getattr(fits, name):
                raise SpecVLAError(
                    f"{folder}: {name} is {getattr(head.config, name)}, must be the target's "
                    f"{getattr(fits, name)}: this drafter is another model's"
                )
        return head

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``; ``from_pretrained`` reads them."""
        save_head(Path(folder), self, {'model_type': _MODEL_TYPE, **asdict(self.config)})


def _times(x: Tensor, kept: Tensor | None) -> Tensor:
    return x if kept is None else x * kept
