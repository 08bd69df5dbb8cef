"""Whether something can be written at a place, known before hours of work depend on it."""

from __future__ import annotations

import os
from pathlib import Path
import tempfile

from specvla_ros.errors import SpecVLAError


def check_writable(option: str, path: Path) -> None:
    """
    Check that a file or folder can be made, or written in, without leaving anything.

    :param option: of the command, for the error
    :raises SpecVLAError: a part of its path is a file, or nothing can be written there
    """
    place = Path(path).absolute()
    there = place if place.is_dir() else next(
        folder for folder in place.parents if os.path.lexists(folder))
    if not there.is_dir():
        raise SpecVLAError(f'{option} {path}: {there} is not a folder; choose another place')
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix='.specvla-'):
            pass
    except OSError as error:
        raise SpecVLAError(f'{option} {path}: cannot write in {there}: '
                           f'{error.strerror or error}; choose another place') from error
