"""Files and folders that are either whole or not there."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import shutil

from specvla_ros.errors import shown, SpecVLAError


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes `path` if nothing is raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'{path.name}.{os.getpid()}.part')
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_state(path: Path, keys: Collection[str], **options: object) -> dict:
    """
    Read what a training saved to resume from; ``options`` are those of ``torch.load``.

    :raises SpecVLAError: the file is damaged, or lacks one of the keys
    """
    import torch

    try:
        state = torch.load(path, **options)
    except Exception as error:  # pickle may raise anything at all
        reason = ' '.join(str(error).split())[:200] or type(error).__name__
        raise SpecVLAError(f"{path} can't be read ({reason}): delete {path.parent} and begin "
                           'again') from error
    if not isinstance(state, dict) or (missing := sorted(set(keys) - set(state))):
        what = f'lacks {missing}' if isinstance(state, dict) else f'holds {shown(state)}'
        raise SpecVLAError(f'{path} {what}: delete {path.parent} and begin again')
    return state


@contextmanager
def replace_folder(folder: Path, keep: Collection[str] = ()) -> Iterator[Path]:
    """
    Give an empty folder to fill; it becomes `folder` if nothing is raised.

    What `folder` held before is gone then, but for the folders in it that `keep` names: they are
    somebody else's. The swap is two renames: between them, for an instant, there is no folder,
    never half of one.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f'{folder.name}.{os.getpid()}.part')
    old = folder.with_name(f'{folder.name}.{os.getpid()}.old')
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for other in keep:
            if (folder / other).is_dir():
                shutil.copytree(folder / other, temporary / other)
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
