"""
``config.json`` of an OpenVLA checkpoint: the published keys, and the dimensions they imply.

A published ``config.json`` names its vision towers only by ``vision_backbone_id`` and most of
its Llama not at all: what is absent means the published 7B model. A small model spells its
dimensions out in the same file, under ``vision_config`` and ``text_config``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from .errors import CheckpointError
from .json_file import Fields, shown, within
from .llama_config import (
    LLAMA_2_7B,
    llama_config,
    MOST_HEADS,
    MOST_LAYERS,
    MOST_WIDTH,
    TextConfig,
)
from .published_keys import (
    check_model_type,
    check_published_keys,
    dtype_name,
    image_preparation,
    is_fused,
)

__all__ = ['llama_config', 'MOST_STEPS', 'OpenVLAConfig', 'VisionConfig', 'ViTConfig']

_MOST_PIXELS, _MOST_REGISTERS = 4096, 256
MOST_STEPS = 64  # of an action, as `policy_node`'s parameter `chunk`
_LEAST_TEXT = 32  # positions that a prompt and its action take, at least
_MOST_OF_A_TOWER = {'hidden_size': MOST_WIDTH, 'depth': MOST_LAYERS, 'num_heads': MOST_HEADS,
                    'mlp_size': MOST_WIDTH}


def _whole(name: str, value: object, most: int) -> None:
    """Raise CheckpointError unless a value is an int from 1 to the most there is."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise CheckpointError(
            f'{name} is {shown(value)}, must be a positive integer, at most {most}')


@dataclass(frozen=True, slots=True)
class ViTConfig:
    """
    One vision transformer, in timm's terms.

    ``depth`` counts the blocks of the published network. The features are the output of the
    second-to-last block, so the last one is neither built, saved nor required on load.
    """

    hidden_size: int
    depth: int
    num_heads: int
    mlp_size: int

    def __post_init__(self) -> None:
        for name, most in _MOST_OF_A_TOWER.items():
            _whole(f'vision_config {name}', getattr(self, name), most)
        if self.hidden_size % self.num_heads:
            raise CheckpointError(
                f'vision_config hidden_size {self.hidden_size} is not a multiple of '
                f'num_heads {self.num_heads}'
            )
        if self.depth < 2:
            raise CheckpointError(
                f'vision_config depth is {self.depth}, must be at least 2: '
                'the features leave before the last block'
            )


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """
    The fused vision backbone: two towers over the same patches.

    ``registers`` are DINOv2's register tokens. ``siglip`` is None when the checkpoint has
    ``use_fused_vision_backbone: false``; then there is the DINOv2 tower only.
    """

    dino: ViTConfig
    siglip: ViTConfig | None
    image_size: int = 224
    patch_size: int = 14
    registers: int = 4

    def __post_init__(self) -> None:
        _whole('image_sizes', self.image_size, _MOST_PIXELS)
        _whole('vision_config patch_size', self.patch_size, _MOST_PIXELS)
        _whole('vision_config registers', self.registers, _MOST_REGISTERS)
        if rest := self.image_size % self.patch_size:
            raise CheckpointError(
                f'image_sizes are {self.image_size}, must be a multiple of the patch size '
                f'{self.patch_size}: {rest} pixels are left over'
            )
        if self.dino.mlp_size % self.dino.hidden_size:
            raise CheckpointError(
                f'vision_config dino mlp_size {self.dino.mlp_size} must be a multiple of its '
                f'hidden_size {self.dino.hidden_size}'
            )

    @property
    def n_patches(self) -> int:
        """Patches an image is cut into."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def feature_size(self) -> int:
        """Width of the concatenated patch features."""
        return self.dino.hidden_size + (self.siglip.hidden_size if self.siglip else 0)


# ViT-L/14 with 4 registers beside so400m/14 (timm: vit_large_patch14_reg4_dinov2 and
# vit_so400m_patch14_siglip_224).
_VIT_L = ViTConfig(hidden_size=1024, depth=24, num_heads=16, mlp_size=4096)
_SO400M = ViTConfig(hidden_size=1152, depth=27, num_heads=16, mlp_size=4304)
_BACKBONES = {
    'dinosiglip-vit-so-224px': VisionConfig(_VIT_L, _SO400M),
    'dinov2-vit-l': VisionConfig(_VIT_L, None),
}


@dataclass(frozen=True, slots=True)
class OpenVLAConfig:
    """
    The architecture of an OpenVLA: what its ``config.json`` says, without the statistics.

    ``text_config.vocab_size`` counts the ``pad_to_multiple_of`` rows of padding at the end of
    the embedding; the action tokens are the last ``n_action_bins`` ids before them.
    ``image_preparation`` says how frames were prepared in training, {'jpeg': bool, 'crop_area':
    float}; None = the data set's configuration knows.
    ``chunk``: control steps of an action, H, that it was trained to say; None = the file says
    nothing, as published ones do. ``execute_steps``: how many of them, E, its makers recommend to
    execute before the next action; None = no recommendation.
    """

    vision_config: VisionConfig
    text_config: TextConfig
    n_action_bins: int = 256
    pad_to_multiple_of: int = 64
    vision_backbone_id: str = 'dinosiglip-vit-so-224px'
    llm_backbone_id: str = 'llama2-7b-pure'
    dtype: str = 'float32'
    image_preparation: Mapping[str, Any] | None = None
    chunk: int | None = None
    execute_steps: int | None = None

    def __post_init__(self) -> None:
        if self.execute_steps is not None and self.execute_steps > (self.chunk or 1):
            raise CheckpointError(
                f'execute_steps is {self.execute_steps}, must be at most chunk, '
                f'{self.chunk or 1}: no more steps are executed than an action has')
        positions = self.text_config.max_position_embeddings
        if self.n_patches + _LEAST_TEXT > positions:
            raise CheckpointError(
                f'text_config max_position_embeddings is {positions}, must be at least '
                f'{self.n_patches + _LEAST_TEXT}: the image takes {self.n_patches} positions, '
                f'a prompt and its action {_LEAST_TEXT}'
            )
        if self.n_action_bins < 2:
            raise CheckpointError('n_action_bins is 1, must be at least 2: the ends of the range')
        if self.action_vocab_size <= self.n_action_bins:
            raise CheckpointError(
                f'text_config vocab_size {self.text_config.vocab_size} less '
                f'{self.pad_to_multiple_of} rows of padding leaves no room for '
                f'{self.n_action_bins} action tokens'
            )

    @property
    def image_size(self) -> int:
        """Side of the square network input in pixels."""
        return self.vision_config.image_size

    @property
    def n_patches(self) -> int:
        """Number of projected patches that stand in the prompt."""
        return self.vision_config.n_patches

    @property
    def hidden_size(self) -> int:
        """Width of the Llama."""
        return self.text_config.hidden_size

    @property
    def action_vocab_size(self) -> int:
        """Vocabulary without the rows of padding: 32000 for the published models."""
        return self.text_config.vocab_size - self.pad_to_multiple_of

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], file: str = 'config.json') -> OpenVLAConfig:
        """
        Read the content of ``config.json``.

        file: what messages call it. Raises CheckpointError, naming the key, for anything that is
        not an OpenVLA, or one that is not computed here.
        """
        fields = Fields(config, file)
        check_model_type(fields)
        towers = 2 if is_fused(fields) else 1
        check_published_keys(fields, towers)
        with within(file):
            return cls(
                vision_config=_vision_config(fields, towers),
                text_config=llama_config(fields.section('text_config').content, file),
                n_action_bins=fields.integer('n_action_bins', 256, most=2**16),
                pad_to_multiple_of=fields.integer('pad_to_multiple_of', 64, most=2**16),
                vision_backbone_id=fields.text('vision_backbone_id', 'None'),
                llm_backbone_id=fields.text('llm_backbone_id', 'llama2-7b-pure'),
                dtype=dtype_name(fields),
                image_preparation=image_preparation(fields),
                chunk=fields.integer('chunk', None, most=MOST_STEPS),
                execute_steps=fields.integer('execute_steps', None, most=MOST_STEPS),
            )

    def to_dict(self) -> dict[str, Any]:
        """Content of ``config.json``, every dimension spelled out; ``from_dict`` reads it."""
        vision, text = self.vision_config, self.text_config
        towers = {'dino': asdict(vision.dino)}
        if vision.siglip:
            towers['siglip'] = asdict(vision.siglip)
        return {
            'architectures': ['OpenVLAForActionPrediction'],
            'model_type': 'openvla',
            'vision_backbone_id': self.vision_backbone_id,
            'llm_backbone_id': self.llm_backbone_id,
            'image_sizes': [vision.image_size] * len(towers),
            'image_resize_strategy': 'resize-naive',
            'use_fused_vision_backbone': vision.siglip is not None,
            'vision_config': {
                'patch_size': vision.patch_size,
                'registers': vision.registers,
                **towers,
            },
            'text_config': {
                'model_type': 'llama',
                'vocab_size': text.vocab_size,
                **{key: getattr(text, key) for key in LLAMA_2_7B if key != 'rope_theta'},
                'rope_theta': text.rope_parameters['rope_theta'],
            },
            'n_action_bins': self.n_action_bins,
            'pad_to_multiple_of': self.pad_to_multiple_of,
            'torch_dtype': self.dtype,
            **({'image_preparation': dict(self.image_preparation)} if self.image_preparation
               else {}),
            **{key: value for key in ('chunk', 'execute_steps')
               if (value := getattr(self, key)) is not None},
        }


def _vision_config(fields: Fields, towers: int) -> VisionConfig:
    """Dimensions of the towers: spelled out in ``vision_config``, else those of the name."""
    image_size = _image_size(fields, towers)
    if fields.content.get('vision_config') is not None:
        spelled = fields.section('vision_config')
        spelled.known({'patch_size', 'registers', 'dino', 'siglip'})
        return VisionConfig(
            dino=_vit_config(spelled, 'dino'),
            siglip=_vit_config(spelled, 'siglip') if towers == 2 else None,
            image_size=image_size,
            patch_size=spelled.integer('patch_size', 14, most=_MOST_PIXELS),
            registers=spelled.integer('registers', 4, most=_MOST_REGISTERS),
        )
    name = fields.content.get('vision_backbone_id')
    known = _BACKBONES.get(name or '')
    if known is None or (known.siglip is not None) != (towers == 2):
        raise fields.error(
            f'vision_backbone_id is {name!r} with use_fused_vision_backbone {towers == 2}, must '
            f'be one of {sorted(_BACKBONES)} (the first fused, the second not), or come with a '
            'vision_config that spells the dimensions out'
        )
    return replace(known, image_size=image_size)


def _image_size(fields: Fields, towers: int) -> int:
    """Side of the network's input: one size, given for each tower."""
    sizes = fields.items('image_sizes', [224] * towers)
    if len(sizes) not in (towers, 2) or not all(type(size) is int for size in sizes):
        fields.refuse('image_sizes', f'a list of {towers}: an integer for each tower')
    if len(set(sizes)) != 1:
        raise fields.error(f'image_sizes are {sizes}, must be one size for both towers')
    return sizes[0]


def _vit_config(vision_config: Fields, tower: str) -> ViTConfig:
    """One tower of ``vision_config``."""
    found = vision_config.content.get(tower)
    wanted = list(_MOST_OF_A_TOWER)
    if not isinstance(found, Mapping) or set(found) != set(wanted):
        raise vision_config.error(f'{tower!r} is {shown(found)}, must have exactly {wanted}')
    return ViTConfig(**found)
