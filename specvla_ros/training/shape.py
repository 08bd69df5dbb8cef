"""The dimensions of a small target, and its random start."""

from dataclasses import dataclass

import torch
from torch import nn, Tensor
from transformers import PreTrainedTokenizerFast

from specvla_ros.openvla.config import llama_config, OpenVLAConfig, VisionConfig, ViTConfig
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training.tokenizer import BOS_ID, EOS_ID, N_BYTES

N_BINS = 256
_PADDING_ROWS = 64
_EMBEDDED, _SAID = 0.5, 0.02  # deviations of a random embedding, and of a row of the head


@dataclass(frozen=True, slots=True)
class TargetShape:
    """
    Dimensions of the target.

    The two vision towers are alike; `vision_blocks` counts the blocks that are used (the
    published layout counts one more, whose output nothing reads).
    """

    image_size: int = 168  # pixels
    patch_size: int = 24  # pixels
    vision_width: int = 128
    vision_blocks: int = 4
    vision_heads: int = 4
    vision_mlp: int = 384  # a multiple of vision_width
    hidden: int = 160
    layers: int = 8
    mlp: int = 480
    head_dim: int = 32

    def config(self, text_tokens: int) -> OpenVLAConfig:
        """
        Configuration of a target whose tokenizer knows `text_tokens` without the action tokens.

        :raises CheckpointError: dimensions that don't fit together
        """
        tower = ViTConfig(
            self.vision_width, self.vision_blocks + 1, self.vision_heads, self.vision_mlp)
        text = llama_config({
            'hidden_size': self.hidden,
            'intermediate_size': self.mlp,
            'num_hidden_layers': self.layers,
            'num_attention_heads': self.hidden // self.head_dim,
            'head_dim': self.head_dim,
            'vocab_size': text_tokens + N_BINS + _PADDING_ROWS,
            'max_position_embeddings': 2048,
            'bos_token_id': BOS_ID,
            'eos_token_id': EOS_ID,
        })
        return OpenVLAConfig(
            VisionConfig(tower, tower, self.image_size, self.patch_size),
            text,
            n_action_bins=N_BINS,
            pad_to_multiple_of=_PADDING_ROWS,
            vision_backbone_id='dinosiglip-small',
            llm_backbone_id='llama2-small-pure',
        )


def new_target(
    shape: TargetShape, tokenizer: PreTrainedTokenizerFast, text_tokens: int, seed: int
) -> OpenVLA:
    """Return a random target of a shape; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = OpenVLA(shape.config(text_tokens))
        initialise(model)
    model.tokenizer = tokenizer
    return model


@torch.no_grad()
def forget_words(model: OpenVLA, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    """
    Give a target another tokenizer, of as many ids: the words that it knew are new ones from now.

    Special tokens, bytes and actions mean what they did, and keep their weights.
    """
    first, last = 3 + N_BYTES, model.action_tokenizer.first_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for weight, deviation in ((model.language_model.embed_tokens.weight, _EMBEDDED),
                                  (model.lm_head.weight, _SAID)):
            weight[first:last].normal_(std=deviation)
    model.tokenizer = tokenizer


@torch.no_grad()
def initialise(model: OpenVLA) -> None:
    """
    Draw weights that let a small network learn from the first step.

    The usual deviation of 0.02 is made for widths of thousands: here it would leave the patches
    some 1e-4 large behind the projector, below the eps of Llama's norm. So each layer keeps the
    variance (1/√fan-in), and what is added to the residual stream is damped by the depth.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in model.named_parameters():
        if name.endswith(('o_proj.weight', 'out_proj.weight', 'down_proj.weight',
                          'mlp.fc2.weight')):
            blocks = len(model.language_model.layers) if name.startswith('language') \
                else model.config.vision_config.dino.depth - 1
            parameter.mul_((2 * blocks) ** -0.5)
    nn.init.normal_(model.language_model.embed_tokens.weight, std=_EMBEDDED)
    nn.init.normal_(model.lm_head.weight, std=_SAID)
    vision = model.vision
    positions = _sincos(model.config.n_patches, vision.dino.config.hidden_size)
    vision.dino.embeddings.position_embeddings.zero_()[0, 1:] = positions
    for token in (vision.dino.embeddings.cls_token, vision.dino.embeddings.register_tokens):
        nn.init.normal_(token, std=0.5)
    if vision.siglip is not None:
        width = vision.siglip.config.hidden_size
        vision.siglip.embeddings.position_embedding.weight.copy_(
            _sincos(model.config.n_patches, width))


def _sincos(patches: int, width: int) -> Tensor:
    """Sines and cosines of row and column, [P, width]: neighbours start out alike."""
    side = round(patches ** 0.5)
    quarter = -(-width // 4)
    rates = (2 * side) ** -(torch.arange(quarter) / quarter) * torch.pi
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing='ij')
    angles = [axis.reshape(-1, 1) * rates for axis in (rows, columns)]
    waves = [wave(angle) for angle in angles for wave in (torch.sin, torch.cos)]
    return torch.cat(waves, dim=1)[:, :width] * 0.7
