import json

import pytest
from safetensors.torch import load_file
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from specvla_ros.decoding.drafters import EagleConfig, EagleHead

HIDDEN, MLP, HEADS, KV_HEADS = 32, 64, 4, 2
SHAPES = {
    'layers.0.self_attn.q_proj.weight': [HIDDEN, HIDDEN],
    'layers.0.self_attn.k_proj.weight': [HIDDEN // 2, HIDDEN],
    'layers.0.self_attn.v_proj.weight': [HIDDEN // 2, HIDDEN],
    'layers.0.self_attn.o_proj.weight': [HIDDEN, HIDDEN],
    'layers.0.mlp.gate_proj.weight': [MLP, HIDDEN],
    'layers.0.mlp.up_proj.weight': [MLP, HIDDEN],
    'layers.0.mlp.down_proj.weight': [HIDDEN, MLP],
    'layers.0.post_attention_layernorm.weight': [HIDDEN],
    'fc.weight': [HIDDEN, 2 * HIDDEN],
    'fc.bias': [HIDDEN],
}


@pytest.fixture
def target(lab):
    return lab(0, 7, 1, KV_HEADS).model


@pytest.fixture
def published(tmp_path):
    """Return a function that writes a folder as published, some tensors or settings changed."""
    def write(config=None, **changed):
        torch.manual_seed(0)
        tensors = {name: torch.randn(shape) / 4 for name, shape in SHAPES.items()}
        tensors['embed_tokens.weight'] = torch.randn(364, HIDDEN)
        for name, tensor in changed.items():
            name = name.replace('__', '.')
            tensors.pop(name) if tensor is None else tensors.update({name: tensor})
        settings = {
            'architectures': ['LlamaForCausalLM'],
            'bos_token_id': 1,
            'hidden_act': 'silu',
            'hidden_size': HIDDEN,
            'intermediate_size': MLP,
            'max_position_embeddings': 2048,
            'model_type': 'llama',
            'num_attention_heads': HEADS,
            'num_hidden_layers': 1,
            'num_key_value_heads': KV_HEADS,
            'rms_norm_eps': 1e-6,
            'vocab_size': 364,
        }
        (tmp_path / 'config.json').write_text(json.dumps(settings | (config or {})))
        torch.save(tensors, tmp_path / 'pytorch_model.bin')
        return tmp_path, tensors

    return write


def llama(tensors, features, embeds):
    """Run the published weights through transformers' own Llama layer, its input norm removed."""
    config = LlamaConfig(
        hidden_size=HIDDEN, intermediate_size=MLP, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, rms_norm_eps=1e-6, attn_implementation='eager',
        rope_parameters={'rope_type': 'default', 'rope_theta': 10000.0},
    )
    layer = LlamaDecoderLayer(config, 0).double()
    layer.input_layernorm = torch.nn.Identity()
    prefix = 'layers.0.'
    layer.load_state_dict(
        {k.removeprefix(prefix): v.double() for k, v in tensors.items() if k.startswith(prefix)}
    )
    x = torch.nn.functional.linear(
        torch.cat((embeds, features), dim=-1),
        tensors['fc.weight'].double(),
        tensors['fc.bias'].double(),
    )
    length = x.shape[1]
    mask = torch.full((length, length), float('-inf')).triu(1).double()[None, None]
    rotary = LlamaRotaryEmbedding(config)(x, torch.arange(length)[None])
    return layer(x, attention_mask=mask, position_embeddings=rotary)


def test_a_published_folder_loads_and_computes_what_llama_does(published, target):
    folder, tensors = published()
    head = EagleHead.from_pretrained(folder, target)
    features, embeds = torch.randn(2, 3, 9, HIDDEN, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(
            head(features, embeds, torch.arange(9)[None]),
            llama(tensors, features, embeds),
            rtol=1e-5, atol=1e-5,  # Llama's norm computes in float32
        )
    assert head.fc.weight.dtype == target.dtype
    assert not head.training
    assert not any(parameter.requires_grad for parameter in head.parameters())


def test_our_own_folder_has_the_published_names_and_no_embedding(tmp_path, target):
    head = EagleHead(EagleConfig.like(target))
    head.save_pretrained(tmp_path / 'drafter')
    stored = load_file(tmp_path / 'drafter' / 'model.safetensors')
    assert {name: list(tensor.shape) for name, tensor in stored.items()} == SHAPES
    again = EagleHead.from_pretrained(tmp_path / 'drafter', target)
    assert again.config == head.config
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, stored[name].double())


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'fc__bias': None}, r'tensor fc.bias \[32\] is missing'),
        (
            {'layers__0__mlp__up_proj__weight': torch.zeros(8, HIDDEN)},
            r'tensor layers.0.mlp.up_proj.weight is \[8, 32\], its config.json says \[64, 32\]',
        ),
        ({'layers__1__mlp__up_proj__weight': torch.zeros(1)}, 'tensors layers.1.mlp.up_proj.wei'),
    ],
)
def test_weights_that_do_not_fit_are_named(published, target, changed, message):
    folder, _ = published(**changed)
    with pytest.raises(ValueError, match=message):
        EagleHead.from_pretrained(folder, target)


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ({'hidden_size': 64}, "hidden_size is 64, must be the target's 32"),
        ({'hidden_size': None}, 'config.json lacks hidden_size'),
        ({'intermediate_size': 'big'}, "drafter intermediate_size is 'big', must be positive"),
        ({'num_attention_heads': 5}, 'must be an even multiple of its num_attention_heads 5'),
        ({'num_key_value_heads': 3}, 'must be a multiple of its num_key_value_heads 3'),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(published, target, config, message):
    folder, _ = published(config)
    with pytest.raises(ValueError, match=message):
        EagleHead.from_pretrained(folder, target)


def test_a_folder_without_its_files_is_named(published, target, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere/config.json: no such file'):
        EagleHead.from_pretrained(tmp_path / 'nowhere', target)
    folder, _ = published()
    (folder / 'pytorch_model.bin').unlink()
    with pytest.raises(FileNotFoundError, match='neither model.safetensors nor pytorch_model.bin'):
        EagleHead.from_pretrained(folder, target)
    (folder / 'pytorch_model.bin').write_bytes(b'version https://git-lfs')
    with pytest.raises(ValueError, match='pytorch_model.bin can not be read'):
        EagleHead.from_pretrained(folder, target)
    (folder / 'config.json').write_text('{')
    with pytest.raises(ValueError, match='config.json: '):
        EagleHead.from_pretrained(folder, target)


def test_unrolled_on_its_own_features_it_learns(target):
    """Training as inference sees it: from the second step on, the features are its own."""
    torch.manual_seed(0)
    head = EagleHead(EagleConfig.like(target))
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    features, embeds, wanted = torch.randn(3, 2, 8, HIDDEN)
    positions = torch.arange(8)[None]
    losses = []
    for _ in range(30):
        loss, seen = 0.0, features
        for _ in range(2):
            guessed = head(seen, embeds, positions, torch.ones(8, 8, dtype=torch.bool).tril())
            loss = loss + torch.nn.functional.mse_loss(guessed, wanted)
            seen = torch.cat((features[:, :1], guessed[:, :-1]), dim=1)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(('config', 'message'), [
    ({'rope_scaling': {'type': 'linear', 'factor': 2.0}}, "rope_scaling type is 'linear'"),
    ({'rope_parameters': {'rope_type': 'yarn'}}, "rope_parameters rope_type is 'yarn'"),
    ({'partial_rotary_factor': 0.5}, 'partial_rotary_factor is 0.5'),
    ({'hidden_act': 'gelu'}, "hidden_act is 'gelu', must be 'silu'"),
    ({'attention_bias': True}, 'attention_bias is True'),
    ({'mlp_bias': True}, 'mlp_bias is True'),
    ({'head_dim': 16}, 'head_dim is 16, must be 8'),
    ({'num_hidden_layers': 2}, 'num_hidden_layers is 2, must be 1'),
    ({'tie_word_embeddings': True}, 'tie_word_embeddings is True'),
    ({'sliding_window': 8}, 'sliding_window is 8'),
    ({'quantization_config': {'bits': 4}}, 'quantization_config'),
    ({'vocab_size': 32000}, 'vocab_size is 32000, must be'),
    ({'model_type': 'qwen2'}, "model_type is 'qwen2'"),
    ({'draft_vocab_size': 32000}, "unknown key 'draft_vocab_size'"),  # EAGLE-3
], ids=str)
def test_what_the_network_does_not_compute_is_refused(published, target, config, message):
    folder, _ = published(config)
    with pytest.raises(ValueError, match='config.json: drafter: ') as caught:
        EagleHead.from_pretrained(folder, target)
    assert message in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('config', [
    {'rope_theta': 500.0}, {'rope_parameters': {'rope_type': 'default', 'rope_theta': 500.0}},
    {'rope_theta': 500, 'rope_scaling': {'type': 'default'}}])
def test_the_rotary_base_is_read_in_any_spelling(published, target, config):
    folder, _ = published(config)
    assert EagleHead.from_pretrained(folder, target).config.rope_theta == 500


def test_two_sets_of_weights_are_refused(published, target):
    folder, _ = published()
    (folder / 'model.safetensors').write_bytes(b'')
    with pytest.raises(ValueError, match='a second set of weights beside model.safetensors'):
        EagleHead.from_pretrained(folder, target)
