"""
``config.json`` of an OpenVLA checkpoint: the published keys, and the dimensions they imply.

A published ``config.json`` names its vision towers only by ``vision_backbone_id`` and most of
its Llama not at all: what is absent means the published 7B model. A small model spells its
dimensions out in the same file, under ``vision_config`` and ``text_config``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaConfig

from .errors import CheckpointError

# What the published text_config leaves out: the LlamaConfig of transformers 4.40. Newer
# versions may default otherwise (rms_norm_eps, rope_theta), so every value is spelled out.
_LLAMA_2_7B: dict[str, Any] = {
    'hidden_size': 4096,
    'intermediate_size': 11008,
    'num_hidden_layers': 32,
    'num_attention_heads': 32,
    'num_key_value_heads': None,  # as many as attention heads
    'head_dim': None,  # hidden_size / num_attention_heads
    'hidden_act': 'silu',
    'max_position_embeddings': 2048,
    'initializer_range': 0.02,
    'rms_norm_eps': 1e-6,
    'rope_theta': 10000.0,
    'attention_bias': False,
    'mlp_bias': False,
    'pad_token_id': None,
    'bos_token_id': 1,
    'eos_token_id': 2,
}


def _positive(name: str, value: Any) -> int:
    """Return the value if it is a positive int, else raise."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f'config.json: {name} is {value!r}, must be a positive integer')
    return value


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
        for field in fields(self):
            _positive(f'vision_config {field.name}', getattr(self, field.name))
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
        _positive('image size', self.image_size)
        _positive('patch_size', self.patch_size)
        if self.dino.mlp_size % self.dino.hidden_size:
            raise CheckpointError(
                f'vision_config dino mlp_size {self.dino.mlp_size} must be a multiple of its '
                f'hidden_size {self.dino.hidden_size}'
            )

    @property
    def n_patches(self) -> int:
        """Patches an image is cut into (a rest at the border is dropped, as timm does)."""
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
    """

    vision_config: VisionConfig
    text_config: LlamaConfig
    n_action_bins: int = 256
    pad_to_multiple_of: int = 64
    vision_backbone_id: str = 'dinosiglip-vit-so-224px'
    llm_backbone_id: str = 'llama2-7b-pure'
    dtype: str = 'float32'

    def __post_init__(self) -> None:
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
    def from_dict(cls, config: Mapping[str, Any]) -> OpenVLAConfig:
        """
        Read the content of ``config.json``.

        Raises CheckpointError, naming the key, for anything that is not an OpenVLA.
        """
        if (found := config.get('model_type')) != 'openvla':
            raise CheckpointError(f"config.json: model_type is {found!r}, must be 'openvla'")
        return cls(
            vision_config=_vision_config(config),
            text_config=llama_config(config.get('text_config') or {}),
            n_action_bins=_positive('n_action_bins', config.get('n_action_bins', 256)),
            pad_to_multiple_of=_positive(
                'pad_to_multiple_of', config.get('pad_to_multiple_of', 64)
            ),
            vision_backbone_id=str(config.get('vision_backbone_id')),
            llm_backbone_id=str(config.get('llm_backbone_id', 'llama2-7b-pure')),
            dtype=str(config.get('torch_dtype') or config.get('dtype') or 'float32'),
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
                **{key: getattr(text, key) for key in _LLAMA_2_7B if key != 'rope_theta'},
                'rope_theta': text.rope_parameters['rope_theta'],
            },
            'n_action_bins': self.n_action_bins,
            'pad_to_multiple_of': self.pad_to_multiple_of,
            'torch_dtype': self.dtype,
        }


def llama_config(text_config: Mapping[str, Any]) -> LlamaConfig:
    """
    Spell out the Llama a ``text_config`` means; absent keys are those of the published 7B.

    Both spellings of the rotary base are read: ``rope_theta`` (published) and transformers 5's
    ``rope_parameters``. Scaled rotary embeddings are refused: no OpenVLA has any.
    """
    if (found := text_config.get('model_type', 'llama')) != 'llama':
        raise CheckpointError(f"config.json: text_config model_type is {found!r}, must be 'llama'")
    settings = {key: text_config.get(key, default) for key, default in _LLAMA_2_7B.items()}
    rope = dict(text_config.get('rope_parameters') or {})
    theta = float(rope.get('rope_theta', settings.pop('rope_theta')))
    kind = (text_config.get('rope_scaling') or rope).get('rope_type', 'default')
    if kind != 'default':
        raise CheckpointError(
            f"config.json: text_config rope_type is {kind!r}, must be 'default' or absent"
        )
    try:
        return LlamaConfig(
            vocab_size=_positive('text_config vocab_size', text_config.get('vocab_size', 32064)),
            rope_parameters={'rope_type': 'default', 'rope_theta': theta},
            attn_implementation='sdpa',
            use_cache=False,
            tie_word_embeddings=False,
            **settings,
        )
    except StrictDataclassError as error:
        reason = ' '.join(str(error).split())
        raise CheckpointError(f'config.json: text_config is no Llama: {reason}') from error


def _vision_config(config: Mapping[str, Any]) -> VisionConfig:
    """Dimensions of the towers: spelled out in ``vision_config``, else those of the name."""
    fused = bool(config.get('use_fused_vision_backbone', True))
    sizes = config.get('image_sizes') or [224]
    if len(set(sizes)) != 1:
        raise CheckpointError(
            f'config.json: image_sizes are {list(sizes)}, must be one size for both towers'
        )
    spelled = config.get('vision_config')
    if spelled:
        return VisionConfig(
            dino=_vit_config(spelled, 'dino'),
            siglip=_vit_config(spelled, 'siglip') if fused else None,
            image_size=sizes[0],
            patch_size=spelled.get('patch_size', 14),
            registers=spelled.get('registers', 4),
        )
    name = config.get('vision_backbone_id')
    if name not in _BACKBONES or (_BACKBONES[name].siglip is not None) != fused:
        raise CheckpointError(
            f'config.json: vision_backbone_id is {name!r} with use_fused_vision_backbone '
            f'{fused}, must be one of {sorted(_BACKBONES)} (the first fused, the second not), '
            'or come with a vision_config that spells the dimensions out'
        )
    known = _BACKBONES[name]
    return VisionConfig(known.dino, known.siglip, image_size=sizes[0])


def _vit_config(vision_config: Mapping[str, Any], tower: str) -> ViTConfig:
    """One tower of ``vision_config``."""
    found = vision_config.get(tower)
    wanted = [field.name for field in fields(ViTConfig)]
    if not isinstance(found, Mapping) or set(found) != set(wanted):
        raise CheckpointError(
            f'config.json: vision_config {tower!r} is {found!r}, must have exactly {wanted}'
        )
    return ViTConfig(**found)
