"""
Read an MCAP file: by its index where it has a good one, else from the beginning as far as it goes.

A chunk or message that is damaged is left out, the others are read. Format: the specification at
https://mcap.dev/spec; all numbers are little-endian.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
import heapq
import io
from pathlib import Path
import struct
from typing import Any, BinaryIO
import zlib

from rosbags.rosbag2.storage_mcap import decompress

from specvla_ros.bags.storage import DamageNotes, MCAP_MAGIC, Record, Topic

_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK = 0x02, 0x03, 0x04, 0x05, 0x06
_CHUNK_INDEX, _STATISTICS, _DATA_END = 0x08, 0x0b, 0x0f
_HEAD = 9  # bytes before the content of a record: its kind and its size
_END = 37  # bytes of the footer and the magic behind it


class _Damaged(Exception):
    """Bytes that can't be; the message says what is wrong with them."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Where a chunk is; start: time of its first message, ns. numbers: of its topics."""

    start: int
    place: int
    size: int
    numbers: frozenset[int]


class McapFile:
    """
    An MCAP file; see `Storage`.

    :raises OSError: it can't be read
    """

    def __init__(self, path: Path) -> None:
        self.topics: dict[int, Topic] = {}
        self.counts: dict[int, int] = {}
        self._path, self._size = path, path.stat().st_size
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._chunks: list[_Chunk] = []
        self._damage = DamageNotes(path.name)
        with open(path, 'rb') as file:
            self.is_scanned = not self._read_index(file)
        if self.is_scanned:
            self._forget_index()
            for record in self._scan():
                number = record.topic.number
                self.counts[number] = self.counts.get(number, 0) + 1

    @property
    def damage(self) -> str:
        """One line on what can't be read, as far as is known by now."""
        return str(self._damage)

    def records(self, numbers: Collection[int]) -> Iterator[Record]:
        """Yield the records of topics by time; as written where the file was scanned."""
        records = self._scan() if self.is_scanned else self._indexed(frozenset(numbers))
        return (record for record in records if record.topic.number in numbers)

    def close(self) -> None:
        """Nothing is held between two readings."""

    def _read_index(self, file: BinaryIO) -> bool:
        """Read the summary at the end of the file; return whether it can be relied on."""
        try:
            summary = self._summary(file)
            if summary is None:
                return False
            expected: tuple[Any, ...] = ()
            for _, code, body in _frames(io.BytesIO(summary), len(summary)):
                if code == _CHUNK_INDEX:
                    self._chunks.append(_chunk_index(body))
                elif code == _STATISTICS:
                    expected = struct.unpack_from('<QHIIII', body)
                    self.counts = dict(struct.iter_unpack('<HQ', body[46:]))
                else:
                    self._entry(code, body)
        except (_Damaged, struct.error, LookupError, ValueError) as error:
            self._damage.end = f'{self._path.name} has no index ({error})'
            return False
        if not expected:
            return False
        messages, _, channels, _, _, chunks = expected
        return channels == len(self.topics) and chunks == len(self._chunks) and bool(
            chunks or not messages) and messages == sum(self.counts.values())

    def _summary(self, file: BinaryIO) -> bytes | None:
        """Return the bytes of the summary; None where a whole file has none."""
        if self._size < len(MCAP_MAGIC) + _END:
            raise _Damaged('it has no end')
        file.seek(self._size - _END)
        footer = file.read()
        if footer[0] != _FOOTER or not footer.endswith(MCAP_MAGIC):
            raise _Damaged('it has no end')
        begin, _, checksum = struct.unpack_from('<QQI', footer, _HEAD)
        if not begin:
            return None
        file.seek(begin)
        summary = file.read(max(0, self._size - _END - begin))
        if not summary or checksum and zlib.crc32(summary + footer[:_HEAD + 16]) != checksum:
            raise _Damaged('it is damaged')
        return summary

    def _forget_index(self) -> None:
        self.topics, self.counts = {}, {}
        self._schemas, self._chunks = {}, []

    def _indexed(self, numbers: frozenset[int]) -> Iterator[Record]:
        """Merge the chunks by time: a record is due when no later chunk can hold an earlier."""
        waiting: list[tuple[int, int, Record]] = []
        count = 0
        with open(self._path, 'rb') as file:
            for chunk in sorted(self._chunks, key=lambda chunk: chunk.start):
                if chunk.numbers and not chunk.numbers & numbers:
                    continue
                while waiting and waiting[0][0] < chunk.start:
                    yield heapq.heappop(waiting)[2]
                for record in self._chunk_at(file, chunk):
                    if record.topic.number in numbers:
                        heapq.heappush(waiting, (record.received, count, record))
                        count += 1
        while waiting:
            yield heapq.heappop(waiting)[2]

    def _chunk_at(self, file: BinaryIO, chunk: _Chunk) -> Iterator[Record]:
        file.seek(min(chunk.place, self._size))
        head = file.read(_HEAD)
        size = chunk.size - _HEAD
        if head != struct.pack('<BQ', _CHUNK, max(size, 0)) or size > self._size - file.tell():
            self._damage.add(f'byte {chunk.place}', 'there is no chunk where the index has one')
            return
        yield from self._chunk_records(file.read(size), chunk.place)

    def _scan(self) -> Iterator[Record]:
        """Walk the records of the file from its beginning."""
        name, begin = self._path.name, 0
        with open(self._path, 'rb') as file:
            if file.read(len(MCAP_MAGIC)) != MCAP_MAGIC:
                self._damage.end = f'{name} is no MCAP file'
                return
            try:
                for begin, code, body in _frames(file, self._size):
                    if code in (_DATA_END, _FOOTER):
                        return
                    if code == _CHUNK:
                        yield from self._chunk_records(body, begin)
                    else:
                        yield from self._guarded_entry(code, body, begin)
            except _CutOff as error:
                self._damage.end = f'{name} breaks off after byte {error.begin}'
                if error.code == _CHUNK:
                    yield from self._chunk_records(file.read(), error.begin, is_whole=False)
            except _Damaged as error:
                self._damage.end = f'{name} is damaged after byte {begin}: {error}'
                return
            if not self._damage.end:
                self._damage.end = f'{name} breaks off after byte {self._size}'

    def _chunk_records(self, body: bytes, place: int, is_whole: bool = True) -> Iterator[Record]:
        """Read the records of a chunk: times 16 bytes, size, checksum, compression, records."""
        try:
            size, checksum = struct.unpack_from('<QI', body, 16)
            compression, begin = _string(body, 28)
            content = body[begin + 8:]
            if is_whole:
                content = decompress(content[:struct.unpack_from('<Q', body, begin)[0]],
                                     compression, size, checksum)
            elif compression:  # what is there of an uncompressed chunk is readable
                return
        except Exception as error:  # noqa: BLE001 - lz4 and zstd have errors of their own
            if is_whole:
                self._damage.add(f'byte {place}', error)
            return
        try:
            for _, code, entry in _frames(io.BytesIO(content), len(content)):
                yield from self._guarded_entry(code, entry, place)
        except _Damaged as error:
            if is_whole:
                self._damage.add(f'byte {place}', error)

    def _guarded_entry(self, code: int, body: bytes, place: int) -> Iterator[Record]:
        try:
            record = self._entry(code, body)
        except (struct.error, LookupError, ValueError) as error:
            self._damage.add(f'byte {place}', f'a record of kind {code:#x} makes no sense '
                             f'({error!r})')
            return
        if record is not None:
            yield record

    def _entry(self, code: int, body: bytes) -> Record | None:
        """Take in a schema or a channel; return what is a message."""
        if code == _SCHEMA:
            kind, place = _string(body, 2)
            notation, place = _string(body, place)
            text, _ = _string(body, place)
            self._schemas[struct.unpack_from('<H', body)[0]] = kind, text, notation
        elif code == _CHANNEL:
            number, schema = struct.unpack_from('<HH', body)
            name, place = _string(body, 4)
            encoding, _ = _string(body, place)
            kind, text, notation = self._schemas.get(schema, ('', '', ''))
            if encoding != 'cdr':  # can't be taken for a message of that type
                kind = f'{kind} encoded as {encoding or "nothing"}'
            self.topics[number] = Topic(number, name, kind, text, notation)
            self.counts.setdefault(number, 0)
        elif code == _MESSAGE:
            number, _, received, _ = struct.unpack_from('<HIQQ', body)
            return Record(self.topics[number], received, body[22:])
        return None


class _CutOff(_Damaged):
    """A record that goes on behind the end."""

    def __init__(self, begin: int, code: int) -> None:
        super().__init__('it breaks off')
        self.begin, self.code = begin, code


def _frames(file: BinaryIO, end: int) -> Iterator[tuple[int, int, bytes]]:
    """
    Yield place, kind and content of each record up to `end`.

    :raises _CutOff: the last one isn't whole; the file stands at the begin of its content
    :raises _Damaged: bytes that begin no record
    """
    while (begin := file.tell()) < end:
        head = file.read(_HEAD)
        if len(head) < _HEAD:
            raise _CutOff(begin, 0)
        code, size = struct.unpack('<BQ', head)
        if not code:
            raise _Damaged(f'no record begins at byte {begin}')
        if size > end - begin - _HEAD:
            raise _CutOff(begin, code)
        yield begin, code, file.read(size)


def _chunk_index(body: bytes) -> _Chunk:
    start, _, place, size, length = struct.unpack_from('<QQQQI', body)
    numbers = frozenset(number for number, _ in struct.iter_unpack('<HQ', body[36:36 + length]))
    return _Chunk(start, place, size, numbers)


def _string(body: bytes, place: int) -> tuple[str, int]:
    begin = place + 4
    end = begin + struct.unpack_from('<I', body, place)[0]
    if end > len(body):
        raise ValueError('a text is longer than its record')
    return body[begin:end].decode(), end
