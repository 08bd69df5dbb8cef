"""
Open a storage file to be read, unpacked if it is compressed.

A file says by its first bytes what it is: names and metadata may be wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

# rosbags brings it along: `compression.zstd` of Python 3.14, or its backport.
from rosbags.rosbag2.reader import zstd

from specvla_ros.bags.mcap_file import McapFile
from specvla_ros.bags.sqlite_file import SqliteFile
from specvla_ros.bags.storage import COMPRESSED, MCAP_MAGIC, Record, SQLITE_MAGIC, Storage
from specvla_ros.errors import SpecVLAError

_ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
_STRANGERS = {
    b'#ROSBAG V': 'is a bag of ROS 1; convert it first: `rosbags-convert --src OLD --dst NEW`',
    b'version https://git-lfs': 'is a Git LFS pointer, not the bag; run `git lfs pull`',
}
_BLOCK = 1 << 20  # bytes


def open_storage(path: Path, scratch: Path) -> Storage:
    """
    Open a storage file, whatever its name is.

    :param scratch: folder to put copies in, should it be compressed or left half written
    :raises SpecVLAError: it is of a kind that isn't read
    :raises OSError: it can't be read, or the copy has no room
    """
    with open(path, 'rb') as file:
        head = file.read(32)
    if head.startswith(_ZSTD_MAGIC) and path.parent != scratch:  # once
        unpacked, problem = _unpack(path, scratch)
        storage = open_storage(unpacked, scratch)
        return storage if not problem else _Shortened(storage, problem)
    for magic, problem in _STRANGERS.items():
        if head.startswith(magic):
            raise SpecVLAError(f'{path} {problem}')
    if head.startswith(SQLITE_MAGIC):
        return SqliteFile(path, scratch)
    if head.startswith(MCAP_MAGIC) or path.suffix == '.mcap':
        return McapFile(path)
    if path.suffix == '.db3':
        return SqliteFile(path, scratch)
    raise SpecVLAError(f'{path} is neither an MCAP file nor an SQLite one: of rosbag2, '
                       'the storages mcap and sqlite3 are read')


def unpack_message(data: bytes) -> bytes:
    """
    Return a message that may be compressed on its own (`compression_mode: MESSAGE`).

    CDR begins with a zero byte, so it can't be taken for zstd. What doesn't unpack stays as it is,
    and is then no message.
    """
    if not data.startswith(_ZSTD_MAGIC):
        return data
    try:
        return zstd.decompress(data)
    except (zstd.ZstdError, MemoryError):
        return data


def _unpack(path: Path, scratch: Path) -> tuple[Path, str]:
    """Decompress a file as far as it goes; return the copy, and what is wrong with it."""
    copy, problem = scratch / path.name.removesuffix(COMPRESSED), ''
    with copy.open('wb') as out, open(path, 'rb') as file, zstd.open(file, 'rb') as content:
        while True:
            try:
                block = content.read(_BLOCK)
            except (zstd.ZstdError, EOFError) as error:
                problem = f'{path.name} breaks off: {error}'
                break
            if not block:
                break
            out.write(block)
    return copy, problem


class _Shortened:
    """A storage file whose compressed original breaks off."""

    def __init__(self, storage: Storage, problem: str) -> None:
        self._storage, self._problem = storage, problem
        self.topics, self.counts = storage.topics, storage.counts
        self.is_scanned = storage.is_scanned

    @property
    def damage(self) -> str:
        return self._problem

    def records(self, numbers: Collection[int], since: int = 0) -> Iterator[Record]:
        return self._storage.records(numbers, since)

    def close(self) -> None:
        self._storage.close()
