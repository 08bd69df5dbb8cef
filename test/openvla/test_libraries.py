"""Other versions of transformers are refused by their number, where models are made."""

from pathlib import Path

from packaging.requirements import Requirement
import pytest
import torch
from torch import nn
import transformers

from specvla_ros import cli
from specvla_ros.openvla.config import OpenVLAConfig
from specvla_ros.openvla.errors import LibraryError
from specvla_ros.openvla.lazy import lazy_property
from specvla_ros.openvla.libraries import check_transformers, TRANSFORMERS
from specvla_ros.openvla.model import OpenVLA

ROOT = Path(__file__).parents[2]


def needed():
    lines = (ROOT / 'requirements' / 'base.txt').read_text().splitlines()
    line, = (line for line in lines if line.startswith('transformers'))
    return Requirement(line).specifier


def test_the_range_is_that_of_the_requirements():
    first, above = ('.'.join(map(str, version)) for version in TRANSFORMERS)
    assert needed() == Requirement(f'transformers>={first},<{above}').specifier


@pytest.mark.parametrize('version', ['5.18.0', '5.23.0', '5.20.2', '5.100.1', '5.18.0.dev0'])
def test_versions_in_the_range_pass(version, monkeypatch):
    monkeypatch.setattr(transformers, '__version__', version)
    check_transformers()


@pytest.mark.parametrize('version', ['4.57.1', '5.0.0', '5.17.2', '6.0.0', '10.1'])
def test_other_versions_are_refused_by_their_number(version, monkeypatch, published):
    monkeypatch.setattr(transformers, '__version__', version)
    expected = f'transformers {version} is installed, >=5.18,<6 is needed: pip install'
    with pytest.raises(LibraryError, match=expected):
        OpenVLA.from_pretrained(published.folder)
    with pytest.raises(LibraryError, match=expected):
        OpenVLA(OpenVLAConfig.from_dict(published.config))


def test_a_command_says_it_in_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transformers, '__version__', '5.17.0')
    assert cli.main(['bench', '--device', 'cpu', '--observations', '1']) == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith('error: transformers 5.17.0 is installed, ')


def test_what_a_lazy_part_lacks_is_named():
    class Whole(nn.Module):
        @lazy_property
        def part(self):
            return torch.zeros(1).no_such_thing

    with pytest.raises(RuntimeError, match="cannot make part: .*no attribute 'no_such_thing'"):
        assert Whole().part


def test_a_lazy_part_is_made_once():
    class Whole(nn.Module):
        made = 0

        @lazy_property
        def part(self):
            self.made += 1
            return self.made

    whole = Whole()
    assert (whole.part, whole.part) == (1, 1)
