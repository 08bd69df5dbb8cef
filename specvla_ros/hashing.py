"""Names for files by what they hold: which weights a figure, or a drafter, belongs to."""

from collections.abc import Iterable
import hashlib
from pathlib import Path

_BLOCK = 1 << 22  # bytes


def folder_sha256(folder: Path, suffixes: Iterable[str] = ('.safetensors', '.bin', '.json',
                                                           '.model')) -> str:
    """
    Hash what makes a checkpoint folder what it is: weights, configuration, tokenizer.

    Subfolders don't count. The value is that of `sha256sum FILES | sha256sum`, files in the
    order of their names (`LC_ALL=C`), so anyone can check it.

    :raises FileNotFoundError: no such folder, or nothing in it to hash
    """
    files = sorted(path for path in Path(folder).glob('*')
                   if path.is_file() and path.suffix in tuple(suffixes))
    if not files:
        raise FileNotFoundError(f'no checkpoint files in {folder}; expected config.json and '
                                '*.safetensors or *.bin')
    return files_sha256(files)


def files_sha256(files: Iterable[Path]) -> str:
    """Hash files in the order given, as `sha256sum FILES | sha256sum` in their folder does."""
    listing = ''.join(f'{file_sha256(path)}  {path.name}\n' for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hash one file, a few MiB at a time."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
