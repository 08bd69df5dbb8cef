"""
Recordings that can't be used together: one that comes twice, and those of several cameras.

A frame that is learned from and measured with as well would make any drafter look better, and a
data set of two cameras under one name is a wrong one.
"""

from __future__ import annotations

from collections.abc import Sequence
import filecmp
from pathlib import Path

from specvla_ros.errors import SpecVLAError
from specvla_ros.recordings.episode import Recording


def refuse_doubles(recordings: Sequence[Recording]) -> None:
    """
    Refuse recordings that share a file, under whatever path, and those that are copies.

    :raises SpecVLAError: names the two recordings, and the file that they share
    """
    owners: dict[tuple[int, int], Recording] = {}
    alike: dict[tuple[int, ...], list[Recording]] = {}
    for recording in recordings:
        found = [file.stat() for file in recording.files]
        for file, status in zip(recording.files, found, strict=True):
            # A file is the same under any path if it is the same on the disk, links included; to
            # resolve the paths of a million pictures takes eight times as long.
            owner = owners.setdefault((status.st_dev, status.st_ino), recording)
            if owner is not recording:
                raise SpecVLAError(
                    f'{recording.path} is given twice: leave one out'
                    if owner.path.resolve() == recording.path.resolve() else
                    f'{owner.path} and {recording.path} both hold {file.name}, which would count '
                    'twice: leave one out')
        sizes = tuple(sorted(status.st_size for status in found))
        for other in alike.setdefault(sizes, []):
            if _is_copy(recording.files, other.files):
                raise SpecVLAError(f'{recording.path} is a copy of {other.path}, whose frames '
                                   'would count twice: leave one out')
        alike[sizes].append(recording)


def check_camera(recording: Recording, first: Recording, option: str) -> None:
    """Refuse a recording of another camera than the first one of its format."""
    if recording.camera != first.camera:
        raise SpecVLAError(
            f'{first.path} is of the camera {first.camera}, {recording.path} of '
            f'{recording.camera}: only recordings of one camera go together; choose it with '
            f'{option}, or give them one by one')


def _is_copy(files: Sequence[Path], others: Sequence[Path]) -> bool:
    """
    Whether files hold the same as others of the same sizes, in the order of sizes and names.

    The smallest are compared first, and others differ within the first bytes: only what is a copy
    is read to its end.
    """
    def ordered(paths: Sequence[Path]) -> list[Path]:
        return sorted(paths, key=lambda path: (path.stat().st_size, path.name))

    return bool(files) and all(filecmp.cmp(a, b, shallow=False) for a, b in zip(
        ordered(files), ordered(others), strict=True))
