"""Read a rosbag2 folder or storage file, whole or damaged, in order and without ROS."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
import errno
from pathlib import Path
import tempfile
from typing import Any

from specvla_ros.bags.folder import find_files
from specvla_ros.bags.open_storage import open_storage, unpack_message
from specvla_ros.bags.storage import Storage
from specvla_ros.bags.types import MessageTypes
from specvla_ros.errors import counted, SpecVLAError


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a bag; received: when the recorder got it, ns."""

    topic: str
    kind: str
    received: int
    data: bytes


class Bag:
    """
    A bag that is open. Nothing is ever written to it or beside its files.

    topics: {name: type}; of a topic with several types, the first. counts: messages by topic.
    files: where they are stored, in order.

    :param path: folder, or one storage file
    :raises SpecVLAError: there is nothing that could be read
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.types = MessageTypes()
        self.topics: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self.files: tuple[Path, ...] = ()
        self._said: tuple[str, ...] = ()
        self._storages: list[Storage] = []
        self._scratch = tempfile.TemporaryDirectory(prefix='specvla-')
        try:
            self._open()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                way_out = f'; make room in {tempfile.gettempdir()}, or set TMPDIR' \
                    if error.errno in (errno.ENOSPC, errno.EDQUOT) else ''
                raise SpecVLAError(f'cannot read {error.filename or path}: '
                                   f'{error.strerror or error}{way_out}') from error
            raise

    def __enter__(self) -> Bag:
        """Keep it open for the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the files, and remove what had to be copied."""
        for storage in self._storages:
            storage.close()
        self._storages.clear()
        self._scratch.cleanup()

    @property
    def missing(self) -> str:
        """One line on what can't be read, as far as is known by now; '' where nothing is."""
        said = [*self._said, *filter(None, (storage.damage for storage in self._storages))]
        if any(storage.damage and storage.is_scanned for storage in self._storages):
            said.append(f'{sum(self.counts.values())} messages can be read')
        return '; '.join(said)

    @property
    def is_indexed(self) -> bool:
        """Whether all files have an index that can be trusted."""
        return not any(storage.is_scanned for storage in self._storages)

    def messages(self, topics: Collection[str], since: int = 0) -> Iterator[Message]:
        """
        Yield the messages on these topics by the time they came; without an index, as written.

        What is damaged is left out; `missing` says so then. since: ns; of a bag that is indexed,
        messages that came before are left out, and cost nothing.
        """
        for storage in self._storages:
            numbers = [n for n, topic in storage.topics.items() if topic.name in topics]
            for topic, received, data in storage.records(numbers, since):
                yield Message(topic.name, topic.kind, received, unpack_message(data))

    def read(self, message: Message) -> Any:
        """
        Return a message with its fields.

        :raises SpecVLAError: it is damaged, or nothing defines its type
        """
        return self.types.deserialize(message.data, message.kind)

    def of_kind(self, *kinds: str) -> list[str]:
        """Return the topics of these types."""
        return [name for name, kind in self.topics.items() if kind in kinds]

    def _open(self) -> None:
        found = find_files(self.path)
        self.files, self._said = found.files, found.missing
        for number, file in enumerate(self.files):
            scratch = Path(self._scratch.name) / str(number)
            scratch.mkdir()
            self._storages.append(open_storage(file, scratch))
            self._take_in(self._storages[-1])
        count = sum(self.counts.values())
        if not count:
            raise SpecVLAError(f'no message can be read from {self.path}: '
                               f'{self.missing or "it is empty"}')
        if found.messages is not None and found.messages != count:
            said = counted(found.messages, 'message')
            self._said += (f'metadata.yaml counts {said}, there are {count}',)

    def _take_in(self, storage: Storage) -> None:
        for number, topic in storage.topics.items():
            self.topics.setdefault(topic.name, topic.kind)
            self.counts[topic.name] = self.counts.get(topic.name, 0) + storage.counts.get(
                number, 0)
            if topic.definition:
                self.types.define(topic.kind, topic.definition, topic.notation)
