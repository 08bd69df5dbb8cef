"""
What can still be read of a storage file that was cut off: by a crash, a full disk, a bad copy.

A bag's index stands at its end, so that a file without an end can't be opened the usual way. Here
the file is read from its beginning, in the order it was written, as far as it goes.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import io
from pathlib import Path
import shutil
import struct
import tempfile
from typing import Any, BinaryIO, NamedTuple

import apsw
from rosbags.rosbag2.storage_mcap import decompress

from specvla_ros.errors import SpecVLAError

_MAGIC = b'\x89MCAP0\r\n'
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x03, 0x04, 0x05, 0x06, 0x0f
_LONGEST_GAP = 1000  # rows; after so many without one that can be read, there is none
_SIDE_FILES = ('-journal', '-wal', '-shm')


class Topic(NamedTuple):
    """A topic; `definition` is ros2msg text, '' where the file doesn't give it."""

    name: str
    kind: str
    definition: str


class Record(NamedTuple):
    """One message as it was written; received: ns."""

    topic: str
    received: int
    data: bytes


class CutOff(SpecVLAError):
    """The end of what can be read; the message says where and why."""


def scan(path: Path) -> Iterator[Topic | Record]:
    """
    Yield the topics and messages of a storage file (.mcap, .db3) as far as it can be read.

    :raises CutOff: where that ends too early
    """
    return (_scan_mcap if path.suffix == '.mcap' else _scan_sqlite)(path)


def _scan_mcap(path: Path) -> Iterator[Topic | Record]:
    with open(path, 'rb') as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise CutOff(f'{path.name} is no MCAP file')
        schemas: dict[int, tuple[str, str]] = {}
        channels: dict[int, str] = {}
        yield from _scan_records(file, path.name, schemas, channels)


def _scan_records(file: BinaryIO, name: str, schemas: dict[int, tuple[str, str]],
                  channels: dict[int, str]) -> Iterator[Topic | Record]:
    """Walk the records of a file, and those inside its chunks."""
    while True:
        begin = file.tell()
        head = file.read(9)
        if len(head) == 9 and head[0] == _DATA_END:
            return
        size = struct.unpack('<Q', head[1:])[0] if len(head) == 9 else 0
        body = file.read(size)
        if len(head) < 9 or len(body) < size:
            if head and head[0] == _CHUNK:  # what is there of an uncompressed chunk is readable
                yield from _scan_chunk(body, name, schemas, channels, is_whole=False)
            raise CutOff(f'{name} breaks off after byte {begin}')
        try:
            if head[0] == _CHUNK:
                yield from _scan_chunk(body, name, schemas, channels, is_whole=True)
            elif (entry := _read_record(head[0], body, schemas, channels)) is not None:
                yield entry
        except CutOff:
            raise
        except Exception as error:  # noqa: BLE001 - damaged bytes can lead to anything
            raise CutOff(f'{name} is damaged after byte {begin}: {error}') from error


def _scan_chunk(body: bytes, name: str, schemas: dict[int, tuple[str, str]],
                channels: dict[int, str], is_whole: bool) -> Iterator[Topic | Record]:
    """Read the records of a chunk: times 16 bytes, size, CRC, compression, size, records."""
    with contextlib.suppress(struct.error):  # not even the head of the chunk is there
        size, crc = struct.unpack_from('<QI', body, 16)
        compression, place = _string(body, 28)
        place += 8
        if is_whole:
            records = decompress(body[place:], compression, size, crc)
        elif not compression:
            records = body[place:]
        else:
            return
        with contextlib.suppress(CutOff):  # a chunk has no end mark
            yield from _scan_records(io.BytesIO(records), name, schemas, channels)


def _read_record(code: int, body: bytes, schemas: dict[int, tuple[str, str]],
                 channels: dict[int, str]) -> Topic | Record | None:
    if code == _SCHEMA:
        kind, place = _string(body, 2)
        encoding, place = _string(body, place)
        text, _ = _string(body, place)
        schemas[struct.unpack_from('<H', body)[0]] = kind, text if encoding == 'ros2msg' else ''
    elif code == _CHANNEL:
        channel, schema = struct.unpack_from('<HH', body)
        channels[channel], _ = _string(body, 4)
        return Topic(channels[channel], *schemas[schema])
    elif code == _MESSAGE:
        channel, _, logged, _ = struct.unpack_from('<HIQQ', body)
        return Record(channels[channel], logged, body[22:])
    return None


def _string(body: bytes, place: int) -> tuple[str, int]:
    end = place + 4 + struct.unpack_from('<I', body, place)[0]
    return body[place + 4:end].decode(), end


def _scan_sqlite(path: Path) -> Iterator[Topic | Record]:
    with _opened(path) as connection:
        try:
            yield from _sqlite_topics(connection)
            names = dict(connection.execute('SELECT id, name FROM topics'))
        except (_EndOfFile, apsw.Error) as error:
            raise CutOff(f'{path.name}: {error}') from error
        reason, row, last = None, 0, 0
        # Row by row: a page that is missing takes some messages with it, not all that follow.
        while (row := row + 1) <= last + _LONGEST_GAP:
            try:
                for topic, received, data in connection.execute(
                        'SELECT topic_id, timestamp, data FROM messages WHERE id = ?', (row,)):
                    last = row
                    yield Record(names[topic], received, data)
            except (_EndOfFile, apsw.Error) as error:
                reason = error
        if reason is not None:
            raise CutOff(f'{path.name}: {reason}') from reason


def _sqlite_topics(connection: apsw.Connection) -> Iterator[Topic]:
    definitions: dict[str, str] = {}
    with contextlib.suppress(apsw.SQLError):  # before Jazzy there was no such table
        definitions |= connection.execute(
            'SELECT topic_type, encoded_message_definition FROM message_definitions '
            "WHERE encoding = 'ros2msg'").fetchall()
    for name, kind in connection.execute('SELECT name, type FROM topics ORDER BY id'):
        yield Topic(name, kind, definitions.get(kind, ''))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[apsw.Connection]:
    """
    Open a database to be read, however it was left; the files stay as they are.

    With a journal beside it SQLite has to clean up first: it does so in a copy.
    """
    with tempfile.TemporaryDirectory(prefix='specvla-') as folder:
        sides = [side for suffix in _SIDE_FILES
                 if (side := path.with_name(path.name + suffix)).exists()]
        for file in (path, *sides) if sides else ():
            shutil.copy(file, folder)
        strict = _Strict()  # exists as long as it is referred to
        connection = apsw.Connection(str(Path(folder) / path.name)) if sides else \
            apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY, vfs=strict.name)
        try:
            yield connection
        finally:
            connection.close()


class _EndOfFile(Exception):
    """SQLite asked for what lies behind the end of a file."""


class _Strict(apsw.VFS):
    """
    Files as long as the database says, that fail where they are shorter.

    SQLite by itself takes what is missing for zeros, and so would hand out half a picture.
    """

    name = 'specvla-strict'

    def __init__(self) -> None:
        super().__init__(self.name, '')

    def xOpen(self, name: Any, flags: list[int]) -> _StrictFile:  # noqa: N802 - SQLite's name
        return _StrictFile(name, flags)


class _StrictFile(apsw.VFSFile):

    def __init__(self, name: Any, flags: list[int]) -> None:
        super().__init__('', name, flags)
        self._there = super().xFileSize()
        self._said = sqlite_size(Path(name.filename())) if self._there else 0

    def xFileSize(self) -> int:  # noqa: N802
        return max(self._there, self._said)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        if offset + amount > self._there and self._there < self._said:
            raise _EndOfFile(f'{self._there} of {self._said} bytes are there')
        return super().xRead(amount, offset)


def sqlite_size(path: Path) -> int:
    """Return how long a database says it is, bytes; 0 where it doesn't say."""
    with open(path, 'rb') as file:
        head = file.read(32)
    if len(head) < 32 or not head.startswith(b'SQLite format 3\0'):
        return 0
    page, = struct.unpack_from('>H', head, 16)
    pages, = struct.unpack_from('>I', head, 28)
    return pages * (65536 if page == 1 else page)


def has_side_file(path: Path) -> bool:
    """Whether a database was left in the middle of a transaction."""
    return any(side.exists() and side.stat().st_size for suffix in _SIDE_FILES[:2]
               if (side := path.with_name(path.name + suffix)))


