"""What can be known to go wrong is one line and code 2, and nothing is written."""
import json
from pathlib import Path
import shutil

import pytest

from specvla_ros import cli
from specvla_ros.benchmark.arguments import PolicyArgs
from specvla_ros.benchmark.checks import check_decoders
from specvla_ros.benchmark.preflight import check_policy, keys_of_suites, suite_of
from specvla_ros.configuration import load_preset, preset_names
from specvla_ros.data_sets import check_key
from specvla_ros.libero.suites import SUITES

EXAMPLE = Path(__file__).parents[1] / 'data' / 'libero_object_2'
COMMANDS = {
    'eval': ['eval', '--tasks', '0', '--trials', '1'],
    'demo': ['demo', '--tasks', '0'],
    'bench': ['bench', '--tasks', '0'],
    'overhead': ['overhead'],
    'calibrate': ['calibrate', '--tasks', '0', '--decoder', 'relaxed'],
    'replay': ['replay', str(EXAMPLE)],
    'replay live': ['replay', str(EXAMPLE), '--live'],
}


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def lack_tensor(path):
    from safetensors.torch import load_file, save_file
    tensors = load_file(path)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, path, metadata={'format': 'pt'})


def shrink_tensor(path):
    from safetensors.torch import load_file, save_file
    tensors = load_file(path)
    name = sorted(tensors)[0]
    save_file(tensors | {name: tensors[name][:1].clone()}, path, metadata={'format': 'pt'})


def round_tensor(path):
    from safetensors.torch import load_file, save_file
    tensors = load_file(path)
    name = sorted(tensors)[0]
    save_file(tensors | {name: tensors[name].int()}, path, metadata={'format': 'pt'})


def empty_config(path):
    path.write_text('{}')


def letterbox(path):
    path.write_text('{"image_resize_strategy": "letterbox"}')


def two_arms(path):
    content = json.loads(path.read_text())
    action = {'q01': [-1.0] * 14, 'q99': [1.0] * 14}
    path.write_text(json.dumps(content | {'norm_stats': {'libero_object': {'action': action}}}))


def know(path, *keys):
    """Give a checkpoint the statistics of these data sets."""
    content = json.loads(path.read_text())
    statistics, = content['norm_stats'].values()
    path.write_text(json.dumps(content | {'norm_stats': dict.fromkeys(keys, statistics)}))


# What is done to which file of a checkpoint, and what is said of it.
DAMAGE = {
    'no configuration': ('config.json', Path.unlink, 'has no config.json'),
    'no openvla': ('config.json', empty_config, "model_type is None, must be 'openvla'"),
    'actions of two arms': ('config.json', two_arms, 'have 14 dimensions, must have 7'),
    'no tokenizer': ('tokenizer.json', Path.unlink, 'no tokenizer'),
    'pictures of another form': (
        'preprocessor_config.json', letterbox, "'letterbox', must be 'resize-naive'"),
    'no weights': ('model.safetensors', Path.unlink, 'no weights to load'),
    'weights cut off': ('model.safetensors', cut, 'is damaged'),
    'weights incomplete': ('model.safetensors', lack_tensor, 'weights lack tensor'),
    'weights of integers': ('model.safetensors', round_tensor, 'I32, must be floating-point'),
    'weights of another shape': ('model.safetensors', shrink_tensor, 'of another shape'),
    'no drafter': ('drafter', shutil.rmtree, 'there is no drafter folder'),
    'no weights of the drafter': ('drafter/model.safetensors', Path.unlink, 'drafter'),
    'weights of the drafter cut off': ('drafter/model.safetensors', cut, 'drafter'),
    'drafter of another model': ('drafter/config.json', empty_config, 'drafter'),
}
OPTIONS = [
    (['--unnorm-key', 'bridge_orig'], 'libero_object'),
    (['--decoder', 'sloppy'], "decoder is 'sloppy'"),
    (['--device', 'tpu'], "device is 'tpu'"),
    (['--dtype', 'float7'], "dtype is 'float7'"),
    (['--out', '/proc/deep/run'], '--out /proc/deep/run: cannot write in /proc'),
    (['--out', 'checkpoint/config.json'], 'config.json'),
    (['--json', 'nowhere/x.json'], 'there is no folder'),
]
OF_ALL = [
    'no tokenizer', 'pictures of another form', 'weights cut off', 'drafter of another model']


@pytest.fixture
def refused(tiny_checkpoint, tmp_path, monkeypatch, capfd):
    """Give a function that runs a command in a folder with a checkpoint; it must be refused."""
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / 'checkpoint')
    monkeypatch.chdir(tmp_path)

    def refused(command, reason, *options):
        before = sorted(tmp_path.rglob('*'))
        assert cli.main([*COMMANDS[command], '--checkpoint', 'checkpoint', *options]) == 2
        line, = capfd.readouterr().err.splitlines()
        assert line.startswith('error: ') and reason in line
        assert sorted(tmp_path.rglob('*')) == before
    refused.checkpoint = checkpoint
    return refused


@pytest.mark.parametrize('command, damage', [
    *(('eval', damage) for damage in DAMAGE),
    *((command, damage) for command in COMMANDS if command != 'eval' for damage in OF_ALL)])
def test_a_checkpoint_that_cannot_act(refused, command, damage):
    name, change, reason = DAMAGE[damage]
    change(refused.checkpoint / name)
    # auto does without a drafter; one that drafts with it doesn't.
    refused(command, reason, *(['--decoder', 'strict'] if damage == 'no drafter' else []))


@pytest.mark.parametrize('options, reason', OPTIONS)
@pytest.mark.parametrize('command', COMMANDS)
def test_options_that_cannot_be(refused, command, options, reason):
    refused(command, reason, *options)


@pytest.mark.parametrize('command', ['eval', 'demo', 'bench', 'calibrate'])
def test_the_suite_that_the_checkpoint_was_trained_on_is_played(refused, command):
    know(refused.checkpoint / 'config.json', 'libero_goal')
    refused(command, 'libero_goal has no task 10', '--tasks', '10')
    refused(command, 'no statistics of libero_object', '--suite', 'libero_object')


@pytest.mark.parametrize('keys, suite', [
    (['libero_spatial_no_noops'], 'libero_spatial'),
    (['bridge_orig', 'libero_10'], 'libero_10'),
    (['libero_spatial', 'libero_object'], 'libero_object'),
    (['libero_goal', 'libero_spatial'], 'libero_spatial'),
    (['bridge_orig'], 'libero_object')])
def test_the_suite_where_none_is_named(tiny_checkpoint, tmp_path, keys, suite):
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / 'checkpoint')
    know(checkpoint / 'config.json', *keys)
    assert suite_of(PolicyArgs(checkpoint=checkpoint), '') == suite
    assert suite_of(PolicyArgs(checkpoint=checkpoint), 'libero_90') == 'libero_90'


@pytest.mark.parametrize('command', ['eval', 'demo', 'bench', 'calibrate'])
def test_a_renderer_that_is_not_there(refused, command, monkeypatch):
    monkeypatch.setenv('MUJOCO_GL', 'vulkan')
    refused(command, "MUJOCO_GL is 'vulkan', must be one of osmesa")


@pytest.mark.parametrize('command', ['eval', 'demo', 'bench', 'calibrate'])
def test_a_damaged_file_of_initial_states(refused, command, monkeypatch, tmp_path):
    path = tmp_path / 'states.pruned_init'
    path.write_bytes(b'junk')
    monkeypatch.setattr('specvla_ros.libero.initial_states.path_of', lambda task: path)
    refused(command, f'the initial states {path} are damaged')


@pytest.mark.parametrize('command', ['eval', 'demo', 'bench', 'calibrate'])
def test_a_suite_the_checkpoint_was_not_trained_on(refused, command):
    refused(command, 'has no statistics of libero_spatial (libero_spatial or '
                     'libero_spatial_no_noops), only of libero_object; give --checkpoint '
                     'libero_spatial, or name the statistics to use with --unnorm-key', '--suite',
            'libero_spatial')


def test_a_whole_checkpoint_is_let_through_with_every_preset(tiny_checkpoint):
    drafters = {name: load_preset(name).drafter.name for name in preset_names()}
    names = [name for name, drafter in drafters.items()
             if 'glance' not in drafter and drafter != 'velocity+history+eagle']
    args = PolicyArgs(checkpoint=tiny_checkpoint)
    assert check_policy(args, check_decoders(names).values()) == {'libero_object'}
    assert check_policy(PolicyArgs(), check_decoders(preset_names()).values())


def test_each_suite_has_its_own_statistics_under_either_name():
    keys = {*SUITES[:2], 'libero_goal_no_noops', 'libero_10', 'libero_10_no_noops', 'bridge_orig'}
    assert keys_of_suites(SUITES[:4], keys, None) == {
        'libero_spatial': 'libero_spatial', 'libero_object': 'libero_object',
        'libero_goal': 'libero_goal_no_noops', 'libero_10': 'libero_10'}
    with pytest.raises(ValueError, match='no statistics of libero_90 .*; evaluate a suite it was'):
        keys_of_suites(['libero_object', 'libero_90'], keys, None)


@pytest.mark.parametrize('wanted, names, reason', [
    ('libero_object', ['libero_object', 'libero_spatial'],
     '--unnorm-key libero_object is of libero_object, and can be right for one of the suites '
     'libero_object, libero_spatial only; leave it out'),
    ('libero_spatial_no_noops', ['libero_object', 'libero_spatial'], 'leave it out'),
    ('libero_90', ['libero_object'], 'no such statistics, must be one of'),
    ('mine', ['libero_object'], "no configuration for the data set 'mine'")])
def test_a_key_that_does_not_fit_the_suites(wanted, names, reason):
    keys = {'libero_object', 'libero_spatial', 'libero_spatial_no_noops', 'mine'}
    with pytest.raises(ValueError, match=reason):
        keys_of_suites(names, keys, wanted)


def test_a_key_that_is_asked_for_and_fits():
    keys = {'libero_object', 'libero_spatial', 'bridge_orig'}
    assert keys_of_suites(['libero_spatial'], keys, 'libero_object') == {
        'libero_spatial': 'libero_object'}  # the user's own wish, for one suite
    assert set(keys_of_suites(SUITES, keys, 'bridge_orig').values()) == {'bridge_orig'}


def test_where_no_suite_says_which_statistics():
    assert check_key({'libero_10'}, None) == 'libero_10'
    assert check_key({'libero_10', 'bridge_orig'}, 'bridge_orig') == 'bridge_orig'
    for keys, wanted in (
            ({'libero_10', 'bridge_orig'}, None), ({'libero_10'}, 'x'), (set(), None)):
        with pytest.raises(ValueError, match='--unnorm-key'):
            check_key(keys, wanted)


def test_the_statistics_of_a_file_beside_the_configuration(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / 'checkpoint')
    one = json.loads((folder / 'config.json').read_text())['norm_stats']['libero_object']
    (folder / 'dataset_statistics.json').write_text(json.dumps({'libero_10_no_noops': one}))
    assert check_policy(PolicyArgs(checkpoint=folder), []) == {'libero_10_no_noops'}
