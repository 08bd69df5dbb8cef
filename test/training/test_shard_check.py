"""Words that a drafter learns from: what does not fit the target is refused before it does."""
import json
import re
import shutil

import numpy as np
import pytest

from specvla_ros.cli import main
from specvla_ros.training.regenerate import run as regenerate
from test.training.conftest import write_episode
from test.training.drafter_data import regenerate_args, write_target

TRAININGS = {
    'glance': ['--drafter', 'new', '--batch', '8', '--epochs', '0.1', '--holdout', '0.3',
               '--decode-frames', '0'],
    'eagle': ['--out', 'new', '--batch', '8', '--epochs', '0.1', '--holdout', '0.3',
              '--decode-frames', '0'],
    'retrieval': ['--drafter', 'new', '--rank', '4', '--size', '6'],
}


@pytest.fixture(scope='module')
def regenerated(tmp_path_factory):
    """A tiny target, and what it says to six episodes."""
    folder = tmp_path_factory.mktemp('regenerated')
    write_target(folder / 'target')
    for seed in range(6):
        write_episode(folder / 'data', 0, seed)
    regenerate(regenerate_args(folder, folder / 'data', paths=2))
    return folder


@pytest.fixture
def words(regenerated, tmp_path, monkeypatch):
    """Copy the words of the target beside it, to be changed."""
    monkeypatch.chdir(shutil.copytree(regenerated, tmp_path / 'here'))
    return tmp_path / 'here' / 'words'


def put(name, value):
    def change(records):
        records = records.copy()
        records[name][-1] = value
        return records
    return change


def refused(training, capfd):
    """Run a training, which must be refused and leave nothing; return its line."""
    assert main(['train', training, '--target', 'target', '--regenerated', 'words',
                 *TRAININGS[training]]) == 2
    line, = capfd.readouterr().err.splitlines()
    assert line.startswith('error: ')
    return line


@pytest.mark.parametrize('change, message', [
    (lambda records: np.zeros((8, 4)), 'is an array [8, 4] of other records than its manifest'),
    (lambda records: records[0], 'is an array [] of other records'),
    (lambda records: records[['patches', 'tokens']].copy(), 'of other records'),
    (lambda records: records[:3], 'words holds 43 frames, its manifest counts 48'),
    (put('tokens', -1), 'holds tokens -1 to '), (put('tokens', 10**6), ' to 1000000, those of'),
])
@pytest.mark.parametrize('training', TRAININGS)
def test_a_shard_that_is_another(words, capfd, training, change, message):
    shard = words / 'task0' / 'seed1.npy'
    np.save(shard, change(np.load(shard)))
    assert message in refused(training, capfd)


@pytest.mark.parametrize('change, message', [
    ({'length': 14}, 'words was made with length 14, this target has 7'),
    ({'image_size': 64}, 'words was made with image_size 64, this target has 32'),
    ({'frames': 3}, 'words holds 48 frames, its manifest counts 3'),
    ({'episodes': {'task0/seed1': ' '}}, "seed1.npy: instruction is ' ', must be a sentence"),
])
@pytest.mark.parametrize('training', TRAININGS)
def test_a_manifest_that_is_another(words, capfd, training, change, message):
    path = words / 'manifest.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert message in refused(training, capfd)


@pytest.mark.parametrize('training, name', [
    ('glance', 'patches'), ('retrieval', 'patches'),
    ('eagle', 'patches'), ('eagle', 'prompt'), ('eagle', 'features')])
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_a_number_that_is_not_finite(words, capfd, training, name, value):
    for shard in (words / 'task0').iterdir():
        records = np.load(shard)
        records[name][..., -1, -1] = value  # of the features, of the last token but one
        np.save(shard, records)
    assert re.match(r'error: task0/seed\d.npy, frame \d+: a number is not finite: delete',
                    refused(training, capfd))
