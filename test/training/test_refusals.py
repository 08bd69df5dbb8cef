"""What training commands refuse: one line, code 2, before hours of work, leaving nothing."""
from pathlib import Path
import shutil

import numpy as np
import pytest
import torch

from specvla_ros import cli
from specvla_ros.training.regenerate import run as regenerate
from specvla_ros.training.target_check import check_target
from test.training.conftest import SUITE
from test.training.drafter_data import regenerate_args, write_target

COMMANDS = {
    'regenerate': ['--target', 'target', '--data', 'data', '--out', 'new'],
    'train drafter': ['--target', 'target', '--data', 'data', '--regenerated', 'words',
                      '--out', 'new', '--batch', '8', '--epochs', '0.1', '--holdout', '0.5'],
    'train glance': ['--target', 'target', '--data', 'data', '--regenerated', 'words',
                     '--drafter', 'new', '--batch', '8', '--epochs', '0.1', '--holdout', '0.5'],
    'train target': ['--data', 'data', '--out', 'new', '--init', 'target'],
    'collect': ['--out', 'new', '--episodes', '1', '--tasks', '0', '--checkpoint', 'target'],
}
OUT = {'train glance': '--drafter'}


@pytest.fixture(scope='module')
def words(tmp_path_factory):
    """A target, two episodes, and what the target says to them."""
    from test.training.conftest import write_episode
    folder = tmp_path_factory.mktemp('words')
    write_target(folder / 'target')
    for seed in range(6):
        write_episode(folder / 'data', 0, seed)
    regenerate(regenerate_args(folder, folder / 'data'))
    return folder


@pytest.fixture
def refused(words, tmp_path, monkeypatch, capfd):
    """Give a function that runs a command beside these; it must be refused and change nothing."""
    here = shutil.copytree(words, tmp_path / 'here')
    monkeypatch.chdir(here)

    def refused(command, reason, *options):
        before = sorted(here.rglob('*'))
        assert cli.main([*command.split(), *COMMANDS[command], *options]) == 2
        line, = capfd.readouterr().err.splitlines()
        assert line.startswith('error: ') and reason in line
        assert sorted(here.rglob('*')) == before
    return refused


@pytest.mark.parametrize('name, reason', [
    ('tokenizer.json', 'no tokenizer'), ('model.safetensors', 'no weights to load'),
    ('config.json', 'has no config.json')])
@pytest.mark.parametrize('command', COMMANDS)
def test_a_target_that_is_not_whole(refused, command, name, reason):
    Path('target', name).unlink()
    refused(command, reason)


@pytest.mark.parametrize('command', COMMANDS)
def test_options_that_cannot_be(refused, command):
    refused(command, 'cannot write in /proc', OUT.get(command, '--out'), '/proc/deep/new')
    refused(command, 'is not a folder', OUT.get(command, '--out'), 'target/config.json/new')
    refused(command, 'seed is -1', '--seed', '-1')
    refused(command, f'seed is {2**63}, must be 0 to ', '--seed', str(2**63))
    if command != 'collect':
        refused(command, "device is 'tpu'", '--device', 'tpu')
        refused(command, 'has no such statistics, must be one of libero_object', '--unnorm-key',
                'libero_10')


@pytest.mark.parametrize('options, reason', [
    (['--decoder', 'sloppy'], "decoder is 'sloppy'"),
    (['--decoder', 'strict'], 'there is no drafter folder'),
    (['--suite', 'libero_spatial'], 'only of libero_object; give --checkpoint libero_spatial'),
    (['--seed', '-1'], 'seed is -1'), (['--resolution', '0'], 'resolution is 0'),
    (['--noise', 'nan'], 'noise is nan'), (['--policy-share', '2'], 'policy_share is 2')])
def test_what_collect_refuses(refused, options, reason):
    refused('collect', reason, *options)


def test_collect_without_a_renderer(refused, monkeypatch):
    monkeypatch.setenv('MUJOCO_GL', 'vulkan')
    refused('collect', "MUJOCO_GL is 'vulkan'")


def test_regenerate_without_data_begins_nothing(refused):
    refused('regenerate', 'no successful episodes', '--data', 'nowhere')


def test_a_manifest_without_data_does_not_stand_in_the_way(words, tmp_path):
    """As a start leaves it that was killed."""
    args = regenerate_args(words, words / 'data', out=tmp_path / 'begun', paths=2)
    regenerate(args)
    for path in (tmp_path / 'begun').rglob('*.npy'):
        path.unlink()
    assert regenerate(regenerate_args(words, words / 'data', out=tmp_path / 'begun')) == 0


@pytest.mark.parametrize('command', ['train drafter', 'train glance'])
def test_episodes_that_are_decoded_at_the_end_are_looked_for_at_the_start(refused, command):
    shutil.rmtree('data')
    refused(command, 'is missing, which is decoded at the end')


@pytest.mark.parametrize('command, folder', [
    ('train drafter', 'new.training'), ('train glance', 'new.glance.training'),
    ('train target', 'new.training')])
@pytest.mark.parametrize('content', [b'', b'junk', b'PK\x03\x04'])
def test_a_damaged_state_is_not_resumed(refused, command, folder, content):
    Path(folder).mkdir()
    Path(folder, 'state.pt').write_bytes(content)
    refused(command, "state.pt can't be read", '--resume')


@pytest.mark.parametrize('command, folder', [
    ('train drafter', 'new.training'), ('train glance', 'new.glance.training'),
    ('train target', 'new.training')])
def test_a_state_of_an_older_version_is_not_resumed(refused, command, folder):
    Path(folder).mkdir()
    content = {'settings': {}, 'optimizer': {}, 'sampler': {}, 'elapsed': 0.0, 'samples': 0}
    for more in ({}, {'scale': {'mean': np.zeros(3)}}):
        torch.save(content | more, Path(folder, 'state.pt'))
        refused(command, 'has layout None, must be 2: another version of specvla wrote it',
                '--resume')


@pytest.mark.parametrize('command, folder', [
    ('train drafter', 'new'), ('train glance', 'new/glance'), ('train target', 'new')])
def test_a_folder_of_something_else_is_not_replaced(refused, command, folder):
    Path(folder).mkdir(parents=True)
    Path(folder, 'thesis.tex').touch()
    refused(command, f'{folder} holds something that is no checkpoint')


def test_a_published_targets_statistics_are_the_suites(tmp_path):
    target = write_target(tmp_path / 'target')
    config = target / 'config.json'
    config.write_text(config.read_text().replace(f'"{SUITE}"', f'"{SUITE}_no_noops"'))
    assert check_target(target, SUITE, None, 'cpu') == f'{SUITE}_no_noops'
