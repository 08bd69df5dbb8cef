"""From the vision towers' patch features to the language model's embeddings."""

from __future__ import annotations

from torch import nn, Tensor
from torch.nn import functional


class Projector(nn.Module):
    """
    Patch features → the Llama's width; exact GELU between the layers.

    Three layers behind a fused backbone (first widening fourfold), two behind a single one.
    """

    def __init__(self, features: int, hidden: int, fused: bool) -> None:
        super().__init__()
        wide = 4 * features if fused else hidden
        self.fc1 = nn.Linear(features, wide)
        self.fc2 = nn.Linear(wide, hidden)
        self.fc3 = nn.Linear(hidden, hidden) if fused else None

    def forward(self, features: Tensor) -> Tensor:
        """[B, P, features] → [B, P, hidden]."""
        hidden = self.fc2(functional.gelu(self.fc1(features)))
        return hidden if self.fc3 is None else self.fc3(functional.gelu(hidden))
