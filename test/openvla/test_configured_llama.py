"""
What a text_config says is computed as transformers computes it, or refused in one line.

The reference is transformers' own Llama, made of the same configuration, float64 inside.
"""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaModel

from specvla_ros.openvla.errors import CheckpointError
from specvla_ros.openvla.model import OpenVLA

LENGTH = 12

HONOURED = [
    {},
    {'attention_bias': True},
    {'attention_bias': True, 'mlp_bias': True},
    {'mlp_bias': True},
    {'head_dim': 16},
    {'num_key_value_heads': 1},
    {'num_key_value_heads': None},
    {'num_attention_heads': 2, 'num_key_value_heads': 2},
    {'hidden_size': 48},
    {'intermediate_size': 24},
    {'num_hidden_layers': 3},
    {'rms_norm_eps': 1e-2},
    {'rope_theta': 500000.0},
    {'rope_theta': 500},
    {'rope_parameters': {'rope_type': 'default', 'rope_theta': 777.0}},
    {'rope_scaling': {'rope_type': 'default'}, 'rope_theta': 777.0},
    {'rope_scaling': None},
    {'rope_parameters': {'rope_theta': 777.0, 'partial_rotary_factor': 1.0}},
    {'partial_rotary_factor': 1.0},
    {'hidden_act': 'silu'},
    {'pretraining_tp': 1},
    {'attention_dropout': 0.0},
    {'tie_word_embeddings': False},
    {'max_position_embeddings': 64},
    {'pad_token_id': 0},
    {'pad_token_id': -1},
    {'use_cache': False, 'torch_dtype': 'bfloat16', 'transformers_version': '4.40.1'},
]

REFUSED = [
    ({'rope_scaling': {'type': 'linear', 'factor': 2.0}}, "rope_scaling type is 'linear'"),
    ({'rope_scaling': {'rope_type': 'linear', 'factor': 2.0}}, "rope_type is 'linear'"),
    ({'rope_scaling': {'type': 'dynamic', 'factor': 2.0}}, "type is 'dynamic'"),
    ({'rope_scaling': {'factor': 2.0}}, "unknown key 'factor'"),
    ({'rope_scaling': 'linear'}, "rope_scaling is 'linear', must be a JSON object"),
    ({'rope_parameters': {'rope_type': 'llama3', 'factor': 8.0}}, "rope_type is 'llama3'"),
    ({'rope_parameters': {'type': 'yarn', 'factor': 8.0}}, "type is 'yarn'"),
    ({'rope_parameters': {'rope_theta': 1e4, 'partial_rotary_factor': 0.5}},
     'partial_rotary_factor is 0.5'),
    ({'rope_parameters': {'full_attention': {'rope_theta': 1e4}}}, "key 'full_attention'"),
    ({'rope_parameters': {'rope_theta': 777.0}, 'rope_theta': 1e4}, 'must be one base'),
    ({'rope_theta': 0}, 'rope_theta is 0'),
    ({'rope_theta': '10000'}, "rope_theta is '10000'"),
    ({'partial_rotary_factor': 0.5}, 'partial_rotary_factor is 0.5'),
    ({'hidden_act': 'gelu'}, "hidden_act is 'gelu', must be 'silu'"),
    ({'hidden_act': 'relu'}, "hidden_act is 'relu'"),
    ({'pretraining_tp': 2}, 'pretraining_tp is 2'),
    ({'attention_dropout': 0.1}, 'attention_dropout is 0.1'),
    ({'tie_word_embeddings': True}, 'tie_word_embeddings is True, must be false'),
    ({'sliding_window': 4}, 'sliding_window is 4'),
    ({'use_sliding_window': True}, 'use_sliding_window is True'),
    ({'layer_types': ['sliding_attention'] * 2}, 'layer_types'),
    ({'quantization_config': {'quant_method': 'gptq'}}, 'quantization_config'),
    ({'attention_bias': 1}, 'attention_bias is 1, must be true or false'),
    ({'mlp_bias': 'false'}, "mlp_bias is 'false'"),
    ({'rms_norm_eps': '1e-6'}, "rms_norm_eps is '1e-6'"),
    ({'rms_norm_eps': 0}, 'rms_norm_eps is 0'),
    ({'head_dim': 7}, 'head_dim is 7, must be even'),
    ({'num_attention_heads': 5}, 'hidden_size is 32, must be a multiple of num_attention_heads'),
    ({'num_key_value_heads': 3}, 'num_key_value_heads is 3, must be a divisor'),
    ({'num_hidden_layers': 10**6}, 'num_hidden_layers is 1000000'),
    ({'hidden_size': 32.0}, 'hidden_size is 32.0'),
    ({'num_hidden_layers': True}, 'num_hidden_layers is True'),
    ({'max_position_embeddings': 40}, 'max_position_embeddings is 40, must be at least 41'),
    ({'pad_token_id': 10**6}, 'pad_token_id is 1000000'),
    ({'is_encoder_decoder': True}, 'is_encoder_decoder is True'),
    ({'pruned_heads': {'0': [1]}}, 'pruned_heads'),
    ({'model_type': 'mistral'}, "model_type is 'mistral', must be 'llama'"),
    ({'attn_logit_softcapping': 30.0}, "unknown key 'attn_logit_softcapping' with 30.0"),
    ({'logit_scale': 2.0}, "unknown key 'logit_scale'"),
    ({'qk_norm': True}, "unknown key 'qk_norm'"),
]


def reference(text_config):
    """Transformers' Llama of a configuration, with random weights large enough to show."""
    torch.manual_seed(0)
    known = {'rms_norm_eps': 1e-6, 'max_position_embeddings': 2048, 'rope_theta': 10000.0}
    if 'rope_parameters' in text_config:
        del known['rope_theta']
    config = LlamaConfig(**known | text_config | {'pad_token_id': None},
                         attn_implementation='eager')
    model = LlamaModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3).add_(float(name.endswith('norm.weight')))
    return model


class Keeping:
    """A cache that holds one pass."""

    def put(self, entries, layer_idx):
        key, value = entries.permute(1, 2, 0, 3)[:, None]
        return key, value


@pytest.mark.parametrize('change', HONOURED, ids=str)
@torch.no_grad()
def test_what_is_honoured_is_what_transformers_computes(published, change):
    text = published.config['text_config']
    text |= change
    llama = reference(text)
    width, rows = llama.config.hidden_size, text['vocab_size']
    tensors = {n: t for n, t in published.tensors.items() if not n.startswith('language_model.')}
    tensors |= {f'language_model.model.{n}': t for n, t in llama.state_dict().items()}
    tensors['language_model.lm_head.weight'] = torch.randn(rows, width)
    for name, shape in (('fc2.weight', (width, 160)), ('fc2.bias', (width,)),
                        ('fc3.weight', (width, width)), ('fc3.bias', (width,))):
        tensors[f'projector.{name}'] = torch.randn(shape)
    published.tensors = tensors
    model = OpenVLA.from_pretrained(published.write())

    embeds = torch.randn(1, LENGTH, width)
    expected = llama.double()(inputs_embeds=embeds.double()).last_hidden_state
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()[None, None]
    fused = model.fused_llama(embeds, torch.arange(LENGTH), causal, Keeping())
    for said in (fused, model(embeds)):
        torch.testing.assert_close(said.double(), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(('change', 'message'), REFUSED, ids=str)
def test_what_is_not_computed_is_refused_in_one_line(published, change, message):
    published.config['text_config'] |= change
    published.write()
    with pytest.raises(CheckpointError) as caught:
        OpenVLA.from_pretrained(published.folder)
    said = str(caught.value)
    assert message in said
    assert '\n' not in said and str(published.folder / 'config.json') in said
    assert 'must be' in said or 'take it out' in said
