"""
Write a rosbag2 folder so that it is either whole or visibly not.

While it grows, the bag lies in `NAME.part/NAME`; only a complete one gets the name `NAME`. Flushed
messages can be read even after the process was killed or the disk was full.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import errno
from pathlib import Path
import shutil
import sqlite3
from typing import Any, Final, Literal

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer

from specvla_ros.bags.types import MessageTypes
from specvla_ros.errors import SpecVLAError

Storage = Literal['mcap', 'sqlite3']
_FORMAT: Final = 9  # of rosbag2's metadata: what Jazzy writes
_FLUSH_AFTER = 1 << 20  # bytes: what a full disk costs at most, as a chunk of MCAP
_PLUGINS = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
_FOREVER = QosTime(9223372036, 854775807)  # rmw's RMW_DURATION_INFINITE


def offered_qos(*, reliable: bool = True, latched: bool = False, depth: int = 1) -> Qos:
    """Return what a publisher offers, as rosbag2 writes it down; depth 0: it isn't known."""
    return Qos(
        QosHistory.KEEP_LAST if depth else QosHistory.UNKNOWN, depth,
        QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        _FOREVER, _FOREVER, QosLiveliness.AUTOMATIC, _FOREVER, False)


class BagWriter:
    """
    A bag that grows.

    :param path: folder the bag will be; nothing may be there yet
    :raises SpecVLAError: something is there, or the name can't be
    """

    def __init__(self, path: Path, storage: Storage = 'mcap') -> None:
        self.path = path
        self.part = path.with_name(f'{path.name}.part')
        check_free(path)
        check_name(path, storage)
        self.types = MessageTypes()
        self.counts: dict[str, int] = {}
        self._unflushed = 0
        self._topics: dict[str, Connection] = {}
        self._writer = Writer(self.part / path.name, version=_FORMAT,
                              storage_plugin=_PLUGINS[storage])
        self._writer.open()

    def add_topic(self, name: str, kind: str, qos: list[Qos]) -> None:
        """
        Announce a topic.

        :param qos: what each of its publishers offers
        :raises SpecVLAError: no installed package defines its type
        """
        text, digest = self.types.description(kind)
        self._topics[name] = self._writer.add_connection(
            name, kind, msgdef=text, rihs01=digest, offered_qos_profiles=qos)
        self.counts[name] = 0

    def write(self, topic: str, received: int, data: bytes) -> None:
        """
        Append a message.

        :param received: when it came, ns; data: CDR
        :raises OSError: the disk is full, say
        """
        with _disk_errors():
            self._writer.write(self._topics[topic], received, data)
        self.counts[topic] += 1
        self._unflushed += len(data)
        if self._unflushed > _FLUSH_AFTER:
            self.flush()

    def flush(self) -> None:
        """
        Make what has been written readable for others, also if this process is killed now.

        :raises OSError: the disk is full, say
        """
        storage: Any = self._writer.storage  # rosbags knows no flush: it is made of its parts
        self._unflushed = 0
        with _disk_errors():
            if isinstance(connection := getattr(storage, 'conn', None), sqlite3.Connection):
                connection.commit()
                return
            if storage.chunk.msgs:
                storage.close_chunk()
            storage.bio.flush()

    def finish(self) -> None:
        """
        Complete the bag and give it its name.

        :raises OSError: the disk is full, say; what was flushed stays in `part`
        """
        with _disk_errors():
            if not sum(self.counts.values()):  # or else rosbag2 would read a start in 2262
                self._writer.min_timestamp = self._writer.max_timestamp = 0
            self._writer.close()
        self._writer.path.rename(self.path)
        self._leave_part()

    def abandon(self) -> None:
        """Stop writing; what was flushed stays in `part`."""
        with contextlib.suppress(OSError, sqlite3.Error):  # the disk may still be full
            self._writer.abort()

    def discard(self) -> None:
        """Stop writing, and remove what was written."""
        self.abandon()
        shutil.rmtree(self._writer.path)
        self._leave_part()

    def _leave_part(self) -> None:
        if not any(self.part.iterdir()):  # else there is something of the user's
            self.part.rmdir()


def check_free(path: Path) -> None:
    """Raise a SpecVLAError where a bag, or what is left of one, is in the way."""
    part = path.with_name(f'{path.name}.part')
    for found in (path, part):
        if found.exists() and (found == path or not found.is_dir() or
                               (found / path.name).exists() or any(found.rglob('metadata.yaml'))
                               or any(found.rglob('*.mcap')) or any(found.rglob('*.db3'))):
            raise SpecVLAError(f'{found} exists already; give another name, or move it away')


def check_name(path: Path, storage: Storage) -> None:
    """Raise a SpecVLAError for a path that rosbags' SQLite writer takes for another one."""
    if storage == 'sqlite3' and (found := sorted(set(str(path.resolve())) & set('#%?'))):
        raise SpecVLAError(f'{path.resolve()} has {" ".join(found)} in it, which a bag of storage '
                           'sqlite3 must not; give another name, or storage mcap')


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn SQLite's own word for a full disk into an OSError, as other files have it."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(errno.ENOSPC if 'full' in str(error) else errno.EIO, str(error)) from error
