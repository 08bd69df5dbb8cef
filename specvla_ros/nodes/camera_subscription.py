"""A subscription to a camera that asks for the reliability the camera offers."""

from collections.abc import Callable, Iterable
import functools
from typing import Any

from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy

from specvla_ros.nodes import qos
from specvla_ros.nodes.topics import Topics

AUTO = 'auto'
_PERIOD = 0.5  # s between two looks at what the camera offers
_BEST_EFFORT, _RELIABLE = 'best_effort', 'reliable'


class CameraSubscription:
    """
    Hears a camera, reliably where it can be heard reliably.

    Best effort hears every camera, but Fast DDS drops most frames from 640 x 480 upwards: such a
    frame takes more than the buffers hold, and nothing is sent again. Reliable loses none of them,
    but doesn't hear a camera that offers best effort. So `auto` asks for what all publishers of
    the topic offer, and looks again all the time: a camera may come late, or come back with
    another offer. No frame is lost or heard twice meanwhile: the new subscription takes over with
    the first frame it hears.

    :param topics: what the subscription ends with
    :param kind: type of its messages
    :param topic: its full name
    :param reliability: auto, best_effort or reliable
    """

    def __init__(self, node: Node, topics: Topics, kind: type, topic: str,
                 callback: Callable[[Any], None], reliability: str) -> None:
        self._node, self._topics, self._kind, self._topic = node, topics, kind, topic
        self._callback = callback
        self._way_out = f'set the parameter camera_reliability of this node to {AUTO}'
        self._reliability = self._told = ''  # asked for at present; told in the log
        self._ends: Topics | None = None
        self._before: Topics | None = None  # until `_ends` has heard its first frame
        self._last: Any = None  # what `_before` heard last
        topics.add(self)
        if reliability != AUTO:
            self._listen(reliability)
            return
        self._way_out = 'it is heard in a moment, with best effort'
        self._look()
        topics.every(_PERIOD, self._look)

    def destroy(self) -> None:
        """Hear nothing any more."""
        for ends in (self._before, self._ends):
            if ends is not None:
                ends.destroy()
        self._before = self._ends = self._last = None

    def _look(self) -> None:
        kind = f'{self._kind.__module__.partition(".")[0]}/msg/{self._kind.__name__}'
        offers = [publisher.qos_profile.reliability
                  for publisher in self._node.get_publishers_info_by_topic(self._topic)
                  if publisher.topic_type == kind]
        wanted = choose(offers)
        if wanted != self._reliability:
            self._listen(wanted)
        if offers and wanted != self._told:
            self._told = wanted
            self._node.get_logger().info(
                f'{self._topic}: listening with reliability {wanted}, as the camera offers')

    def _listen(self, reliability: str) -> None:
        """Subscribe; what was subscribed before stays until the new one hears something."""
        if self._before is not None:
            self._before.destroy()
        self._reliability = reliability
        self._before, self._ends = self._ends, self._topics.sibling()
        self._ends.subscribe(
            self._kind, self._topic, functools.partial(self._hear, self._ends),
            qos.camera_subscriber(reliability), self._way_out)

    def _hear(self, ends: Topics, message: Any) -> None:
        if self._before is None:
            self._callback(message)
        elif ends is self._before:
            self._last = message
            self._callback(message)
        elif ends is self._ends:
            self._before.destroy()
            last, self._before, self._last = self._last, None, None
            if message != last:
                self._callback(message)


def choose(offers: Iterable[ReliabilityPolicy]) -> str:
    """Return reliable where all publishers offer it and there is one, else best_effort."""
    kinds = set(offers)
    return _RELIABLE if kinds == {ReliabilityPolicy.RELIABLE} else _BEST_EFFORT
