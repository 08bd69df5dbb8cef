"""A subscription to a camera that asks for the reliability the camera offers."""

from collections.abc import Callable, Iterable
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
    frame takes more than the buffers hold, and nothing is sent again. Reliable loses few or none,
    but doesn't hear a camera that offers best effort. So `auto` begins with reliable, changes to
    best effort where a publisher of the topic offers no more, and looks again all the time: a
    camera may come late, or come back with another offer.

    The old subscription goes before the new one comes: with both there, a frame that is sent again
    to the new one would come a second time, after later ones.

    :param topics: what the subscription ends with
    :param kind: type of its messages
    :param topic: its full name
    :param reliability: auto, best_effort or reliable
    """

    def __init__(self, node: Node, topics: Topics, kind: type, topic: str,
                 callback: Callable[[Any], None], reliability: str) -> None:
        self._node, self._kind, self._topic = node, kind, topic
        self._callback = callback
        self._ends = topics.sibling()
        self._asked = self._told = ''
        topics.add(self._ends)
        if reliability != AUTO:
            self._listen(reliability, 'set the parameter camera_reliability of this node to auto')
            return
        self._look()
        topics.every(_PERIOD, self._look)

    def _look(self) -> None:
        kind = f'{self._kind.__module__.partition(".")[0]}/msg/{self._kind.__name__}'
        offers = [publisher.qos_profile.reliability
                  for publisher in self._node.get_publishers_info_by_topic(self._topic)
                  if publisher.topic_type == kind]
        wanted = choose(offers)
        if wanted != self._asked:
            self._listen(wanted, None)
        if offers and wanted != self._told:
            self._told = wanted
            self._node.get_logger().info(
                f'{self._topic}: listening with reliability {wanted}, as the camera offers')

    def _listen(self, reliability: str, way_out: str | None) -> None:
        self._asked = reliability
        self._ends.destroy()
        self._ends.subscribe(self._kind, self._topic, self._callback,
                             qos.camera_subscriber(reliability), way_out)


def choose(offers: Iterable[ReliabilityPolicy]) -> str:
    """Return best_effort where a publisher offers no more, else reliable."""
    return _RELIABLE if set(offers) <= {ReliabilityPolicy.RELIABLE} else _BEST_EFFORT
