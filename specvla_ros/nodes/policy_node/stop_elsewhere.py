"""Sees a stop button that the node can't hear because it is on a topic in another namespace."""

from rclpy.node import Node
from std_msgs.msg import Bool

from specvla_ros.nodes.graph_watch import type_name
from specvla_ros.nodes.topics import Topics

_PERIOD = 2.0  # s between two looks
_NAME = 'emergency_stop'


class StopElsewhere:
    """
    Warns, once, of a button on `/emergency_stop`, say, where a node listens on another one.

    Not a reason to stand still: it may be the button of another arm. Nothing is said where the
    node's own topic has a publisher.

    :param topics: what the looking ends with
    """

    def __init__(self, node: Node, topics: Topics) -> None:
        self._node, self._topic = node, node.resolve_topic_name(_NAME)
        self._told: list[str] = []
        topics.every(_PERIOD, self._look)

    def _look(self) -> None:
        found = [] if self._node.count_publishers(self._topic) else self._buttons()
        if found and found != self._told:
            self._node.get_logger().warning(
                f'no node publishes on {self._topic}, and {", ".join(found)} is not heard here: '
                f'if that button is to stop this arm as well, remap {_NAME} to it')
        self._told = found

    def _buttons(self) -> list[str]:
        kind = type_name(Bool)
        return sorted(name for name, kinds in self._node.get_topic_names_and_types()
                      if name.rpartition('/')[2] == _NAME and name != self._topic
                      and kind in kinds and self._node.count_publishers(name))
