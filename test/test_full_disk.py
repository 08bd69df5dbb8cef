"""
A disk that is full, whoever finds out: each library says it in an error of its own.

A limit on the size of files stands in for it: the same calls fail in the same places.
"""
import contextlib
from fractions import Fraction
import resource
import shutil

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


def save_numpy(path):
    with path.open('wb') as file:
        np.save(file, WEIGHTS['weight'].numpy())


def save_lerobot(path):
    pyarrow = pytest.importorskip('pyarrow')
    from pyarrow import parquet
    parquet.write_table(pyarrow.table({'x': np.random.default_rng(0).random(100_000)}), path)


def save_video(path):
    av = pytest.importorskip('av')
    noise = np.random.default_rng(0)
    with av.open(str(path), 'w', format='mp4') as container:
        stream = container.add_stream('libx264', rate=Fraction(20))
        stream.width = stream.height = 64
        stream.pix_fmt = 'yuv420p'
        for _ in range(30):
            image = noise.integers(0, 255, (64, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, 'rgb24')))
        container.mux(stream.encode())


@pytest.mark.parametrize('save', [
    lambda path: save_file(WEIGHTS, path), lambda path: torch.save(WEIGHTS, path),
    save_numpy, save_lerobot, save_video,
    lambda path: path.write_bytes(bytes(100_000))],
    ids=['safetensors', 'torch', 'numpy', 'parquet', 'video', 'bytes'])
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


def test_of_a_folder_that_does_not_fit_one_file_is_named(tmp_path):
    """`shutil.copytree` tries every file, and raises one error with all of them."""
    for name in 'abc':
        (tmp_path / 'from').mkdir(exist_ok=True)
        (tmp_path / 'from' / name).write_bytes(bytes(60_000))
    with pytest.raises(SpecVLAError) as error, files_of_at_most(50_000):
        with whole_folder(tmp_path / 'to') as folder:
            shutil.copytree(tmp_path / 'from', folder / 'in')
    assert str(error.value).startswith(f'cannot write {tmp_path / "to"}: [Errno ')
    assert str(error.value).count('Errno') == 1
    assert not (tmp_path / 'to').exists()


def test_other_errors_stay_what_they_are(tmp_path):
    for kind in (RuntimeError, KeyError, TypeError):
        with pytest.raises(kind), whole_file(tmp_path / 'x'):
            raise kind('of the program')
    (tmp_path / 'cut.pt').write_bytes(b'PK\x03\x04' + bytes(200))
    with pytest.raises(RuntimeError, match='PytorchStreamReader'), whole_file(tmp_path / 'x'):
        torch.load(tmp_path / 'cut.pt')
    with pytest.raises(RuntimeError), whole_file(tmp_path / 'x'):
        raise RuntimeError('[enforce fail at inline_container.cc:240] . PytorchStreamReader '
                           'failed reading file data/0')
