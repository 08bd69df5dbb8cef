"""The interface of all storage files: topics, records, and damaged places."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple, Protocol

from specvla_ros.errors import one_line

SUFFIXES = ('.mcap', '.db3')
COMPRESSED = '.zstd'
MCAP_MAGIC, SQLITE_MAGIC = b'\x89MCAP0\r\n', b'SQLite format 3\0'


class Topic(NamedTuple):
    """
    A topic of a storage file.

    number: the file's own. kind: its message type. definition: of the type, '' where the file
    has none; notation: that of the definition, 'ros2msg' or 'ros2idl'.
    """

    number: int
    name: str
    kind: str
    definition: str = ''
    notation: str = ''


class Record(NamedTuple):
    """One message as it was written; received: ns."""

    topic: Topic
    received: int
    data: bytes


class Storage(Protocol):
    """
    A storage file that is open. Nothing is ever written to it or beside it.

    topics: by number. counts: messages by number. is_scanned: it was read from one end to the
    other because it has no index that could be trusted.
    """

    topics: dict[int, Topic]
    counts: dict[int, int]
    is_scanned: bool

    @property
    def damage(self) -> str:
        """One line on what can't be read, as far as is known by now; '' where nothing is."""

    def records(self, numbers: Collection[int], since: int = 0) -> Iterator[Record]:
        """
        Yield the records of topics by time; as written where the file was scanned.

        since: ns; records that came before are left out where there is an index, which is quick.
        """

    def close(self) -> None:
        """Free what it holds."""


class DamageNotes:
    """Collects the damaged places of a file and says them in one line."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._places: dict[int | str, str] = {}
        self.end = ''

    def add(self, place: int | str, reason: object) -> None:
        """Note a damaged place; again and again is once."""
        self._places.setdefault(place, one_line(reason))

    def __str__(self) -> str:
        said = [self.end] if self.end else []
        for place, reason in list(self._places.items())[:1]:
            more = f' and in {len(self._places) - 1} more places' if len(self._places) > 1 else ''
            said.append(f'{self._name} is damaged at {place}{more}: {reason}')
        return '; '.join(said)
