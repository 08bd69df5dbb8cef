"""
The published tensor names, and the parameters of this package's modules they stand for.

A checkpoint names its vision towers as timm does (inside OpenVLA's wrappers), and its Llama as
transformers does. The towers here are transformers' modules, which compute the same functions
but split ``qkv`` into three, keep a class-token row in DINOv2's position embedding, and call
everything otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import re

import torch
from torch import Tensor

from .config import VisionConfig

_DINO_FROM, _DINO_TO = 'vision.dino.', 'vision_backbone.featurizer.'
_SIGLIP_FROM, _SIGLIP_TO = 'vision.siglip.', 'vision_backbone.fused_featurizer.'
_POSITIONS = 'pos_embed'
_CLASS_TOKEN = 'cls_token'
_QKV = re.compile(r'\b(?:self_attn|attention)\.([qkv])_proj\.')

# Ours → published, applied in this order to the name behind the tower's prefix.
_TOWER_RENAMES = (
    (re.compile(r'^embeddings\.(?:patch_embeddings\.projection|patch_embedding)\.'),
     'patch_embed.proj.'),
    (re.compile(r'^embeddings\.position_embeddings?(?:\.weight)?$'), _POSITIONS),
    (re.compile(r'^embeddings\.cls_token$'), _CLASS_TOKEN),
    (re.compile(r'^embeddings\.register_tokens$'), 'reg_token'),
    (re.compile(r'^encoder\.layers?\.'), 'blocks.'),
    (_QKV, 'attn.qkv.'),
    (re.compile(r'\b(?:self_attn\.out_proj|attention\.o_proj)\.'), 'attn.proj.'),
    (re.compile(r'\blayer_norm([12])\.'), r'norm\1.'),
    (re.compile(r'\blayer_scale([12])\.lambda1$'), r'ls\1.scale_factor'),
)


@dataclass(frozen=True, slots=True)
class PublishedTensor:
    """
    One published tensor: its name and shape, and the parameters it comes from.

    ``parameters`` are three for ``qkv``; for DINOv2's class token its own and the position
    embedding, whose first row is folded in.
    """

    name: str
    shape: tuple[int, ...]
    parameters: tuple[str, ...]

    def publish(self, state: Mapping[str, Tensor]) -> Tensor:
        """Tensor to save, of the model's state dict."""
        tensors = [state[name] for name in self.parameters]
        if self.name.endswith(('.qkv.weight', '.qkv.bias')):
            return torch.cat(tensors)
        if self.name == _DINO_TO + _CLASS_TOKEN:
            # The layout has no position for the class token: fold in what training made of it.
            return tensors[0] + tensors[1][:, :1]
        if self.name == _DINO_TO + _POSITIONS:
            return tensors[0][:, 1:].contiguous()
        if self.name == _SIGLIP_TO + _POSITIONS:
            return tensors[0][None]
        return tensors[0]

    def adopt(self, tensor: Tensor) -> dict[str, Tensor]:
        """Parameters of the model that a published tensor sets."""
        if len(self.parameters) == 3:
            return dict(zip(self.parameters, tensor.chunk(3), strict=True))
        if self.name == _DINO_TO + _POSITIONS:
            tensor = torch.cat((torch.zeros_like(tensor[:, :1]), tensor), dim=1)
        if self.name == _SIGLIP_TO + _POSITIONS:
            tensor = tensor[0]
        return {self.parameters[0]: tensor}


def published_tensors(state: Mapping[str, Tensor]) -> dict[str, PublishedTensor]:
    """The tensors a checkpoint must have for a model with this state dict, by their names."""
    parameters: dict[str, list[str]] = {}
    for name in state:
        parameters.setdefault(_published_name(name), []).append(name)
    result = {}
    for name, ours in parameters.items():
        ours.sort(key=_qkv_order)
        shape = list(state[ours[0]].shape)
        if len(ours) == 3:
            shape[0] *= 3
        if name == _DINO_TO + _CLASS_TOKEN:
            ours.append(_DINO_FROM + 'embeddings.position_embeddings')
        elif name == _DINO_TO + _POSITIONS:
            shape[1] -= 1
        elif name == _SIGLIP_TO + _POSITIONS:
            shape.insert(0, 1)
        result[name] = PublishedTensor(name, tuple(shape), tuple(ours))
    return result


def canonical(name: str) -> str:
    """Published spelling of a stored name: timm says ``gamma`` for LayerScale's factor."""
    return re.sub(r'(\.ls[12])\.gamma$', r'\1.scale_factor', name)


def is_unused(name: str, vision: VisionConfig) -> bool:
    """
    Whether a stored tensor is one that nothing here reads.

    That are the parts of a tower that the features never pass, and the rotary frequencies that an
    old transformers stored beside the weights: the configuration says them.
    """
    if name.endswith('.rotary_emb.inv_freq'):
        return True
    for prefix, vit in ((_DINO_TO, vision.dino), (_SIGLIP_TO, vision.siglip)):
        if vit is not None and name.startswith(prefix):
            unused = (f'blocks.{vit.depth - 1}.', 'norm.', 'attn_pool.')
            return name.removeprefix(prefix).startswith(unused)
    return False


def _published_name(name: str) -> str:
    """Name in the checkpoint of one of our parameters."""
    for ours, published in ((_DINO_FROM, _DINO_TO), (_SIGLIP_FROM, _SIGLIP_TO)):
        if name.startswith(ours):
            name = name.removeprefix(ours)
            for pattern, replacement in _TOWER_RENAMES:
                name = pattern.sub(replacement, name)
            return published + name
    if name.startswith('language_model.'):
        return 'language_model.model.' + name.removeprefix('language_model.')
    if name.startswith('lm_head.'):
        return 'language_model.' + name
    return name  # the projector


def _qkv_order(name: str) -> int:
    """Queries, keys, values: the order inside ``qkv`` (modules list theirs otherwise)."""
    found = _QKV.search(name)
    return 'qkv'.index(found.group(1)) if found else 0
