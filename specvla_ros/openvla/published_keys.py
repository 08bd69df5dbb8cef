"""
Keys of ``config.json`` that describe an OpenVLA beside its dimensions: honoured, or refused.

They say how a checkpoint was built: projector, towers, activations, prompt. Another architecture,
or another prompt, would load into the same shapes and answer something else.
"""

from __future__ import annotations

import re
from typing import Any

from .json_file import Fields, shown
from .llama_config import BOOKKEEPING

DTYPES = ('float32', 'bfloat16', 'float16')
_CLASS = 'OpenVLAForActionPrediction'
# Other models that are kept in folders with a config.json, and the word that gives them away.
_OTHERS = {
    'type': 'a policy of LeRobot',
    'vla': 'a training run of Prismatic before its conversion to the Hugging Face layout',
}
_READ = frozenset("""
    arch_specifier chunk execute_steps hf_llm_id image_preparation image_resize_strategy
    image_sizes is_composition llm_backbone_id llm_max_length model_type n_action_bins norm_stats
    output_projector_states pad_to_multiple_of pad_token_id quantization_config text_config
    tie_word_embeddings timm_model_ids timm_override_act_layers use_fused_vision_backbone
    vision_backbone_id vision_config
""".split())
_PROJECTORS = {2: 'fused-gelu-mlp', 1: 'gelu-mlp'}
_TIMM = {2: ('vit_large_patch14_reg4_dinov2', 'vit_so400m_patch14_siglip_224'),
         1: ('vit_large_patch14_reg4_dinov2',)}


def check_model_type(fields: Fields) -> None:
    """Raise CheckpointError unless a ``config.json`` says that it is an OpenVLA's."""
    found = fields.content.get('model_type')
    if found == 'openvla':
        return
    hint = next((f': this is {what}' for key, what in _OTHERS.items()
                 if found is None and key in fields.content), '')
    raise fields.error(f"model_type is {shown(found)}, must be 'openvla'{hint}")


def is_fused(fields: Fields) -> bool:
    """Whether there are two towers; where nothing says so, their name does."""
    name = fields.text('vision_backbone_id', '')
    return fields.flag('use_fused_vision_backbone', not name.startswith('dinov2'))


def check_published_keys(fields: Fields, towers: int) -> None:
    """
    Refuse an architecture, a prompt or a data type that is none of those computed here.

    Raises CheckpointError naming the key.
    """
    fields.known(_READ, BOOKKEEPING)
    fields.only('quantization_config', why='stored weights must be floating point; '
                '--quantization makes them smaller on load')
    fields.only('tie_word_embeddings', False, why='the layout stores lm_head of its own')
    fields.only('image_resize_strategy', 'resize-naive',
                why="frames are squeezed to a square, as OpenVLA's data loader does")
    for key in ('llm_max_length', 'pad_token_id'):
        fields.integer(key, None, least=-1 if key == 'pad_token_id' else 1)
    fields.flag('output_projector_states', None)
    fields.text('transformers_version', None)
    _check_classes(fields)
    _check_projector(fields, towers)
    _check_language_model(fields)
    _check_towers(fields, towers)


def dtype_name(fields: Fields) -> str:
    """Name of the data type the weights are meant for, by either spelling of the key."""
    found = {name for key in ('torch_dtype', 'dtype')
             if (name := fields.text(key, None, allowed=DTYPES)) is not None}
    if len(found) > 1:
        fields.refuse('torch_dtype', f'what dtype is, {shown(fields.content["dtype"])}')
    return found.pop() if found else 'float32'


def image_preparation(fields: Fields) -> dict[str, Any] | None:
    """Return what the checkpoint says of its frames' preparation; None = the data set knows."""
    if fields.content.get('image_preparation') is None:
        return None
    inside = fields.section('image_preparation')
    unknown = sorted(set(inside.content) - {'jpeg', 'crop_area'})
    if unknown:
        raise inside.error(f"has {unknown}, must have 'jpeg' and 'crop_area'")
    return {'jpeg': inside.flag('jpeg'), 'crop_area': inside.number('crop_area', above=0, most=1)}


def _check_classes(fields: Fields) -> None:
    """The checkpoint's own code must be OpenVLA's, not a class derived from it."""
    if any(name != _CLASS for name in fields.items('architectures', [])):
        fields.refuse('architectures', f'[{_CLASS!r}]')
    auto_map = fields.section('auto_map').content
    for task, name in auto_map.items():
        classes = ('OpenVLAConfig', _CLASS, 'PrismaticProcessor', 'PrismaticImageProcessor')
        if not isinstance(name, str) or name.rpartition('.')[2] not in classes:
            raise fields.error(f'auto_map {task} is {shown(name)}, must be a class of OpenVLA '
                               f'({", ".join(classes)}): code of another model is not run here')


def _check_projector(fields: Fields, towers: int) -> None:
    specifier = fields.text('arch_specifier', None)
    kind = _PROJECTORS[towers]
    if specifier is not None and not re.fullmatch(rf'(no|full)-align\+{kind}', specifier):
        fields.refuse('arch_specifier', f"'no-align+{kind}' for {towers} vision tower"
                      f'{"s" if towers > 1 else ""}', 'it names the projector')


def _check_language_model(fields: Fields) -> None:
    name = fields.text('llm_backbone_id', 'llama2-7b-pure')
    if not re.fullmatch(r'llama2-.+-pure', name):
        fields.refuse('llm_backbone_id', "'llama2-7b-pure' or another llama2-…-pure",
                      'other language models were trained with another prompt')
    path = fields.text('hf_llm_id', 'llama-2').lower()
    if 'llama-2' not in path or 'chat' in path:
        fields.refuse('hf_llm_id', "'meta-llama/Llama-2-7b-hf' or another plain Llama-2")


def _check_towers(fields: Fields, towers: int) -> None:
    """Names of the towers must be those of DINOv2 with registers and SigLIP."""
    name = fields.text('vision_backbone_id', 'dinosiglip')
    if re.search('clip|in1k', name) and 'vision_config' in fields.content:
        fields.refuse('vision_backbone_id', 'one of DINOv2 and SigLIP towers')
    fields.items('timm_override_act_layers', None, towers)
    if any(layer is not None for layer in fields.content.get('timm_override_act_layers') or []):
        fields.refuse('timm_override_act_layers', 'null for each tower',
                      'towers compute the exact GELU')
    ids = fields.items('timm_model_ids', None, towers)
    if ids is None:
        return
    for found, wanted in zip(ids, _TIMM[towers], strict=True):
        stem = found.partition('.')[0] if isinstance(found, str) else ''
        if stem != wanted and not (fields.content.get('vision_config') and _alike(stem, wanted)):
            fields.refuse('timm_model_ids', f'{list(_TIMM[towers])}')


def _alike(stem: str, wanted: str) -> bool:
    """Whether a small tower is of the same kind as a published one."""
    kind = 'dinov2' if 'dinov2' in wanted else 'siglip'
    return stem.startswith('vit_') and kind in stem and ('reg' in stem) == ('reg' in wanted)

