"""The Llama against its equations, and the contract of a pass: masks, positions, cache."""

import math

import pytest
import torch
from transformers import DynamicCache

from specvla_ros.openvla.config import OpenVLAConfig
from specvla_ros.openvla.model import OpenVLA

N_HEADS, N_KV_HEADS = 4, 2


def rms_norm(x, weight):
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight


def rotate(x, positions):
    """Rotary embedding with base 10000 of [B, heads, S, d]: pairs are (i, i + d/2)."""
    half = x.shape[-1] // 2
    angles = positions[:, None, :, None] / 10000.0 ** (torch.arange(half).double() / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat(
        (a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), dim=-1
    )


def llama(tensors, embeds, positions, mask):
    """Hidden states after the final norm, in float64; mask bool [B, 1, S, S]."""
    t = {
        k.removeprefix('language_model.model.'): v.double()
        for k, v in tensors.items()
        if k.startswith('language_model.model.')
    }
    x = embeds.double()
    batch, length, width = x.shape
    head = width // N_HEADS
    for n in range(2):
        layer = f'layers.{n}'
        h = rms_norm(x, t[f'{layer}.input_layernorm.weight'])
        q, k, v = (
            (h @ t[f'{layer}.self_attn.{which}_proj.weight'].T)
            .reshape(batch, length, -1, head)
            .transpose(1, 2)
            for which in 'qkv'
        )
        k, v = (e.repeat_interleave(N_HEADS // N_KV_HEADS, dim=1) for e in (k, v))
        scores = rotate(q, positions) @ rotate(k, positions).transpose(-1, -2) / math.sqrt(head)
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
        y = (weights @ v).transpose(1, 2).reshape(batch, length, width)
        x = x + y @ t[f'{layer}.self_attn.o_proj.weight'].T
        h = rms_norm(x, t[f'{layer}.post_attention_layernorm.weight'])
        gate = h @ t[f'{layer}.mlp.gate_proj.weight'].T
        up = h @ t[f'{layer}.mlp.up_proj.weight'].T
        x = x + (gate * gate.sigmoid() * up) @ t[f'{layer}.mlp.down_proj.weight'].T
    return rms_norm(x, t['norm.weight'])


class FixedCache:
    """A cache of fixed length, full of rubbish where nothing was written yet."""

    def __init__(self, length):
        self.keys = torch.full((2, 1, N_KV_HEADS, length, 8), 1e3)
        self.values = self.keys.clone()
        self.used = [0, 0]

    def update(self, key, value, layer_idx):
        start, end = self.used[layer_idx], self.used[layer_idx] + key.shape[2]
        self.keys[layer_idx, :, :, start:end] = key
        self.values[layer_idx, :, :, start:end] = value
        self.used[layer_idx] = end
        return self.keys[layer_idx], self.values[layer_idx]


class Joining:
    """A cache for a fused pass, which gives keys and values as one."""

    def __init__(self, cache):
        self.cache = cache

    def put(self, entries, layer_idx):
        key, value = entries.permute(1, 2, 0, 3)[:, None]
        return self.cache.update(key, value, layer_idx)


@pytest.fixture
def model(published):
    return OpenVLA.from_pretrained(published.folder)


@pytest.fixture
def embeds():
    return torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def tree():
    """
    A tree over a prefix of 6: positions [1, 12] and mask bool [1, 1, 12, 12].

    Nodes 6 and 7 are siblings, 8 and 9 children of 6, 10 of 7, 11 of 9.
    """
    parents = {6: 5, 7: 5, 8: 6, 9: 6, 10: 7, 11: 9}
    mask = torch.ones(12, 12, dtype=torch.bool).tril()
    positions = torch.arange(12)
    for node, parent in parents.items():
        mask[node] = mask[parent]
        mask[node, node] = True
        positions[node] = positions[parent] + 1
    return positions[None], mask[None, None]


def close(ours, expected):
    torch.testing.assert_close(ours.double(), expected.double(), atol=2e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize('scale', [1, 1e-3])  # at 1e-3 the norms' epsilon decides
def test_without_mask_and_positions_a_pass_is_causal(model, published, embeds, scale):
    embeds = embeds * scale
    causal = torch.ones(1, 1, 12, 12, dtype=torch.bool).tril()
    close(model(embeds), llama(published.tensors, embeds, torch.arange(12.0)[None], causal))


@torch.no_grad()
@pytest.mark.parametrize('additive', [False, True])
def test_a_tree_mask_is_used_as_given(model, published, embeds, tree, additive):
    positions, mask = tree
    given = mask
    if additive:
        given = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
    expected = llama(published.tensors, embeds, positions.double(), mask)
    close(model(embeds, positions, given), expected)
    causal = torch.ones_like(mask).tril()
    assert (expected - llama(published.tensors, embeds, positions, causal)).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize('scale', [1, 1e-3])
def test_the_fused_llama_says_the_same(model, published, embeds, tree, scale):
    embeds = embeds[:1] * scale
    positions, mask = tree
    causal = torch.ones_like(mask).tril()
    for where, whole in (
        (torch.arange(12), causal), (torch.arange(12) + 900, mask), (positions[0], mask),
    ):
        said = model.fused_llama(embeds, where, whole, Joining(FixedCache(12)))
        close(said, llama(published.tensors, embeds, where[None].double(), whole))


@torch.no_grad()
def test_the_fused_llama_goes_on_from_a_cache(model, embeds):
    whole, cache = model(embeds[:1]), Joining(DynamicCache())
    causal = torch.ones(1, 1, 12, 12, dtype=torch.bool).tril()
    first = model.fused_llama(embeds[:1, :11], torch.arange(11), causal[..., :11, :11], cache)
    last = model.fused_llama(embeds[:1, 11:], torch.tensor([11]), causal[..., 11:, :], cache)
    close(torch.cat((first, last), 1), whole)


def test_the_fused_llama_shares_the_weights(model, embeds, tmp_path):
    causal = torch.ones(1, 1, 12, 12, dtype=torch.bool).tril()

    def hidden(model):
        with torch.no_grad():
            return model.fused_llama(embeds[:1], torch.arange(12), causal, Joining(FixedCache(12)))

    before = hidden(model)
    layer = model.language_model.layers[1]
    for linear in (layer.self_attn.v_proj, layer.mlp.up_proj):
        with torch.no_grad():
            linear.weight.mul_(2)
    after = hidden(model)
    assert (after - before).abs().max() > 0.01
    with torch.no_grad():
        close(after, model(embeds[:1]))
    # A checkpoint of it is like any other, and a converted model has weights of its own.
    model.save_pretrained(tmp_path)
    assert torch.equal(hidden(OpenVLA.from_pretrained(tmp_path)), after)
    assert all(p.requires_grad for p in model.language_model.parameters())
    fused = model.fused_llama
    assert model.double().fused_llama is not fused


@torch.no_grad()
def test_each_sequence_of_a_batch_has_its_own_mask_and_positions(model, published, embeds, tree):
    positions, mask = tree
    causal = torch.ones_like(mask).tril()
    masks = torch.cat((mask, causal))
    both = torch.cat((positions, torch.arange(12)[None]))
    close(model(embeds, both, masks), llama(published.tensors, embeds, both.double(), masks))


@torch.no_grad()
def test_a_tree_behind_a_cached_prefix_equals_one_pass(model, embeds, tree):
    positions, mask = tree
    whole = model(embeds[:1], positions, mask)
    cache = FixedCache(20)
    room = torch.zeros(1, 1, 12, 20, dtype=torch.bool)
    room[..., :12] = mask
    prefix = model(embeds[:1, :6], positions[:, :6], room[:, :, :6], cache)
    nodes = model(embeds[:1, 6:], positions[:, 6:], room[:, :, 6:], cache)
    close(torch.cat((prefix, nodes), dim=1), whole)


@torch.no_grad()
def test_a_row_that_may_attend_to_nothing_spoils_no_other(model, embeds):
    mask = torch.ones(1, 1, 12, 12, dtype=torch.bool).tril()
    expected = model(embeds, None, mask)
    mask[..., 11, :] = False
    close(model(embeds, None, mask)[:, :11], expected[:, :11])


@torch.no_grad()
def test_the_patches_stand_right_behind_bos(model, published, pixel_values):
    ids = torch.tensor([[1, 5, 6, 7]]).expand(2, -1)
    prompt = model.embed(ids, pixel_values)
    table = published.tensors['language_model.model.embed_tokens.weight']
    assert prompt.shape == (2, 4 + 9, 32)
    assert torch.equal(prompt[0, 0], table[1])
    close(prompt[:, 1:10], model.embed_patches(pixel_values))
    assert torch.equal(prompt[0, 10:], table[5:8])
    assert torch.equal(model.embed_tokens(ids), table[ids])


@torch.no_grad()
def test_logits_have_a_row_for_every_id_and_the_padding(model, published, embeds):
    head = published.tensors['language_model.lm_head.weight']
    logits = model.logits(embeds)
    assert logits.shape == (2, 12, model.config.text_config.vocab_size)
    close(logits, embeds @ head.T)


def test_gradients_reach_every_parameter(model, pixel_values):
    model.train()
    hidden = model(model.embed(torch.tensor([[1, 5, 6]] * 2), pixel_values))
    model.logits(hidden).square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_model_made_from_a_config_is_random_and_sane(published, pixel_values):
    model = OpenVLA(OpenVLAConfig.from_dict(published.config))
    std = model.lm_head.weight.std().item()
    assert 0.015 < std < 0.025
    with torch.no_grad():
        logits = model.logits(model(model.embed(torch.tensor([[1, 5]] * 2), pixel_values)))
    # Nothing learnt: close to uniform over the vocabulary.
    assert logits.abs().max() < 3


def test_rotary_frequencies_stay_float32(model):
    expected = model.language_model.rotary_emb.inv_freq.clone()
    half = model.to(torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.language_model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(half.language_model.rotary_emb.inv_freq, expected)


def test_action_tokens_end_where_the_padding_begins(model):
    rows = model.config.text_config.vocab_size
    assert model.action_tokenizer.last_id == rows - 16 - 1
    assert OpenVLAConfig.from_dict(
        {'model_type': 'openvla', 'vision_backbone_id': 'dinosiglip-vit-so-224px',
         'text_config': {'vocab_size': 32064}}
    ).action_vocab_size == 32000


def test_statistics_are_chosen_by_key(model):
    stats = model.norm_stats['libero_object']
    assert model.action_dim() == model.action_dim('libero_object') == 7
    with pytest.raises(ValueError, match=r"'libero_goal'.*\['libero_object'\]"):
        model.action_statistics('libero_goal')
    model.norm_stats['libero_goal'] = {'action': {**stats['action'], 'q99': [3.0] * 7}}
    assert model.action_statistics('libero_goal').q99[0] == 3
    with pytest.raises(ValueError, match=r"None.*\['libero_goal', 'libero_object'\]"):
        model.action_statistics()


def test_untrained_weights_are_ready_to_run_in_their_data_type(published, pixel_values):
    config = OpenVLAConfig.from_dict(published.config)
    model = OpenVLA.untrained(config, dtype=torch.bfloat16, seed=3)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.language_model.rotary_emb.inv_freq.dtype == torch.float32
    with torch.inference_mode():
        hidden = model(model.embed(torch.tensor([[1, 5, 6], [1, 7, 8]]), pixel_values))
        logits = model.logits(hidden)
    assert logits.isfinite().all() and logits.std() > 0
    assert not torch.equal(hidden[0], hidden[1])  # neither image nor text is lost on the way


def test_the_same_seed_gives_the_same_untrained_weights(published):
    config = OpenVLAConfig.from_dict(published.config)
    first, again, other = (OpenVLA.untrained(config, seed=seed).lm_head.weight
                           for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
