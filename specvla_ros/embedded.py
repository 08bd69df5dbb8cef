"""The checkpoints that come with the package, by name: ``--checkpoint`` takes name or folder."""

from __future__ import annotations

from pathlib import Path

from specvla_ros.errors import SpecVLAError

_FOLDER = Path(__file__).resolve().parent / 'checkpoints'
DEFAULT_CHECKPOINT = _FOLDER / 'libero_object'


def embedded_names() -> tuple[str, ...]:
    """Names of the embedded checkpoints."""
    return tuple(sorted(path.parent.name for path in _FOLDER.glob('*/config.json')))


def checkpoint_folder(checkpoint: str | Path | None) -> Path:
    """
    Return the folder of a checkpoint: None is the default one; a name is an embedded one's.

    Any other is returned as it is, whether it is there or not. Raises SpecVLAError for a name that
    is a folder's in the working directory as well.
    """
    if checkpoint is None:
        return DEFAULT_CHECKPOINT
    folder, names = Path(checkpoint), embedded_names()
    if str(folder) in names:
        embedded = _FOLDER / folder
        if folder.is_dir() and not folder.samefile(embedded):
            raise SpecVLAError(
                f'checkpoint {folder} is an embedded one, and a folder here as well: for the '
                f'folder give {folder.resolve()}, for the embedded one {embedded}')
        return embedded
    return folder


def found_elsewhere(checkpoint: str | Path | None) -> Path | None:
    """Name a checkpoint for other processes: an embedded one by its name, else where it lies."""
    if checkpoint is None:
        return None
    folder = checkpoint_folder(checkpoint).resolve()
    return Path(folder.name) if folder.parent == _FOLDER else folder
