"""
A disk that is full, whoever finds out: each library says it in an error of its own.

A limit on the size of files stands in for it: the same calls fail in the same places.
"""
import contextlib
import resource

import numpy as np
import pytest
from safetensors.torch import save_file
import torch

from specvla_ros.errors import SpecVLAError
from specvla_ros.files import whole_file, whole_folder

WEIGHTS = {'weight': torch.zeros(100_000)}


@contextlib.contextmanager
def files_of_at_most(size):
    """Let no file grow beyond `size` bytes, in this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save_lerobot(path):
    pyarrow = pytest.importorskip('pyarrow')
    from pyarrow import parquet
    parquet.write_table(pyarrow.table({'x': np.random.default_rng(0).random(100_000)}), path)


@pytest.mark.parametrize('save', [
    lambda path: save_file(WEIGHTS, path), lambda path: torch.save(WEIGHTS, path),
    lambda path: np.save(path.open('wb'), WEIGHTS['weight'].numpy()), save_lerobot,
    lambda path: path.write_bytes(bytes(100_000))],
    ids=['safetensors', 'torch', 'numpy', 'parquet', 'bytes'])
def test_what_could_not_be_written_is_one_line_and_leaves_the_old(tmp_path, save):
    for name, place in (('weights', whole_file), ('drafters', whole_folder)):
        old = tmp_path / name
        if place is whole_folder:
            old.mkdir()
        file = old / 'weights' if place is whole_folder else old
        file.write_text('old')
        with pytest.raises(SpecVLAError) as error, files_of_at_most(50_000):
            with place(old) as new:
                save(new / 'weights' if place is whole_folder else new)
        line = str(error.value)
        assert line.startswith(f'cannot write {old}: ') and '\n' not in line
        assert line.endswith('; make room or choose another folder')
        assert file.read_text() == 'old'
    assert sorted(it.name for it in tmp_path.iterdir()) == ['drafters', 'weights']


def test_other_errors_stay_what_they_are(tmp_path):
    for kind in (RuntimeError, KeyError, TypeError):
        with pytest.raises(kind), whole_file(tmp_path / 'x'):
            raise kind('of the program')
