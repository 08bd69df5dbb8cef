"""The files a report is left in, and the lines that say where they are."""

import io
import json

import pytest
from rich.console import Console

from specvla_ros.benchmark.report_files import leave
from specvla_ros.errors import SpecVLAError
from specvla_ros.files import write_text


def test_each_file_is_named_whole_as_soon_as_it_is_there(tmp_path):
    folder = tmp_path / ('a long name ' * 9) / 'of [bold] brackets'
    folder.mkdir(parents=True)
    text = io.StringIO()

    def draw(path):
        assert text.getvalue().splitlines() == [str(folder / 'report.json'), str(tmp_path / 'x')]
        write_text(path, 'a picture')

    leave({'rows': []}, folder, tmp_path / 'x', Console(file=text, width=40), {'plot.png': draw})
    assert json.loads((folder / 'report.json').read_text()) == {'rows': []}
    assert (tmp_path / 'x').read_bytes() == (folder / 'report.json').read_bytes()
    assert text.getvalue().splitlines()[-1] == str(folder / 'plot.png')


def test_what_cannot_be_written_is_not_named(tmp_path):
    text = io.StringIO()
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(SpecVLAError):
        leave({'rows': []}, tmp_path, tmp_path / 'file' / 'x.json', Console(file=text, width=500))
    assert text.getvalue() == f'{tmp_path / "report.json"}\n'
