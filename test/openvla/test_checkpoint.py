import json

import pytest
from safetensors import safe_open
import torch

from specvla_ros.openvla.checkpoint import CheckpointError
from specvla_ros.openvla.config import OpenVLAConfig
from specvla_ros.openvla.layout import published_tensors
from specvla_ros.openvla.model import OpenVLA

DINO = 'vision_backbone.featurizer.'
SIGLIP = 'vision_backbone.fused_featurizer.'


@torch.no_grad()
def outputs(model, pixel_values):
    """Logits of a fixed prompt: changes with any tensor that matters."""
    return model.logits(model(model.embed(torch.tensor([[1, 5, 6]] * 2), pixel_values)))


def stored(folder):
    """Names and tensors of all weight files of a folder."""
    result = {}
    for path in sorted(folder.glob('model*.safetensors')):
        with safe_open(path, framework='pt') as file:
            result |= {name: file.get_tensor(name) for name in file.keys()}
    return result


def is_unused(name):
    parts = ('norm.', 'attn_pool.')
    return (
        name.startswith((DINO + 'blocks.2.', SIGLIP + 'blocks.3.'))
        or name.removeprefix(DINO).startswith(parts)
        or name.removeprefix(SIGLIP).startswith(parts)
    )


def test_shards_with_an_index_are_one_checkpoint(published, pixel_values):
    single = outputs(OpenVLA.from_pretrained(published.folder), pixel_values)
    sharded = outputs(OpenVLA.from_pretrained(published.write(shards=3)), pixel_values)
    assert torch.equal(single, sharded)


def test_rotary_frequencies_that_were_stored_are_ignored(published, pixel_values):
    expected = outputs(OpenVLA.from_pretrained(published.folder), pixel_values)
    name = 'language_model.model.layers.0.self_attn.rotary_emb.inv_freq'
    published.tensors[name] = torch.ones(4)
    assert torch.equal(
        outputs(OpenVLA.from_pretrained(published.write()), pixel_values), expected)


def test_every_used_tensor_changes_the_result_and_no_unused_one_is_needed(
    published, pixel_values
):
    expected = outputs(OpenVLA.from_pretrained(published.folder), pixel_values)
    published.tensors = {n: t for n, t in published.tensors.items() if not is_unused(n)}
    assert torch.equal(
        outputs(OpenVLA.from_pretrained(published.write()), pixel_values), expected
    )
    for name in (DINO + 'pos_embed', DINO + 'reg_token', DINO + 'blocks.1.ls2.scale_factor',
                 SIGLIP + 'blocks.2.attn.qkv.bias', SIGLIP + 'patch_embed.proj.bias'):
        original = published.tensors[name]
        published.tensors[name] = original * 1.5
        changed = outputs(OpenVLA.from_pretrained(published.write()), pixel_values)
        assert not torch.equal(changed, expected), name
        published.tensors[name] = original


def test_timm_s_own_name_of_layer_scale_is_read(published, pixel_values):
    expected = outputs(OpenVLA.from_pretrained(published.folder), pixel_values)
    published.tensors = {
        name.replace('.scale_factor', '.gamma'): t for name, t in published.tensors.items()
    }
    assert torch.equal(
        outputs(OpenVLA.from_pretrained(published.write()), pixel_values), expected
    )


@pytest.mark.parametrize('max_shard_bytes', [10**9, 30_000])
def test_saving_keeps_names_and_tensors(published, tmp_path, monkeypatch, max_shard_bytes):
    monkeypatch.setattr('specvla_ros.openvla.weights.write_weights.__defaults__',
                        (max_shard_bytes,))
    OpenVLA.from_pretrained(published.folder).save_pretrained(tmp_path / 'saved')
    saved = stored(tmp_path / 'saved')
    assert saved.keys() == {name for name in published.tensors if not is_unused(name)}
    for name, tensor in saved.items():
        assert torch.equal(tensor, published.tensors[name]), name
    shards = list((tmp_path / 'saved').glob('model-*'))
    assert (len(shards) > 1) == (max_shard_bytes == 30_000)


def test_a_saved_model_computes_the_same(published, tmp_path, pixel_values):
    model = OpenVLA.from_pretrained(published.folder)
    # As training might: the class token's position is a parameter like any other.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(tmp_path / 'saved')
    again = OpenVLA.from_pretrained(tmp_path / 'saved')
    torch.testing.assert_close(outputs(again, pixel_values), outputs(model, pixel_values))
    assert again.norm_stats == model.norm_stats
    assert again.prompt_ids('pick up milk').tolist() == model.prompt_ids('pick up milk').tolist()
    written = {file.stat().st_mode for file in (tmp_path / 'saved').iterdir()}
    (tmp_path / 'another').touch()
    assert written == {(tmp_path / 'another').stat().st_mode}  # not their owner's alone


def test_a_checkpoint_can_be_saved_over_itself(published, pixel_values):
    published.write(shards=2)
    model = OpenVLA.from_pretrained(published.folder)
    expected = outputs(model, pixel_values)
    model.save_pretrained(published.folder)
    assert not list(published.folder.glob('model-*'))
    assert torch.equal(outputs(model, pixel_values), expected)
    assert torch.equal(outputs(OpenVLA.from_pretrained(published.folder), pixel_values), expected)


def test_a_loaded_model_no_longer_needs_its_files(published, pixel_values):
    expected = outputs(OpenVLA.from_pretrained(published.folder), pixel_values)
    model = OpenVLA.from_pretrained(published.folder)
    with (published.folder / 'model.safetensors').open('r+b') as file:
        size = file.seek(0, 2)
        file.seek(0)
        file.write(bytes(size))
    assert torch.equal(outputs(model, pixel_values), expected)


def test_data_types(published, tmp_path, pixel_values):
    model = OpenVLA.from_pretrained(published.folder)
    assert model.dtype == torch.float32  # on the CPU, whatever the config says
    assert OpenVLA.from_pretrained(published.folder, dtype=torch.float16).dtype == torch.float16
    model.save_pretrained(tmp_path / 'saved', dtype=torch.bfloat16)
    assert {t.dtype for t in stored(tmp_path / 'saved').values()} == {torch.bfloat16}
    assert json.loads((tmp_path / 'saved/config.json').read_text())['torch_dtype'] == 'bfloat16'
    again = OpenVLA.from_pretrained(tmp_path / 'saved')
    assert again.dtype == torch.float32
    half = model.to(torch.bfloat16).float()
    assert torch.equal(outputs(again, pixel_values), outputs(half, pixel_values))


def test_data_set_statistics_replace_the_config_s(published):
    other = {'action': {'q01': [-2.0] * 7, 'q99': [2.0] * 7, 'mask': [True] * 7}}
    path = published.folder / 'dataset_statistics.json'
    path.write_text(json.dumps({'libero_goal_no_noops': other}))
    model = OpenVLA.from_pretrained(published.folder)
    assert list(model.norm_stats) == ['libero_goal_no_noops']
    assert model.action_statistics().q99.tolist() == [2.0] * 7
    # Saved statistics stand in the config, where no older file may override them.
    model.norm_stats = {'mine': other}
    model.save_pretrained(published.folder)
    assert list(OpenVLA.from_pretrained(published.folder).norm_stats) == ['mine']


def refused(published, match):
    """Loading fails with one line that matches."""
    with pytest.raises(CheckpointError, match=match) as caught:
        OpenVLA.from_pretrained(published.folder)
    assert '\n' not in str(caught.value)


def test_a_missing_tensor_is_named(published):
    del published.tensors[SIGLIP + 'blocks.1.attn.qkv.weight']
    published.write()
    refused(published, r"lack tensor '.*fused_featurizer.blocks.1.attn.qkv.weight' \[48, 16\]")


def test_an_unexpected_tensor_is_named(published):
    published.tensors['language_model.model.layers.2.mlp.up_proj.weight'] = torch.zeros(56, 32)
    published.write()
    refused(published, r"'language_model.model.layers.2.mlp.up_proj.weight' \[56, 32\]")


@pytest.mark.parametrize(
    ('name', 'shape', 'wanted'),
    [
        (DINO + 'pos_embed', (1, 10, 24), r'\[1, 9, 24\]'),
        (DINO + 'blocks.0.attn.qkv.weight', (24, 24), r'\[72, 24\]'),
        (SIGLIP + 'pos_embed', (9, 16), r'\[1, 9, 16\]'),
        ('language_model.lm_head.weight', (100, 32), r'\[292, 32\]'),
    ],
)
def test_a_tensor_of_another_shape_is_named_with_both_shapes(published, name, shape, wanted):
    published.tensors[name] = torch.zeros(shape)
    published.write()
    found = str(list(shape)).replace('[', r'\[').replace(']', r'\]')
    refused(published, f"'{name}' is torch.float32 {found}, must be floating-point {wanted}")


def test_integer_weights_are_refused(published):
    name = 'language_model.model.norm.weight'
    published.tensors[name] = torch.ones(32, dtype=torch.int8)
    published.write()
    refused(published, f"'{name}' is torch.int8")


def test_a_damaged_file_is_named(published):
    path = published.folder / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:-100])
    refused(published, r'model\.safetensors is damaged \(\d+ bytes, .*copy it again')
    path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n')
    refused(published, 'is a Git LFS pointer')


def test_missing_files_are_named(published):
    published.write(shards=2)
    (published.folder / 'model-00002-of-00002.safetensors').unlink()
    refused(published, r'shard .*model-00002-of-00002\.safetensors is missing')
    (published.folder / 'model.safetensors.index.json').unlink()
    refused(published, r'neither model\.safetensors nor')
    (published.folder / 'config.json').unlink()
    refused(published, r'has no config\.json')
    with pytest.raises(FileNotFoundError, match="'nowhere' does not exist: give a folder"):
        OpenVLA.from_pretrained('nowhere')


@pytest.mark.parametrize(
    ('change', 'match'),
    [
        ({'model_type': 'llama'}, "model_type is 'llama', must be 'openvla'"),
        ({'vision_config': None, 'vision_backbone_id': 'clip'}, "vision_backbone_id is 'clip'"),
        ({'image_sizes': [24, 32]}, r'image_sizes are \[24, 32\]'),
        ({'n_action_bins': 0}, 'n_action_bins is 0, must be a positive integer'),
        ({'n_action_bins': 290}, 'no room for 290 action tokens'),
        ({'text_config': {'hidden_size': 'wide'}}, 'text_config is no Llama'),
        ({'text_config': {'rope_scaling': {'rope_type': 'yarn'}}}, "rope_type is 'yarn'"),
        ({'vision_config': {'dino': {'depth': 2}}}, r"'dino' is {'depth': 2}, must have exactly"),
        ({'norm_stats': {'key': {}}}, "statistics of 'key' have no 'action'"),
    ],
)
def test_a_config_that_is_none_names_the_key(published, change, match):
    published.config |= change
    published.write()
    refused(published, match)


def test_a_config_that_is_no_json_is_refused(published):
    (published.folder / 'config.json').write_text('{')
    refused(published, r'config\.json is not valid JSON')
    (published.folder / 'config.json').write_text('[]')
    refused(published, r'config\.json holds a list, must be a JSON object')


def test_a_model_without_tokenizer_is_not_saved(published, tmp_path):
    model = OpenVLA(OpenVLAConfig.from_dict(published.config))
    with pytest.raises(CheckpointError, match='no tokenizer'):
        model.save_pretrained(tmp_path / 'saved')
    assert not (tmp_path / 'saved').exists()


def test_a_config_survives_the_file(published):
    config = OpenVLAConfig.from_dict(published.config)
    again = OpenVLAConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again.to_dict() == config.to_dict()
    assert again.text_config.num_key_value_heads == 2


def test_a_published_config_means_the_7b_model():
    """Names, shapes and size of what the 7B folder holds; nothing is allocated."""
    config = OpenVLAConfig.from_dict(
        {
            'model_type': 'openvla',
            'vision_backbone_id': 'dinosiglip-vit-so-224px',
            'llm_backbone_id': 'llama2-7b-pure',
            'timm_model_ids': ['vit_large_patch14_reg4_dinov2.lvd142m',
                               'vit_so400m_patch14_siglip_224'],
            'timm_override_act_layers': [None, None],
            'image_sizes': [224, 224],
            'image_resize_strategy': 'resize-naive',
            'use_fused_vision_backbone': True,
            'n_action_bins': 256,
            'pad_to_multiple_of': 64,
            'torch_dtype': 'bfloat16',
            'text_config': {'model_type': 'llama', 'pad_token_id': 32000,
                            'torch_dtype': 'bfloat16', 'vocab_size': 32064},
        }
    )
    with torch.device('meta'):
        model = OpenVLA(config)
    assert config.n_patches == 256
    assert config.text_config.rms_norm_eps == 1e-6
    assert config.text_config.rope_parameters['rope_theta'] == 10000.0
    shapes = {name: entry.shape for name, entry in published_tensors(model.state_dict()).items()}
    expected = {
        DINO + 'pos_embed': (1, 256, 1024),
        DINO + 'cls_token': (1, 1, 1024),
        DINO + 'reg_token': (1, 4, 1024),
        DINO + 'patch_embed.proj.weight': (1024, 3, 14, 14),
        DINO + 'blocks.22.attn.qkv.weight': (3072, 1024),
        DINO + 'blocks.22.ls2.scale_factor': (1024,),
        SIGLIP + 'pos_embed': (1, 256, 1152),
        SIGLIP + 'blocks.25.mlp.fc1.weight': (4304, 1152),
        SIGLIP + 'blocks.25.attn.qkv.bias': (3456,),
        'projector.fc1.weight': (8704, 2176),
        'projector.fc2.weight': (4096, 8704),
        'projector.fc3.bias': (4096,),
        'language_model.model.embed_tokens.weight': (32064, 4096),
        'language_model.model.layers.31.mlp.down_proj.weight': (4096, 11008),
        'language_model.model.layers.31.self_attn.k_proj.weight': (4096, 4096),
        'language_model.lm_head.weight': (32064, 4096),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert DINO + 'blocks.23.norm1.weight' not in shapes
    assert SIGLIP + 'blocks.26.norm1.weight' not in shapes
    # 23 · 14 + 5 of DINOv2, 26 · 12 + 3 of SigLIP, 6 of the projector, 32 · 9 + 3 of Llama.
    assert len(shapes) == 327 + 315 + 6 + 291
