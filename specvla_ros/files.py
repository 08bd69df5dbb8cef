"""Results are written whole or not at all: under a temporary name, renamed when done."""

from __future__ import annotations

from collections.abc import Collection, Iterator
import contextlib
import fcntl
import json
import os
from pathlib import Path
import shutil
import time
from typing import Any

from specvla_ros.errors import one_line, SpecVLAError
from specvla_ros.writable import check_writable


def check_json_path(path: Path | None) -> None:
    """
    Check early that `--json` can be written, before an hour of work depends on it.

    :raises SpecVLAError: its folder doesn't exist or can't be written to
    """
    if path is None:
        return
    folder = Path(path).resolve().parent
    if Path(path).is_dir():
        raise SpecVLAError(f'--json {path} is a folder; give the name of a file')
    if not folder.is_dir():
        raise SpecVLAError(f'--json {path}: there is no folder {folder}; create it first')
    if not os.access(folder, os.W_OK):
        raise SpecVLAError(f'--json {path}: the folder {folder} is not writable')


def folder_of(wanted: Path | None, command: str) -> Path:
    """
    Return the folder for what a run leaves: the one wanted, else runs/<command>-<date and time>.

    :raises SpecVLAError: it holds something already, or can't be made; nothing is made yet
    """
    folder = wanted or Path('runs') / time.strftime(f'{command}-%Y%m%d-%H%M%S')
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpecVLAError(f'--out {folder} exists and is not an empty folder; give a new one')
    check_writable('--out', folder)
    return folder


class NewFolder:
    """
    A folder that a command makes, and the folders above it that weren't there.

    :raises SpecVLAError: it can't be made
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_kept = False
        self._made = [folder for folder in (path, *path.parents) if not folder.exists()]
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)

    def keep(self) -> None:
        """There is something in it that is worth keeping, whatever happens now."""
        self.is_kept = True

    def remove(self) -> None:
        """Leave the place as it was, unless there is something to keep."""
        if self.is_kept:
            return
        with contextlib.suppress(OSError):
            for content in self.path.iterdir():
                shutil.rmtree(content) if content.is_dir() else content.unlink()
        self.remove_if_empty()

    def remove_if_empty(self) -> None:
        """Remove the folders that were made, as far as nothing is in them."""
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[NewFolder]:
    """
    Make a folder, which was empty or not there.

    A command that is refused (what the command line takes for bad input) or interrupted leaves
    nothing, unless there is something to keep.
    """
    folder = NewFolder(path)
    try:
        yield folder
    except (ValueError, OSError, KeyboardInterrupt):
        folder.remove()
        raise


@contextlib.contextmanager
def alone_in(folder: Path, option: str = '--out') -> Iterator[None]:
    """
    Make a folder, or take the one that is there, and refuse other processes that call this too.

    The lock ends with this process, even if it is killed. A folder that was made and stays empty
    is removed.

    :param option: what the user names the folder with
    :raises SpecVLAError: another process is at it, or it can't be made
    """
    made = NewFolder(folder)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpecVLAError(f'another process is writing to {folder}; wait for it, or '
                               f'give {option} another folder') from None
        yield
    finally:
        os.close(handle)
        made.remove_if_empty()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one line that says what could not be written."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and not _is_of_the_disk(error):
            raise
        raise SpecVLAError(f'cannot write {path}: {_reason(error)}; make room or choose another '
                           'folder') from error


def _is_of_the_disk(error: Exception) -> bool:
    """Whether safetensors or torch could not write: they raise errors of their own for it."""
    text = str(error)
    if type(error).__name__ == 'SafetensorError':
        return 'I/O error' in text
    # torch's reader fails in the same file: that is damage, which room does not mend.
    return isinstance(error, RuntimeError) and 'inline_container.cc' in text \
        and 'PytorchStreamReader' not in text


def _reason(error: Exception) -> str:
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        return one_line(error.args[0][0][-1])  # of a folder's files, the first that failed
    return getattr(error, 'strerror', None) or one_line(error)


def write_json(path: Path, document: Any) -> None:
    """
    Write JSON so that the file is either whole or not there.

    :raises SpecVLAError: full disk and the like; a file already there is left as it was
    """
    write_text(path, json_text(document))


def json_text(document: Any) -> str:
    """Return JSON as all files have it; raise ValueError for a number that is not finite."""
    return json.dumps(document, indent=1, allow_nan=False) + '\n'


def write_text(path: Path, text: str) -> None:
    """
    Write a text so that the file is either whole or not there.

    :raises SpecVLAError: full disk and the like; a file already there is left as it was
    """
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """
    Give a temporary name to write to; it becomes `path` if all went well and vanishes if not.

    :raises SpecVLAError: the disk is full or not writable
    """
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # a file stands where the folder should be
            temporary.unlink()


@contextlib.contextmanager
def whole_folder(folder: Path, keep: Collection[str] = ()) -> Iterator[Path]:
    """
    Give an empty folder to fill; it becomes `folder` if nothing is raised.

    The former content of `folder` is gone then, but for the folders in it that `keep` names: they
    belong to others. The swap is two renames: between them, for an instant, there is no folder,
    never half of one.

    :raises SpecVLAError: the disk is full or not writable
    """
    temporary = folder.with_name(f'{folder.name}.{os.getpid()}.part')
    old = folder.with_name(f'{folder.name}.{os.getpid()}.old')
    try:
        with writing(folder):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
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
