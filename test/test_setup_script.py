"""`scripts/setup.sh` makes .venv anew where the one that is there can't serve."""
import fcntl
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import venv

import pytest

SCRIPT = (Path(__file__).parents[1] / 'scripts' / 'setup.sh').read_text()


@pytest.fixture
def folder(tmp_path):
    """A folder with a .venv; a stub stands for pip, which takes seconds to install."""
    venv.create(tmp_path / 'here' / '.venv', symlinks=True)
    site, = (tmp_path / 'here' / '.venv').glob('lib/python*/site-packages')
    (site / 'pip.py').touch()
    return tmp_path / 'here'


def is_sound(folder, python=''):
    function = re.search(r'^sound\(\) \{\n.*?^\}\n', SCRIPT, re.MULTILINE | re.DOTALL).group()
    script = f'venv=.venv\n{function}\nif sound; then exit 0; fi; exit 9'
    return subprocess.run(['bash', '-euc', script], cwd=folder,
                          env={'PYTHON': python, 'PATH': '/usr/bin:/bin'}).returncode == 0


def test_a_whole_one_is_kept_whether_or_not_its_python_is_named(folder):
    assert is_sound(folder)
    assert is_sound(folder, sys.executable)


def test_a_link_to_a_whole_one_is_kept(folder, tmp_path):
    (tmp_path / 'there').mkdir()
    (tmp_path / 'there' / '.venv').symlink_to(folder / '.venv')
    assert is_sound(tmp_path / 'there')


def test_none_is_not_sound(tmp_path):
    assert not is_sound(tmp_path)


def test_another_python_is_noticed(folder, tmp_path):
    other = tmp_path / 'python3.99'
    other.write_text('#!/bin/sh\necho 3.99\n')
    other.chmod(0o755)
    assert not is_sound(folder, str(other))


def test_a_moved_one_is_noticed(folder, tmp_path):
    shutil.copytree(folder, tmp_path / 'copy', symlinks=True)
    assert not is_sound(tmp_path / 'copy')


def test_one_whose_python_is_gone_is_noticed(folder):
    python = folder / '.venv' / 'bin' / 'python'
    python.unlink()
    python.symlink_to('/nowhere/python')
    assert not is_sound(folder)


def test_one_without_pip_is_noticed(folder):
    next((folder / '.venv').glob('lib/python*/site-packages/pip.py')).unlink()
    assert not is_sound(folder)


def test_what_is_interrupted_is_done_again():
    """The stamp of a stage goes before its work begins and comes back when it is done."""
    for stage in ('dependencies', 'package'):
        body, = re.findall(rf'^{stage}\(\) \{{\n(.*?)^\}}\n', SCRIPT, re.MULTILINE | re.DOTALL)
        assert 0 < body.index(f'unstamp {stage}') < body.index('pip_install')
        assert body.rstrip().endswith(f'stamp {stage} "$key"')


def test_a_second_one_waits_for_the_first(tmp_path):
    say, = re.findall(r'^say\(\) .*$', SCRIPT, re.MULTILINE)
    alone, = re.findall(r'^alone\(\) \{\n.*?^\}\n', SCRIPT, re.MULTILINE | re.DOTALL)
    first = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    second = subprocess.Popen(['bash', '-euc', f'{say}\n{alone}\nalone\nsay done'], cwd=tmp_path,
                              stderr=subprocess.PIPE, text=True)
    assert 'waiting' in second.stderr.readline()
    assert second.poll() is None
    os.close(first)
    assert second.communicate(timeout=30)[1] == '[setup] done\n'
