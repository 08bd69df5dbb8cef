"""Dimensions of an EAGLE network, and the ``config.json`` that says them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from specvla_ros.errors import shown, SpecVLAError
from specvla_ros.openvla.json_file import Fields
from specvla_ros.openvla.llama_config import check_plain, MOST_HEADS, MOST_WIDTH, rotary_base
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.typed_files import is_number

_MOST_OF = {'hidden_size': MOST_WIDTH, 'intermediate_size': MOST_WIDTH,
            'num_attention_heads': MOST_HEADS, 'num_key_value_heads': MOST_HEADS}
_NEEDED = ('hidden_size', 'intermediate_size', 'num_attention_heads')
# Of a drafter's `config.json`: read, or of no weight because they are the target's.
_KEYS = frozenset("""
    attention_bias bias bos_token_id eos_token_id head_dim hidden_size
    initializer_range intermediate_size max_position_embeddings mlp_bias model_type
    num_attention_heads num_hidden_layers num_key_value_heads pad_token_id rms_norm_eps vocab_size
""".split())


@dataclass(frozen=True, slots=True)
class EagleConfig:
    """Dimensions of an EAGLE network, in the names of a Llama's ``config.json``."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        for setting in fields(self):
            value, whole = getattr(self, setting.name), setting.name in _MOST_OF
            if not is_number(value) or not value > 0 or (
                    whole and (type(value) is not int or value > _MOST_OF[setting.name])):
                bounds = f', whole, at most {_MOST_OF[setting.name]}' if whole else ''
                raise SpecVLAError(
                    f'drafter {setting.name} is {shown(value)}, must be positive{bounds}')
        if self.hidden_size % (2 * self.num_attention_heads):
            raise SpecVLAError(
                f'drafter hidden_size {self.hidden_size} must be an even multiple of its '
                f'num_attention_heads {self.num_attention_heads}'
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise SpecVLAError(
                f'drafter num_attention_heads {self.num_attention_heads} must be a multiple of '
                f'its num_key_value_heads {self.num_key_value_heads}'
            )

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def like(cls, target: OpenVLA) -> EagleConfig:
        """Dimensions of one of the target's own layers: the published choice."""
        text = target.config.text_config
        return cls(
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            num_attention_heads=text.num_attention_heads,
            num_key_value_heads=text.num_key_value_heads,
            rms_norm_eps=text.rms_norm_eps,
            rope_theta=text.rope_parameters['rope_theta'],
        )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> EagleConfig:
        """
        Read a Llama's ``config.json``.

        Raises SpecVLAError or CheckpointError, naming the key, for one that lacks a dimension or
        describes what the network does not compute.
        """
        content = Fields(config, 'drafter')
        content.only('model_type', 'eagle', 'llama')
        content.only('num_hidden_layers', 1, why='the drafter is one layer')
        for key in ('attention_bias', 'mlp_bias'):
            content.only(key, False)
        content.flag('bias', None)  # of fc: the weights have it or not
        check_plain(content, _KEYS)
        missing = [name for name in _NEEDED if config.get(name) is None]
        if missing:
            raise SpecVLAError(f'drafter config.json lacks {", ".join(missing)}')
        heads, eps = config['num_attention_heads'], config.get('rms_norm_eps')
        made = cls(
            hidden_size=config['hidden_size'],
            intermediate_size=config['intermediate_size'],
            num_attention_heads=heads,
            num_key_value_heads=heads if config.get('num_key_value_heads') is None
            else config['num_key_value_heads'],
            rms_norm_eps=1e-6 if eps is None else eps,
            rope_theta=rotary_base(content, 10000.0),
        )
        content.only('head_dim', made.head_dim, why='hidden_size / num_attention_heads')
        return made
