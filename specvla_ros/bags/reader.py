"""Read a rosbag2 folder or storage file, whole or cut off, in order and without ROS."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
import re
from typing import Any

from rosbags.interfaces import MessageDefinitionFormat
from rosbags.rosbag2 import Reader
import yaml

from specvla_ros.bags.salvage import CutOff, has_side_file, Record, scan, sqlite_size, Topic
from specvla_ros.bags.types import MessageTypes
from specvla_ros.errors import SpecVLAError

_SUFFIXES = ('.mcap', '.db3')


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a bag; received: when the recorder got it, ns."""

    topic: str
    kind: str
    received: int
    data: bytes


class Bag:
    """
    A bag that is open.

    topics: {name: type}. counts: messages by topic. files: where they are stored, in order.
    missing: one line on what can't be read, '' where the bag is whole.

    :param path: folder, or a .mcap or .db3 file
    :raises SpecVLAError: there is nothing that could be read
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.types = MessageTypes()
        self.topics: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self.missing = ''
        self.files = _storage_files(path)
        self._reader = self._open()
        if self._reader is None:
            self._count_what_is_left()

    def __enter__(self) -> Bag:
        """Keep it open for the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the files."""
        if self._reader is not None:
            self._reader.close()

    def messages(self, topics: Collection[str]) -> Iterator[Message]:
        """Yield the messages on these topics by the time they came; if cut off, as written."""
        records = self._salvaged() if self._reader is None else self._indexed(topics)
        for record in records:
            if isinstance(record, Record) and record.topic in topics:
                yield Message(record.topic, self.topics[record.topic], record.received,
                              record.data)

    def read(self, message: Message) -> Any:
        """
        Return a message with its fields.

        :raises SpecVLAError: it is damaged, or nothing defines its type
        """
        return self.types.deserialize(message.data, message.kind)

    def of_kind(self, *kinds: str) -> list[str]:
        """Return the topics of these types."""
        return [name for name, kind in self.topics.items() if kind in kinds]

    def _open(self) -> Reader | None:
        """Open the usual way; None, with `missing` set, where that can't be done."""
        if self.path.is_dir() and not (self.path / 'metadata.yaml').is_file():
            self.missing = 'metadata.yaml is missing'
            return None
        if absent := [path.name for path in self.files if not path.is_file()]:
            self.missing = f'{absent[0]} is missing'
            return None
        broken = [path for path in self.files if path.suffix == '.db3' and (
            has_side_file(path) or path.stat().st_size < sqlite_size(path))]
        if broken:
            self.missing = f'{broken[0].name} was left in the middle of writing'
            return None
        try:
            reader = Reader(self.path)
            reader.open()
            for connection in reader.connections:
                self._add(Topic(connection.topic, connection.msgtype, connection.msgdef.data
                                if connection.msgdef.format == MessageDefinitionFormat.MSG
                                else ''))
                self.counts[connection.topic] += connection.msgcount
        except Exception as error:  # noqa: BLE001 - rosbags lets out whatever damage leads to
            self.missing = f'no index ({" ".join(str(error).split()).rstrip(".")})'
            return None
        return reader

    def _count_what_is_left(self) -> None:
        """Read once through a bag without an index: topics, counts, and where it breaks off."""
        for _ in self._salvaged(note=True):
            pass
        if not any(self.counts.values()):
            raise SpecVLAError(f'no message can be read from {self.path}: {self.missing}')
        self.missing += f'; {sum(self.counts.values())} messages can be read'

    def _indexed(self, topics: Collection[str]) -> Iterator[Record]:
        wanted = [c for c in self._reader.connections if c.topic in topics]
        if not wanted:  # rosbags takes none for all
            return
        try:
            for connection, received, data in self._reader.messages(wanted):
                yield Record(connection.topic, received, bytes(data))
        except Exception as error:  # noqa: BLE001 - as when opening
            self.missing = f'{self.path.name} is damaged in the middle: {error}'

    def _salvaged(self, note: bool = False) -> Iterator[Topic | Record]:
        for path in filter(Path.is_file, self.files):
            try:
                for entry in scan(path):
                    if note:
                        self._note(entry)
                    yield entry
            except CutOff as error:
                if note:
                    self.missing += f'; {error}'

    def _note(self, entry: Topic | Record) -> None:
        if isinstance(entry, Topic):
            self._add(entry)
        else:
            self.counts[entry.topic] += 1

    def _add(self, topic: Topic) -> None:
        self.topics[topic.name] = topic.kind
        self.counts.setdefault(topic.name, 0)
        if topic.definition:
            self.types.define(topic.kind, topic.definition)


def _storage_files(path: Path) -> list[Path]:
    """
    Return a bag's storage files in the order of their time.

    :raises SpecVLAError: there are none
    """
    if not path.exists():
        raise SpecVLAError(f'there is no bag {path}')
    if path.is_file() and path.suffix in _SUFFIXES:
        return [path]
    names = _listed(path / 'metadata.yaml')
    found = [path / name for name in names] or sorted(
        (file for file in path.rglob('*') if file.suffix in _SUFFIXES), key=_natural)
    if not found:
        raise SpecVLAError(f'{path} is no bag: it holds neither metadata.yaml nor a file that '
                           f'ends in {" or ".join(_SUFFIXES)}')
    return found


def _listed(metadata: Path) -> list[str]:
    """Return the storage files a metadata.yaml names; none where it isn't there or is damaged."""
    try:
        content = yaml.safe_load(metadata.read_text(encoding='utf-8'))
        names = content['rosbag2_bagfile_information']['relative_file_paths']
        return [Path(name).name for name in names]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return []


def _natural(path: Path) -> list[int | str]:
    """Sort key: bag_2 comes before bag_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', path.name)]
