"""
Read an SQLite storage file, whole or not, without a byte written to it or beside it.

SQLite by itself makes `-wal` and `-shm` files for a database in WAL mode, also where it is only
read; `immutable` says that nothing changes, and then it makes none.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator
import contextlib
import functools
from pathlib import Path
import shutil
import struct
from typing import Any
from urllib.parse import quote

import apsw

from specvla_ros.bags.storage import DamageNotes, Record, SQLITE_MAGIC, Topic

_SIDE_FILES = ('-journal', '-wal')
_HOT_JOURNAL = b'\xd9\xd5\x05\xf9\x20\xa1\x63\xd7'  # how a journal begins that is still needed
_LONGEST_GAP = 100_000  # rows of a lost page; after a longer gap the search ends


class _EndOfFile(Exception):
    """SQLite asked for what lies behind the end of a file."""


_ERRORS = (_EndOfFile, apsw.Error, UnicodeDecodeError)


class SqliteFile:
    """
    An SQLite file; see `Storage`.

    :param scratch: folder for a copy, should it have been left in the middle of a transaction
    :raises OSError: it can't be read, or the copy has no room
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        self.topics: dict[int, Topic] = {}
        self.counts: dict[int, int] = {}
        self.is_scanned = False
        self._damage = DamageNotes(path.name)
        if sides := _side_files(path):
            self._damage.end = f'{path.name} was left in the middle of writing'
        elif (size := path.stat().st_size) < sqlite_size(path):
            self._damage.end = f'{path.name} breaks off after byte {size}'
            self.is_scanned = True
        self._connection = _opened(path, sides, scratch, strict=self.is_scanned)
        try:
            self._read_topics()
            self._count()
        except _ERRORS as error:
            self._damage.end = self._damage.end or f'{path.name}: {error}'

    @property
    def damage(self) -> str:
        """One line on what can't be read, as far as is known by now."""
        return str(self._damage)

    def records(self, numbers: Collection[int]) -> Iterator[Record]:
        """Yield the records of topics by time; as written where the file was scanned."""
        rows = self._scan() if self.is_scanned else self._in_order(numbers)
        return (record for record in rows if record.topic.number in numbers)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def _read_topics(self) -> None:
        definitions: dict[str, tuple[str, str]] = {}
        with contextlib.suppress(*_ERRORS):  # before Jazzy there was no such table
            definitions |= {kind: (text, notation) for kind, text, notation in self._select(
                'SELECT topic_type, encoded_message_definition, encoding '
                'FROM message_definitions') if isinstance(text, str)}
        for number, name, kind, encoding in self._select(
                'SELECT id, name, type, serialization_format FROM topics ORDER BY id'):
            if not isinstance(name, str) or not isinstance(kind, str):
                self._damage.add(f'topic {number}', 'its name and type are no texts')
                continue
            if encoding != 'cdr':  # can't be taken for a message of that type
                kind = f'{kind} encoded as {encoding or "nothing"}'
            self.topics[number] = Topic(number, name, kind, *definitions.get(kind, ('', '')))

    def _count(self) -> None:
        self.counts, counted = dict.fromkeys(self.topics, 0), {}
        try:
            counted = {} if self.is_scanned else dict(self._select(
                'SELECT topic_id, count(*) FROM messages GROUP BY topic_id'))
        except apsw.SQLError:  # there is no such table
            raise
        except _ERRORS:
            self.is_scanned = True
        for record in self._scan() if self.is_scanned else ():
            self.counts[record.topic.number] += 1
        self.counts |= {number: n for number, n in counted.items() if number in self.topics}

    def _select(self, text: str) -> list[Any]:
        return self._connection.execute(text).fetchall()

    def _in_order(self, numbers: Collection[int]) -> Iterator[Record]:
        # First the order, then row by row: sorting them would hold all pictures at once.
        wanted = ', '.join(str(int(number)) for number in numbers)
        try:
            rows = array('q', (row for row, in self._connection.execute(
                f'SELECT id FROM messages WHERE topic_id IN ({wanted}) ORDER BY timestamp, id')))
        except _ERRORS as error:
            self._damage.end = f'{self._damage} has no order of time: {error}'
            yield from self._scan()
            return
        for row in rows:
            try:
                found = self._select(
                    f'SELECT topic_id, timestamp, data FROM messages WHERE id = {row}')
            except _ERRORS as error:
                self._damage.add(f'row {row}', error)
                continue
            yield from self._record(row, *found[0])

    def _scan(self) -> Iterator[Record]:
        """Go from row to row: a page that is missing takes some with it, not all that follow."""
        row, last, is_lost = None, 0, False
        while row is None or row <= last + _LONGEST_GAP:
            begin = '' if row is None else f'WHERE id >= {row} '
            try:
                found = self._select(
                    f'SELECT id, topic_id, timestamp, data FROM messages {begin}'
                    'ORDER BY id LIMIT 1')
            except _ERRORS as error:
                if not is_lost:
                    self._damage.add(f'row {row or 1}', error)
                row, is_lost = (row or 0) + 1, True
                continue
            if not found:
                return
            row, is_lost = found[0][0], False
            last = row
            yield from self._record(*found[0])
            row += 1

    def _record(self, row: int, number: int, received: int, data: Any) -> Iterator[Record]:
        if number in self.topics and isinstance(received, int) and isinstance(data, bytes):
            yield Record(self.topics[number], received, data)
        else:
            self._damage.add(f'row {row}', 'it is no message of a topic')


def _opened(path: Path, sides: list[Path], scratch: Path, strict: bool) -> apsw.Connection:
    """Open a database; where SQLite has to clean up first, in a copy. strict: see `_Strict`."""
    if sides:
        folder = scratch / f'{path.name}.copy'
        folder.mkdir()
        for file in (path, *sides):
            shutil.copy(file, folder)
        return apsw.Connection(str(folder / path.name))
    return apsw.Connection(f'file:{quote(str(path.resolve()))}?immutable=1',
                           flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
                           vfs=_strict().name if strict else None)


def sqlite_size(path: Path) -> int:
    """Return how long a database says it is, bytes; 0 where it doesn't say."""
    with open(path, 'rb') as file:
        head = file.read(32)
    if len(head) < 32 or not head.startswith(SQLITE_MAGIC):
        return 0
    page, = struct.unpack_from('>H', head, 16)
    pages, = struct.unpack_from('>I', head, 28)
    return pages * (65536 if page == 1 else page)


def _side_files(path: Path) -> list[Path]:
    """Files of a transaction that was not brought to its end."""
    journal, log = (path.with_name(path.name + suffix) for suffix in _SIDE_FILES)
    sides = [log] if log.is_file() and log.stat().st_size else []
    if journal.is_file():
        with open(journal, 'rb') as file:
            if file.read(len(_HOT_JOURNAL)) == _HOT_JOURNAL:
                sides.append(journal)
    return sides


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


@functools.cache  # it exists as long as it is referred to
def _strict() -> _Strict:
    return _Strict()


class _StrictFile(apsw.VFSFile):

    def __init__(self, name: Any, flags: list[int]) -> None:
        super().__init__('', name, flags)
        self._there = super().xFileSize()
        # A sorter's own file has no name.
        self._said = sqlite_size(Path(name.filename())) if name and self._there else 0

    def xFileSize(self) -> int:  # noqa: N802
        return max(self._there, self._said)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        if offset + amount > self._there and self._there < self._said:
            raise _EndOfFile(f'{self._there} of {self._said} bytes are there')
        return super().xRead(amount, offset)
