"""Files of initial states that aren't: refused in one line with their names, and never run."""
import pickle

import numpy as np
import pytest
import torch

from specvla_ros.errors import SpecVLAError
from specvla_ros.libero import initial_states, suites


class Evil:
    """A pickle that would make a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


@pytest.mark.parametrize('suite', suites.SUITES)
def test_liberos_own_are_read(suite):
    states = initial_states.read(initial_states.path_of(suites.task(suite, 0)))
    assert states.shape[0] == 50 and states.dtype == np.float64


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'pick_up.pruned_init'


def refused(path, reason, size=7):
    with pytest.raises(SpecVLAError, match=reason) as error:
        initial_states.read(path, size)
    assert str(path) in str(error.value) and 'hf-libero' in str(error.value)
    assert '\n' not in str(error.value)


def test_a_missing_one(path):
    refused(path, 'are missing')


@pytest.mark.parametrize('content', [
    b'', b'junk', b'PK\x03\x04', b'\x80\x02}', b'version https://git-lfs.github.com/spec/v1\n'])
def test_a_damaged_one(path, content):
    path.write_bytes(content)
    refused(path, 'are damaged')


def test_a_cut_off_one(path):
    whole = initial_states.path_of(suites.task('libero_object', 0)).read_bytes()
    for size in (10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(path, 'are damaged|are .*must be')


@pytest.mark.parametrize('states', [
    np.zeros((49, 7)), np.zeros((50, 8)), np.zeros(50), np.full((50, 7), np.nan), {'states': 1},
    torch.zeros(50, 7)], ids=['too few', 'wider', 'flat', 'NaN', 'dict', 'tensor'])
def test_one_of_another_content(path, states):
    torch.save(states, path)
    refused(path, r'must be finite float64 \[50, 7\]')


def test_one_of_less_precision(path):
    torch.save(np.zeros((50, 7), np.float32), path)
    refused(path, 'are damaged .no plain array of float64')


@pytest.mark.parametrize('save', [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_one_that_was_tampered_with_is_not_run(path, tmp_path, save):
    save(Evil(tmp_path / 'made'), path)
    refused(path, 'are damaged')
    assert not (tmp_path / 'made').exists()
