"""How a policy node fares, once a second on `/diagnostics`."""

from collections import Counter
from collections.abc import Callable, Iterator
import math
import threading
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node

from specvla_ros.nodes import memory, qos
from specvla_ros.nodes.topics import Topics

_PERIOD = 1.0
_MARK = 'acceptance length [tokens/pass]'  # what no other node says of itself
# refused: images and actions for which nothing was published, stale images among them.
COUNTED = ('actions', 'limited', 'refused', 'dropped', 'stale_images', 'deadline_misses')


def of_policies(message: DiagnosticArray) -> Iterator[tuple[str, dict[str, str]]]:
    """State and values of each policy node in a message; other nodes' are ignored."""
    for status in message.status:
        values = {item.key: item.value for item in status.values}
        if _MARK in values:
            yield status.message, values


class Statistics:
    """Counts and measures since the start of the process; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counter(dict.fromkeys(COUNTED, 0))
        self._input_age = math.nan
        self._lengths: list[int] = []

    def count(self, name: str) -> None:
        """Count one of `COUNTED`."""
        with self._lock:
            self._counts[name] += 1

    def note_input_age(self, age: float) -> None:
        """Note how old an image was when work on it began, s."""
        with self._lock:
            self._input_age = age

    def note_lengths(self, lengths: list[int]) -> None:
        """Note the tokens gained by each pass after the prefill of an action."""
        with self._lock:
            self._lengths += lengths

    def read(self) -> tuple[Counter, float, float]:
        """Return counts, last input age (s), and the mean acceptance length since last time."""
        with self._lock:
            lengths, self._lengths = self._lengths, []
            mean = sum(lengths) / len(lengths) if lengths else math.nan
            return Counter(self._counts), self._input_age, mean


class Diagnostics:
    """
    Publishes `/diagnostics`.

    :param describe: gives the node's level and state in a few words
    :param more: gives further values
    """

    def __init__(self, node: Node, group: CallbackGroup, statistics: Statistics,
                 describe: Callable[[], tuple[bytes, str]],
                 more: Callable[[], dict[str, str]] = dict) -> None:
        self._node, self._statistics, self._describe = node, statistics, describe
        self._more = more
        self._actions, self._since = 0, time.monotonic()
        topics = Topics(node, group)
        self._publisher = topics.publisher(DiagnosticArray, '/diagnostics', qos.STREAM)
        topics.every(_PERIOD, self._publish)

    def _publish(self) -> None:
        level, state = self._describe()
        status = DiagnosticStatus(
            level=level, name=f'{self._node.get_fully_qualified_name()}: acting', message=state,
            hardware_id='', values=[KeyValue(key=key, value=value)
                                    for key, value in self._values().items()])
        message = DiagnosticArray(status=[status])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def _values(self) -> dict[str, str]:
        counts, input_age, acceptance_length = self._statistics.read()
        now = time.monotonic()
        rate = (counts['actions'] - self._actions) / (now - self._since)
        self._actions, self._since = counts['actions'], now
        return {
            'rate [1/s]': f'{rate:.2f}',
            'input age [s]': f'{input_age:.3f}',
            _MARK: f'{acceptance_length:.2f}',
            'memory [MB]': f'{memory.resident_mb():.0f}',
            'GPU memory [MB]': f'{memory.gpu_mb():.0f}',
            **{name.replace('_', ' '): str(counts[name]) for name in COUNTED},
            **self._more(),
        }
