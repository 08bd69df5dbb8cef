"""
Write topics into a rosbag2 folder: the engine of `specvla record`.

`python -m specvla_ros.nodes.bag_recorder --spec SPEC.json` subscribes to topics of any type, takes
their messages as they come over the wire, and writes them with the time they came. A topic that
isn't there yet is taken up when it gets a publisher, a publisher that offers another QoS when it
comes; latched messages said before are recorded too, and of topics found together they are asked
for first. A topic that can't be recorded is told of,
the others are recorded. (`benchmark/` may not import rclpy, hence the process boundary.)

Specification, one JSON object:
    {"out": "bag", "topics": ["/image", ...], "storage": "mcap", "seconds": null}

Events, one JSON object a line on stdout, flushed:
    {"event": "topic", "name", "type"}                # recording begins
    {"event": "note", "message"}                      # of a topic or publisher: not, or else
    {"event": "progress", "seconds", "counts": {topic: n}}            # once a second
    {"event": "done", "seconds", "counts", "bag"}     # the bag is complete
    {"event": "error", "message"}                     # the last line; the exit code is not 0

The bag grows in OUT.part and gets its name when it is complete: after `seconds`, on Ctrl-C, on
SIGTERM, or when the reader of the events has ended. The exit code is 0 then, 2 on bad input, and
1 when the disk is full or no message came; the messages until then stay in OUT.part.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
import importlib
from pathlib import Path
import queue
import signal
import sys
import threading
import time
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from specvla_ros.bags.writer import BagWriter, offered_qos, Storage
from specvla_ros.errors import one_line, SpecVLAError
from specvla_ros.nodes.events import Emit, error_event, events_on_stdout
from specvla_ros.nodes.recorded_topic import Offer, Publisher, RecordedTopic
from specvla_ros.nodes.runtime import EXIT_BAD_INPUT, run
from specvla_ros.typed_files import read_json, typed

NAME = 'bag_recorder'
_DEPTH = 100  # messages a subscription holds while the disk is slow
_LOOK_AROUND = 0.1  # s between two looks for topics
_FLUSH = 1.0  # s: what a lost machine costs at most


@dataclass(frozen=True, slots=True)
class RecordSpec:
    """What to record; seconds: None = until told to stop."""

    out: Path
    topics: tuple[str, ...]
    storage: Storage
    seconds: float | None

    @classmethod
    def read(cls, path: Path) -> RecordSpec:
        """Read the JSON file, which `specvla record` has checked."""
        return typed(cls, read_json(path), str(path))


class BagRecorder(Node):
    """
    Records the topics of a specification.

    Callbacks only note what came and when; the main thread writes.

    :param emit: called with every event but `error`
    """

    def __init__(self, spec: RecordSpec, emit: Emit) -> None:
        super().__init__(NAME)
        self._spec, self._emit = spec, emit
        self._came: queue.SimpleQueue[tuple[str, int, bytes]] = queue.SimpleQueue()
        self._stop = threading.Event()
        names = dict.fromkeys(self.resolve_topic_name(name) for name in spec.topics)
        self._topics = [RecordedTopic(name, self._problem_of) for name in names]
        self._begun = time.monotonic()
        self._writer = BagWriter(spec.out, spec.storage)

    def work(self) -> None:
        """Record until the time is over."""
        # No exception in the middle of a write: the loop looks for itself.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stop.set())
        end = self._begun + (self._spec.seconds or float('inf'))
        flushed = time.monotonic()
        while (now := time.monotonic()) < end and not self._stop.is_set():
            self._look_for_topics()
            self._write(until=min(now + _LOOK_AROUND, end))
            if now >= flushed + _FLUSH:
                flushed = now
                self._flush()
        if self._stop.is_set():
            raise KeyboardInterrupt

    def close(self) -> None:
        """Complete the bag; where something went wrong, leave what there is under `.part`."""
        if self._writer is None:
            return
        self._write(until=0.0)
        writer, self._writer = self._writer, None
        if not sum(writer.counts.values()):
            writer.discard()
            raise RuntimeError(
                f'nothing was recorded: no message came on {", ".join(self._spec.topics)} in '
                f'{self._seconds:.0f} s; is the publisher in the same ROS_DOMAIN_ID?')
        try:
            writer.finish()
        except OSError as error:
            raise _full(writer, error) from error
        self._tell({'event': 'done', 'seconds': self._seconds, 'counts': writer.counts,
                    'bag': str(writer.path)})

    @property
    def _seconds(self) -> float:
        return round(time.monotonic() - self._begun, 3)

    def _write(self, until: float) -> None:
        """Write what comes, and what has come already; until: monotonic clock, s."""
        try:
            while True:
                wait = until - time.monotonic()
                topic, received, data = self._came.get(wait > 0, max(wait, 0))
                self._writer.write(topic, received, data)
        except queue.Empty:
            return
        except OSError as error:
            self._give_up(error)

    def _flush(self) -> None:
        try:
            self._writer.flush()
        except OSError as error:
            self._give_up(error)
        self._tell({'event': 'progress', 'seconds': self._seconds,
                    'counts': self._writer.counts})

    def _give_up(self, error: OSError) -> None:
        writer, self._writer = self._writer, None
        writer.abandon()
        raise _full(writer, error) from error

    def _look_for_topics(self) -> None:
        found = [(topic, offer) for topic in self._topics for offer in self._new_offers(topic)]
        # Latched first: else some images (2 to 8 of a camera of 200 Hz, instead of 0 or 1) come
        # before the instruction that holds, and can't be replayed.
        for topic, offer in sorted(found, key=lambda pair: not pair[1].latched):
            if not topic.kind:  # it was refused
                continue
            try:
                self._subscribe(topic, offer)
            except Exception as error:  # noqa: BLE001 - one topic doesn't end the others
                topic.refuse(f'{topic.kind}: {error}')
        for topic in self._topics:
            while topic.notes:
                self._tell({'event': 'note', 'message': one_line(topic.notes.pop(0))})

    def _new_offers(self, topic: RecordedTopic) -> list[Offer]:
        """Return the offers that need a subscription from now on; announce the topic if new."""
        # A topic without publishers may exist all the same: its subscribers wait, as we do.
        publishers = [_publisher(info) for info in self.get_publishers_info_by_topic(topic.name)]
        offers = topic.look(publishers)
        if offers and topic.name not in self._writer.counts:
            self._writer.add_topic(topic.name, topic.kind, [
                offered_qos(reliable=p.offer.reliable, latched=p.offer.latched, depth=p.depth)
                for p in publishers if p.kind == topic.kind])
            self._tell({'event': 'topic', 'name': topic.name, 'type': topic.kind})
        return offers

    def _subscribe(self, topic: RecordedTopic, offer: Offer) -> None:
        def note(data: bytes, info: dict[str, Any]) -> None:
            if topic.is_new(info.get('source_timestamp', 0),
                            info.get('publication_sequence_number') or 0):
                self._came.put((topic.name, time.time_ns(), data))

        self.create_subscription(_message_class(topic.kind), topic.name, note, _asking(offer),
                                 raw=True)

    def _problem_of(self, kind: str) -> str:
        """Return why messages of a type can't be recorded."""
        try:
            _message_class(kind)
            self._writer.types.description(kind)
        except Exception as error:  # noqa: BLE001 - whatever a package raises when it is imported
            return str(error)
        return ''

    def _tell(self, event: dict[str, Any]) -> None:
        try:
            self._emit(event)
        except BrokenPipeError:  # who started this is gone: complete the bag
            self._stop.set()


def _publisher(info: Any) -> Publisher:
    profile = info.qos_profile
    return Publisher(info.topic_type, Offer(
        reliable=profile.reliability == ReliabilityPolicy.RELIABLE,
        latched=profile.durability == DurabilityPolicy.TRANSIENT_LOCAL), profile.depth)


def _asking(offer: Offer) -> QoSProfile:
    """Return what asks for exactly that."""
    return QoSProfile(
        depth=_DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if offer.reliable
        else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if offer.latched
        else DurabilityPolicy.VOLATILE)


def _message_class(kind: str) -> type:
    """
    Return the class of `package/msg/Name`.

    :raises SpecVLAError: it isn't installed, or is no message
    """
    package, _, name = kind.partition('/msg/')
    if not name:
        raise SpecVLAError(f'{kind} is no message type, must be like std_msgs/msg/String')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), name)
    except (ImportError, AttributeError) as error:
        raise SpecVLAError(f'the message type {kind} is not installed here: {error}') from error


def _full(writer: BagWriter, error: OSError) -> RuntimeError:
    return RuntimeError(f'cannot write {writer.part}: {error.strerror or error}; what was written '
                        'until then is there and can be replayed')


def main(arguments: list[str] | None = None) -> int:
    """Record what a file describes, with the events on stdout."""
    parser = argparse.ArgumentParser(prog=f'python -m specvla_ros.nodes.{NAME}',
                                     description='Record topics into a rosbag2 folder.')
    parser.add_argument('--spec', type=Path, required=True, help='JSON file, see the module')
    options = parser.parse_args(arguments)
    emit = events_on_stdout()
    try:
        spec = RecordSpec.read(options.spec)
    except (ValueError, OSError, KeyError) as error:
        emit(error_event(SpecVLAError(f'{options.spec}: {error}')))
        return EXIT_BAD_INPUT
    return run(NAME, lambda: BagRecorder(spec, emit), [],
               on_fault=lambda error: emit(error_event(error)))


if __name__ == '__main__':
    sys.exit(main())
