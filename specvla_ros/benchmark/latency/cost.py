"""
The least that a pass can cost: bytes and operations, from the model's own tensors.

Weights are read once a pass, cached keys and values once, activations are negligible beside them.
A multiplication and an addition are two operations: two per weight and row. These are lower
bounds: a real kernel moves and computes more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from specvla_ros.openvla.config import ViTConfig
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.openvla.quantization import stored_bytes


@dataclass(frozen=True, slots=True)
class Work:
    """Bytes moved and operations done."""

    n_bytes: float
    flops: float

    def __add__(self, other: Work) -> Work:
        return Work(self.n_bytes + other.n_bytes, self.flops + other.flops)

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flops / self.n_bytes


def total(works: Iterable[Work]) -> Work:
    """Sum of several."""
    return sum(works, Work(0.0, 0.0))


class PassWork:
    """
    Work of the passes of one model; the model may lie on the meta device.

    :param head_rows: rows of `lm_head` a pass reads: the action tokens, or the whole vocabulary

    `weight_bytes` are those a pass of the Llama reads.
    """

    def __init__(self, model: OpenVLA, head_rows: int) -> None:
        text = model.config.text_config
        llama, head = model.language_model, model.lm_head.weight
        self._vision = _vision(model)
        self.weight_bytes = stored_bytes([
            *llama.layers.parameters(), *llama.norm.parameters()])
        self.weight_bytes += head_rows * head.shape[1] * head.element_size()
        self._row_flops = 2 * _matrix_weights(llama.layers)
        self._head_flops = 2 * head_rows * head.shape[1]
        heads = text.num_hidden_layers * text.head_dim
        self._entry_bytes = 2 * heads * text.num_key_value_heads * head.element_size()
        self._pair_flops = 4 * heads * text.num_attention_heads  # q·k, and its share of v

    def vision(self) -> Work:
        """Both towers and the projector, for one image."""
        return self._vision

    def language(self, rows: int, cached: int, read: int) -> Work:
        """
        One pass of the Llama.

        :param rows: tokens that go in, `cached`: those before them
        :param read: rows whose logits are computed

        Attention counts as in a chain, where each row sees itself and all before it; nodes of a
        tree see a little less.
        """
        pairs = rows * cached + rows * (rows + 1) / 2
        return Work(
            self.weight_bytes + (cached + rows) * self._entry_bytes,
            rows * self._row_flops + pairs * self._pair_flops + read * self._head_flops)

    def action(self, prompt: int, drafts: Sequence[tuple[int, int]]) -> list[tuple[str, Work]]:
        """
        Stage and work of every pass of one action.

        :param prompt: rows of the prompt, patches included
        :param drafts: (drafted, accepted) of each pass, the prefill first, as the trace has them
        """
        passes = [('vision', self.vision())]
        cached, rows, stage = 0, prompt, 'prefill'
        for drafted, accepted in drafts:
            passes.append((stage, self.language(rows + drafted, cached, 1 + drafted)))
            # The bonus of a pass is the root of the next: known, and not yet cached.
            cached, rows, stage = cached + rows + accepted, 1, 'verify'
        return passes


def _vision(model: OpenVLA) -> Work:
    """Work of the towers and the projector for one image."""
    config, vision = model.config.vision_config, model.vision
    patches = config.n_patches
    towers: list[tuple[nn.Module, nn.ModuleList, ViTConfig, int]] = [
        (vision.dino, vision.dino.encoder.layer, config.dino, 1 + config.registers)]
    if vision.siglip is not None and config.siglip is not None:
        towers.append((vision.siglip, vision.siglip.encoder.layers, config.siglip, 0))
    flops = 2 * patches * _matrix_weights(model.projector)
    for tower, blocks, vit, extra in towers:
        tokens = patches + extra
        cut = next(module for module in tower.modules() if isinstance(module, nn.Conv2d))
        flops += 2 * patches * cut.weight.numel()
        flops += 2 * tokens * _matrix_weights(blocks)
        flops += 4 * tokens * tokens * vit.hidden_size * len(blocks)
    return Work(
        stored_bytes([*vision.parameters(), *model.projector.parameters()]), flops)


def _matrix_weights(module: nn.Module) -> int:
    """Weights that are multiplied with each row: those of the matrices."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim == 2)
