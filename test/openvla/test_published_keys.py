"""Keys of config.json and files beside the weights: what says another model is refused."""

import json
import shutil

import pytest

from specvla_ros.openvla.errors import CheckpointError
from specvla_ros.openvla.model import OpenVLA

PUBLISHED = {
    'architectures': ['OpenVLAForActionPrediction'],
    'arch_specifier': 'no-align+fused-gelu-mlp',
    'auto_map': {'AutoConfig': 'configuration_prismatic.OpenVLAConfig',
                 'AutoModelForVision2Seq': 'modeling_prismatic.OpenVLAForActionPrediction'},
    'hf_llm_id': 'meta-llama/Llama-2-7b-hf',
    'image_resize_strategy': 'resize-naive',
    'llm_backbone_id': 'llama2-7b-pure',
    'llm_max_length': 2048,
    'attn_implementation': 'flash_attention_2',
    'output_projector_states': False,
    'pad_token_id': 32000,
    'timm_model_ids': ['vit_tiny_patch8_reg4_dinov2.lvd142m', 'vit_tiny_patch8_siglip_24'],
    'timm_override_act_layers': [None, None],
    'transformers_version': '4.40.1',
}


def refused(published):
    with pytest.raises(CheckpointError) as caught:
        OpenVLA.from_pretrained(published.write())
    said = str(caught.value)
    assert '\n' not in said and str(published.folder) in said
    return said


def test_all_published_keys_are_known(published):
    published.config |= PUBLISHED
    OpenVLA.from_pretrained(published.write())


@pytest.mark.parametrize(('change', 'message'), [
    ({'arch_specifier': 'no-align+gelu-mlp'}, "must be 'no-align+fused-gelu-mlp'"),
    ({'arch_specifier': 'linear'}, "arch_specifier is 'linear'"),
    ({'timm_override_act_layers': [None, 'quick_gelu']}, 'must be null for each tower'),
    ({'timm_override_act_layers': [None]}, 'must be a list of 2'),
    ({'timm_model_ids': ['vit_large_patch14_reg4_dinov2', 'vit_large_patch14_clip_336.openai']},
     'timm_model_ids'),
    ({'timm_model_ids': ['vit_large_patch14_dinov2', 'vit_so400m_patch14_siglip_224']},
     'timm_model_ids'),  # without registers
    ({'vision_backbone_id': 'dinoclip-vit-l-336px'}, 'vision_backbone_id'),
    ({'llm_backbone_id': 'vicuna-v15-7b'}, 'another prompt'),
    ({'llm_backbone_id': 'llama2-7b-chat'}, 'another prompt'),
    ({'llm_backbone_id': 'qwen25-0_5b-extra'}, 'another prompt'),
    ({'hf_llm_id': 'microsoft/phi-2'}, "hf_llm_id is 'microsoft/phi-2'"),
    ({'image_resize_strategy': 'letterbox'}, "is 'letterbox', must be 'resize-naive'"),
    ({'image_resize_strategy': 'resize-crop'}, "is 'resize-crop', must be 'resize-naive'"),
    ({'quantization_config': {'load_in_4bit': True}}, 'quantization_config'),
    ({'torch_dtype': 'int8'}, "torch_dtype is 'int8', must be one of 'float32'"),
    ({'torch_dtype': 'float16', 'dtype': 'bfloat16'}, 'torch_dtype'),
    ({'architectures': ['PrismaticForConditionalGeneration']}, 'architectures'),
    ({'auto_map': {'AutoModelForVision2Seq': 'modeling_oft.OFT'}}, 'code of another model'),
    ({'use_proprio': True}, "unknown key 'use_proprio' with True"),
    ({'num_images_in_input': 2}, "unknown key 'num_images_in_input'"),
    ({'use_fused_vision_backbone': 'yes'}, 'must be true or false'),
    ({'use_fused_vision_backbone': 1}, 'must be true or false'),
    ({'model_type': 'pi0'}, "model_type is 'pi0', must be 'openvla'"),
    ({'model_type': None, 'type': 'pi0'}, 'a policy of LeRobot'),
    ({'model_type': None, 'vla': {}}, 'a training run of Prismatic'),
    ({'image_preparation': {'jpeg': 1, 'crop_area': 0.9}}, 'jpeg is 1, must be true or false'),
    ({'image_preparation': {'jpeg': True, 'crop_area': 1.5}}, 'crop_area is 1.5'),
    ({'image_preparation': {'jpeg': True, 'crop': 1}}, "must have 'jpeg' and 'crop_area'"),
], ids=str)
def test_another_model_is_refused(published, change, message):
    published.config |= PUBLISHED | change
    assert message in refused(published)


@pytest.mark.parametrize(('config', 'message'), [
    # 384-pixel towers of patch 14: 27 patches and 6 pixels.
    ({'image_sizes': [384, 384], 'vision_config': None}, '6 pixels are left over'),
    ({'image_sizes': [26, 26]}, '2 pixels are left over'),
    ({'image_sizes': [24, 48]}, 'must be one size for both towers'),
    ({'image_sizes': 24}, 'image_sizes is 24, must be a list'),
    ({'image_sizes': [24]}, 'must be a list of 2'),
    ({'image_sizes': [24.0, 24.0]}, 'an integer for each tower'),
    ({'image_sizes': [True, True]}, 'an integer for each tower'),
    ({'image_sizes': [0, 0]}, 'image_sizes is 0'),
    ({'image_sizes': [800, 800]}, 'max_position_embeddings is 2048, must be at least 10032'),
    ({'vision_config': {'patch_size': 7}}, '3 pixels are left over'),
    ({'vision_config': {'registers': 0}}, 'registers is 0'),
    ({'vision_config': {'layer_norm_eps': 1e-5}}, "unknown key 'layer_norm_eps'"),
    ({'vision_config': {'hidden_act': 'quick_gelu'}}, "unknown key 'hidden_act'"),
    ({'vision_config': {'dino': {'hidden_size': 25, 'depth': 3, 'num_heads': 2,
                                 'mlp_size': 50}}}, 'not a multiple of num_heads'),
    ({'vision_config': {'siglip': {'hidden_size': 16, 'depth': 4, 'num_heads': 3,
                                   'mlp_size': 40}}}, 'not a multiple of num_heads'),
], ids=str)
def test_sizes_that_do_not_fit_are_refused_at_load(published, config, message):
    whole = config.get('vision_config')
    if whole:
        config = {'vision_config': published.config['vision_config'] | whole}
    published.config |= config
    assert message in refused(published)


@pytest.mark.parametrize(('name', 'message'), [
    ('action_head--150000_checkpoint.pt', 'OpenVLA-OFT'),
    ('proprio_projector--150000_checkpoint.pt', 'OpenVLA-OFT'),
    ('noisy_action_projector--1_checkpoint.pt', 'OpenVLA-OFT'),
    ('vision_backbone--150000_checkpoint.pt', 'OpenVLA-OFT'),
    ('lora_adapter/', 'not merged'),
    ('adapter_config.json', 'not merged'),
    ('adapter_model.safetensors', 'not merged'),
    ('vq_extra_action_tokenizer.json', 'VQ'),
    ('processing_action_tokenizer.py', 'FAST'),
    ('quantize_config.json', 'quantised'),
    ('pytorch_model.bin', 'a second set of weights beside model.safetensors'),
    ('pytorch_model.bin.index.json', 'a second set of weights'),
    ('consolidated.00.pth', 'a second set of weights'),
    ('diffusion_head.pt', 'weights that nothing here reads'),
    ('ema.safetensors', 'weights that nothing here reads'),
    ('state_encoder.npz', 'weights that nothing here reads'),
    ('head.pkl', 'weights that nothing here reads'),
    ('query_tokens.npy', 'weights that nothing here reads'),
    ('Head.PT', 'weights that nothing here reads'),
])
def test_a_file_that_contradicts_the_weights_is_refused_with_the_reason(published, name, message):
    path = published.folder / name
    path.mkdir() if name.endswith('/') else path.write_text('{}')
    said = refused(published)
    assert message in said and name.rstrip('/') in said


@pytest.mark.parametrize('name', [
    'model.fp16.safetensors', 'model-00001-of-00002.safetensors'])
def test_a_second_set_of_weights_without_an_index_is_refused(published, name):
    published.write()
    shutil.copy(published.folder / 'model.safetensors', published.folder / name)
    with pytest.raises(CheckpointError, match=f'{name} beside model.safetensors, and no index'):
        OpenVLA.from_pretrained(published.folder)


def test_what_training_leaves_does_no_harm(published):
    for name in ('optimizer.pt', 'scheduler.pt', 'rng_state_0.pth', 'training_args.bin',
                 'trainer_state.json', 'tokenizer.model', 'README.md'):
        (published.folder / name).write_text('{}')
    OpenVLA.from_pretrained(published.folder)


def test_the_checkpoint_s_own_code_may_give_it_away(published):
    code = published.folder / 'modeling_prismatic.py'
    code.write_text('class OpenVLAForActionPrediction: ...\n')
    OpenVLA.from_pretrained(published.folder)
    code.write_text('from constants import NUM_ACTIONS_CHUNK\n')
    with pytest.raises(CheckpointError, match='it speaks of NUM_ACTIONS_CHUNK'):
        OpenVLA.from_pretrained(published.folder)


def test_a_reasoning_checkpoint_is_refused_by_its_name(published):
    published.folder = published.folder.rename(published.folder.with_name('ecot-openvla-7b'))
    assert 'writes its reasoning' in refused(published)


def test_shards_and_index_must_agree(published):
    published.write(shards=2)
    extra = published.folder / 'model-00003-of-00003.safetensors'
    extra.write_bytes(b'')
    with pytest.raises(CheckpointError, match='no index lists it'):
        OpenVLA.from_pretrained(published.folder)
    extra.unlink()
    index = published.folder / 'model.safetensors.index.json'
    content = json.loads(index.read_text())
    for name in ('../../etc/x.safetensors', 7, 'weights.bin'):
        content['weight_map']['projector.fc1.bias'] = name
        index.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=r'must be the name of a \.safetensors file'):
            OpenVLA.from_pretrained(published.folder)


@pytest.mark.parametrize(('name', 'content', 'message'), [
    ('added_tokens.json', {'<PAD>': 32000}, "token '<PAD>' has id 32000"),
    ('added_tokens.json', {'<s>': 0}, "token '<s>' has id 0, which tokenizer.json gives id 1"),
    ('tokenizer_config.json', {'bos_token': '<bos>'}, "bos_token is '<bos>', must be '<s>'"),
    ('tokenizer_config.json', {'add_bos_token': False}, 'add_bos_token is False'),
    ('tokenizer_config.json', {'add_eos_token': True}, 'add_eos_token is True'),
    ('tokenizer_config.json', {'added_tokens_decoder': {'1': {'content': '<bos>'}}}, '<bos>'),
    ('special_tokens_map.json', {'bos_token': {'content': '<bos>'}}, 'bos_token'),
    ('generation_config.json', {'num_beams': 4}, 'num_beams is 4, must be 1'),
    ('generation_config.json', {'repetition_penalty': 1.3}, 'repetition_penalty'),
    ('generation_config.json', {'bos_token_id': 7}, 'bos_token_id is 7, must be 1'),
], ids=str)
def test_files_beside_the_tokenizer_must_agree_with_it(published, name, content, message):
    (published.folder / name).write_text(json.dumps(content))
    said = refused(published)
    assert message in said and name in said


def test_files_beside_the_tokenizer_that_agree_load(published):
    for name, content in {
        'added_tokens.json': {'<s>': 1},
        'tokenizer_config.json': {'bos_token': '<s>', 'add_bos_token': True,
                                  'tokenizer_class': 'LlamaTokenizer', 'legacy': False,
                                  'added_tokens_decoder': {'1': {'content': '<s>'}}},
        'special_tokens_map.json': {'bos_token': {'content': '<s>', 'lstrip': False}},
        'generation_config.json': {'bos_token_id': 1, 'eos_token_id': 2, 'do_sample': True},
    }.items():
        (published.folder / name).write_text(json.dumps(content))
    OpenVLA.from_pretrained(published.folder)


@pytest.mark.parametrize('name', [
    'dataset_statistics.json', 'preprocessor_config.json', 'processor_config.json',
    'tokenizer_config.json', 'generation_config.json', 'model.safetensors.index.json'])
def test_a_link_to_nothing_is_not_a_file_that_is_absent(published, name):
    """As in a half-copied cache: its numbers would be replaced by others without a word."""
    published.write()
    (published.folder / name).unlink(missing_ok=True)
    for target in ('nowhere', name):
        (published.folder / name).symlink_to(target)
        with pytest.raises(CheckpointError, match=f'{name} can not be read.* link to {target}'):
            OpenVLA.from_pretrained(published.folder)
        (published.folder / name).unlink()


LIMITS = {'q01': [-1.0] * 6 + [0.0], 'q99': [1.0] * 7, 'mask': [True] * 6 + [False]}


@pytest.mark.parametrize('place', ['config.json', 'dataset_statistics.json'])
@pytest.mark.parametrize(('change', 'message'), [
    ({'q99': [float('nan')] * 7}, 'q99[0] is nan'),
    ({'q99': [1.0] * 6 + [float('inf')]}, 'q99[6] is inf'),
    ({'q01': [-1e300] * 7}, 'q01[0] is -1e+300'),
    ({'q01': [10**400] * 7}, 'q01[0] is 1e+300'),
    ({'q01': [None] * 7}, 'q01[0] is None, must be a number'),
    ({'q01': ['-1'] * 7}, "q01[0] is '-1', must be a number"),
    ({'q01': [True] * 7}, 'q01[0] is True, must be a number'),
    ({'q01': [[0.0]] * 7}, 'q01[0] is [0.0], must be a number'),
    ({'q01': None}, 'lacks q01'),
    ({'q01': 1.0}, 'q01 is 1.0, must be a list'),
    ({'q01': [2.0] * 7}, 'q01[0] is 2.0, must be at most q99[0], 1.0'),
    ({'q01': [-1.0] * 6}, 'lengths of q01 6, q99 7 and mask 7'),
    ({'q01': [], 'q99': [], 'mask': []}, 'or are 0'),
    ({'mask': [1] * 7}, 'must be a list of true and false'),
    ({'mask': ['true'] * 7}, 'must be a list of true and false'),
    ({'mask': True}, 'mask is True, must be a list'),
], ids=str)
def test_statistics_that_no_action_can_be_made_of_are_refused(published, place, change, message):
    statistics = {'bridge_orig': {'action': LIMITS}, 'libero_object': {'action': LIMITS | change}}
    if place == 'config.json':
        published.config['norm_stats'] = statistics
    else:
        (published.folder / place).write_text(json.dumps(statistics))
    said = refused(published)
    assert message in said and "'libero_object'" in said and place in said


def test_a_dimension_that_never_moves_is_right(published):
    published.config['norm_stats']['libero_object']['action'] = LIMITS | {'q01': [1.0] * 7}
    statistics = OpenVLA.from_pretrained(published.write()).action_statistics()
    assert statistics.unnormalize([0.3] * 7)[:6].tolist() == [1.0] * 6


def test_two_statistics_of_one_data_set_must_agree(published):
    path = published.folder / 'dataset_statistics.json'
    path.write_text(json.dumps({'libero_object': {'action': LIMITS}}))
    OpenVLA.from_pretrained(published.folder)
    path.write_text(json.dumps({'libero_object': {'action': LIMITS | {'q99': [2.0] * 7}}}))
    assert "q99 of 'libero_object' is not what config.json has" in refused(published)


@pytest.mark.parametrize(('name', 'stated', 'crop_area'), [
    ('openvla-7b+bridge_orig+b16+lr-0.0005+lora-r32+dropout-0.0--image_aug', None, 0.9),
    ('openvla-7b+libero_object_no_noops+b16+lr-0.0005+lora-r32+dropout-0.0', None, 1.0),
    ('openvla-7b-finetuned-libero-object', None, None),
    ('openvla-7b+x+b16+lr-0.0005--image_aug', {'jpeg': True, 'crop_area': 1.0}, 1.0),
])
def test_a_fine_tuning_s_name_says_whether_images_were_augmented(
        published, name, stated, crop_area):
    published.config['image_preparation'] = stated
    folder = published.write().rename(published.folder.with_name(name))
    said = OpenVLA.from_pretrained(folder).config.image_preparation
    assert said == (None if crop_area is None else {'jpeg': True, 'crop_area': crop_area})
