"""
Every key of every file that is read, with values of every type: a dataclass, or one line.

More than a thousand variations. Weights are not read: a configuration is refused before.
"""

from collections.abc import Iterator
import copy
from dataclasses import asdict
import json
from pathlib import Path
import shutil
from typing import Any, Literal

import pytest
import yaml

from specvla_ros import data_sets
from specvla_ros.benchmark.records import ActionRecord, Deviation, EpisodeLog, EpisodeRecord
from specvla_ros.config_folder import config_folder
from specvla_ros.configuration import load_preset
from specvla_ros.data_sets import load_dataset
from specvla_ros.decoding.drafters import EagleHead, GlanceHead, make_drafter
from specvla_ros.decoding.rules import make_rule
from specvla_ros.embedded import DEFAULT_CHECKPOINT
from specvla_ros.errors import SpecVLAError
from specvla_ros.openvla import model as model_module
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.safety_settings import SafetySettings
from specvla_ros.training.regenerated import Manifest
from specvla_ros.typed_files import typed, value_of

VALUES = (None, True, 0, -1, 7, 1.5, float('nan'), float('inf'), 10**400, 'x', '7', [], [1], {},
          {'a': 1})
# No file of its kind at all.
TEXTS = ('', '[]', 'null', '1', '"x"', '{', '\ufeff{}', '{"a": 1, "a": 2}', '[' * 100_000,
         '{"a":' * 5000 + '1' + '}' * 5000, b'\xff\xfe\x00', b'{"\xe9": 1}', '{"a": 1e999}',
         '{"a": ' + '9' * 5000 + '}')
LONGEST = 600  # characters of a message

# Keys that a published checkpoint may have and the embedded one has not.
MORE = {
    'arch_specifier': 'no-align+fused-gelu-mlp', 'hf_llm_id': 'meta-llama/Llama-2-7b-hf',
    'timm_model_ids': ['vit_tiny_patch24_reg4_dinov2', 'vit_tiny_patch24_siglip_168'],
    'timm_override_act_layers': [None, None], 'llm_max_length': 2048, 'pad_token_id': 5,
    'auto_map': {'AutoConfig': 'configuration_prismatic.OpenVLAConfig'},
    'output_projector_states': False, 'image_preparation': {'jpeg': True, 'crop_area': 0.9},
}
MORE_TEXT = {'rope_scaling': None, 'rope_parameters': {'rope_type': 'default'},
             'pretraining_tp': 1, 'attention_dropout': 0.0, 'torch_dtype': 'bfloat16'}
PREPROCESSOR = {
    'image_processor_type': 'PrismaticImageProcessor', 'image_resize_strategy': 'resize-naive',
    'input_sizes': [[3, 168, 168]] * 2, 'interpolations': ['bicubic'] * 2,
    'means': [[0.485, 0.456, 0.406], [0.5] * 3], 'stds': [[0.229, 0.224, 0.225], [0.5] * 3],
    'tvf_crop_params': [{'output_size': [168, 168]}] * 2, 'tvf_do_letterbox': False,
    'tvf_normalize_params': [
        {'inplace': False, 'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]},
        {'inplace': False, 'mean': [0.5] * 3, 'std': [0.5] * 3}],
    'tvf_resize_params': [{'antialias': True, 'interpolation': 3, 'size': [168, 168]}] * 2,
}
TOKENIZER = {'bos_token': '<s>', 'add_bos_token': True, 'tokenizer_class': 'TokenizersBackend',
             'added_tokens_decoder': {'1': {'content': '<s>'}}}
EAGLE = {'hidden_act': 'silu', 'rope_scaling': None, 'vocab_size': 704, 'bias': True,
         'attention_bias': False, 'tie_word_embeddings': False, 'head_dim': 32}


class WeightsWanted(Exception):
    """A configuration was taken."""


@pytest.fixture(scope='module')
def target():
    return OpenVLA.from_pretrained(DEFAULT_CHECKPOINT)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the embedded checkpoint, of which no weights are read."""
    def stop(*_: Any) -> None:
        raise WeightsWanted

    shutil.copytree(DEFAULT_CHECKPOINT, tmp_path / 'checkpoint')
    monkeypatch.setattr(model_module, 'read_weights', stop)
    return tmp_path / 'checkpoint'


def places(content: Any, above: tuple = ()) -> Iterator[tuple]:
    """Yield the way to every key, and to the first item of every list."""
    items = content.items() if isinstance(content, dict) else list(enumerate(content))[:1] \
        if isinstance(content, list) else ()
    for key, value in items:
        yield (*above, key)
        yield from places(value, (*above, key))


def changed(content: Any, place: tuple, value: Any) -> Any:
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return content


def vary(path: Path, content: Any, load: Any, dump: Any = json.dumps, names: bool = True) -> int:
    """Load all variations of a file; returns how many were refused, each in one line."""
    refusals = 0
    texts = [dump(changed(content, place, value)) for place in places(content) for value in VALUES]
    for text in (dump(content), *texts, *TEXTS):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        try:
            load()
        except WeightsWanted:
            continue
        except (ValueError, FileNotFoundError) as error:
            said = str(error)
            assert '\n' not in said and len(said) < LONGEST, text
            assert not names or path.parent.name in said, (text, said)
            refusals += 1
    return refusals


@pytest.mark.parametrize(('name', 'content', 'least'), [
    ('config.json', None, 800),
    ('preprocessor_config.json', PREPROCESSOR, 400),
    ('dataset_statistics.json', None, 100),
    ('tokenizer_config.json', TOKENIZER, 50),
    ('added_tokens.json', {'<s>': 1}, 15),
    ('special_tokens_map.json', {'bos_token': {'content': '<s>'}}, 25),
    ('generation_config.json', {'num_beams': 1, 'bos_token_id': 1}, 20),
])
def test_files_of_a_checkpoint(folder, name, content, least):
    config = json.loads((folder / 'config.json').read_text())
    if name == 'config.json':
        content = config | MORE
        content['text_config'] |= MORE_TEXT
    elif content is None:
        content = config['norm_stats']
    assert vary(folder / name, content, lambda: OpenVLA.from_pretrained(folder)) > least


@pytest.mark.parametrize('merges', [True, False])
def test_a_tokenizer_that_would_abort_the_process_is_refused(folder, merges):
    path = folder / 'tokenizer.json'
    content = json.loads(path.read_text())
    if merges:
        content['model']['continuing_subword_prefix'] = 'longer than any token'
    else:
        content['model']['vocab']['<s>'] = content['model']['vocab']['!']
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r'tokenizer\.json is not a usable tokenizer: .*model'):
        OpenVLA.from_pretrained(folder)


@pytest.mark.parametrize(('within', 'head', 'more', 'least'), [
    ('drafters/eagle', EagleHead, EAGLE, 180), ('drafters/glance', GlanceHead, {}, 110)])
def test_configurations_of_drafters(folder, target, monkeypatch, within, head, more, least):
    path = folder / within / 'config.json'
    content = json.loads(path.read_text()) | more
    made = vary(path, content, lambda: head.from_pretrained(path.parent, target))
    assert made > least


class Head:
    """In place of a drafter's weights."""

    fused = None

    def new_cache(self) -> None:
        return None


@pytest.mark.parametrize(
    ('name', 'least'), [('relaxed', 80), ('hybrid_relaxed', 80), ('auto', 10)])
def test_decoder_presets(tmp_path, name, least):
    def load() -> None:
        config = load_preset(tmp_path / 'it.yaml')
        assert config.threshold >= 0 or config.rule.settings['r'] < 0
        for member in config.members:
            make_rule(member.rule.name, member.rule.settings)
            make_drafter(member.drafter.name, member.drafter.settings_on('cpu'),
                         {'eagle': Head, 'glance': Head})

    content = yaml.safe_load((config_folder() / 'decoders' / f'{name}.yaml').read_text())
    assert vary(tmp_path / 'it.yaml', content, load, yaml.safe_dump, names=False) > least


def test_safety_files(tmp_path):
    content = yaml.safe_load((config_folder() / 'safety_arm.yaml').read_text())
    made = vary(tmp_path / 'it.yaml', content, lambda: SafetySettings.read(tmp_path / 'it.yaml'),
                yaml.safe_dump)
    assert made > 130


def test_data_set_files(tmp_path, monkeypatch):
    content = yaml.safe_load((config_folder() / 'unnorm' / 'libero.yaml').read_text())
    (tmp_path / 'unnorm').mkdir()
    monkeypatch.setattr(data_sets, 'config_folder', lambda: tmp_path)
    made = vary(tmp_path / 'unnorm' / 'it.yaml', content, lambda: load_dataset('it'),
                yaml.safe_dump)
    assert made > 150


def test_manifests_of_regenerated_data(tmp_path):
    manifest = Manifest('a' * 64, 'libero_object', 168, True, 7, 4, 9, 0,
                        episodes={'task0/seed1': 'pick up the milk'})
    path = tmp_path / 'manifest.json'
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    assert vary(path, asdict(manifest), lambda: Manifest.read(tmp_path)) > 120


def test_records_of_episodes(tmp_path):
    action = ActionRecord((1, 2), 1, 2, 3, (1,), ('target', 'eagle'), {'total': 1.0},
                          Deviation(1, 2.0, 3.0), 4.0)
    episode = EpisodeRecord('libero_object', 0, 1, 'ar', True, 2, None, (action,))
    path = tmp_path / 'episodes.jsonl'
    path.write_text(episode.to_json() + '\n')
    assert EpisodeLog(path).episodes == [episode]
    made = vary(path, json.loads(episode.to_json()), lambda: EpisodeLog(path),
                lambda content: json.dumps(content) + '\n')
    assert made > 150


@pytest.mark.parametrize(('hint', 'good', 'bad'), [
    (int, [0, -3], [True, 1.0, '1', None, []]),
    (float, [0, 1.5], [True, '1', None, 10**400]),
    (bool, [True], [1, 'true', None]),
    (str, ['x'], [1, None, ['x']]),
    (str | None, ['x', None], [1]),
    (tuple[int, ...], [[], [1, 2]], [[1.0], 1, '12', {'1': 1}]),
    (tuple[int, int], [[1, 2]], [[1], [1, 2, 3]]),
    (dict[str, float], [{}, {'a': 1}], [{'a': 'x'}, {1: 1.0}, []]),
    (Literal['mcap', 'sqlite3'], ['mcap'], ['zip', 1, ['mcap']]),
    (Path, ['a/b'], [1, None]),
])
def test_a_value_is_of_its_type(hint, good, bad):
    for value in good:
        value_of(hint, value, 'it')
    for value in bad:
        with pytest.raises(SpecVLAError, match='it is .*, must be '):
            value_of(hint, value, 'it')


def test_a_missing_and_an_unknown_key_are_named():
    with pytest.raises(SpecVLAError, match=r"missing keys \['mm'\], unknown keys \['cm'\]"):
        typed(Deviation, {'max_bins': 1, 'cm': 2.0, 'deg': 1.0}, 'it')
