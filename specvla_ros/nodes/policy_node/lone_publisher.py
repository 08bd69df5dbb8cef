"""Sees whether a topic has more than the one publisher it should have."""

from rclpy.node import Node

from specvla_ros.nodes.graph_watch import full_names, UNKNOWN_NODE
from specvla_ros.nodes.topics import Topics

_PERIOD = 1.0  # s between two looks


class LonePublisher:
    """
    Warns of a topic with several publishers, and names their nodes.

    Which of them sent a message can't be known in rclpy, so all are heard: two cameras on one
    topic, or a bag that plays while the camera runs, look like one camera that jumps.

    :param topics: what the looking ends with
    :param topic: its full name
    """

    def __init__(self, node: Node, topics: Topics, topic: str) -> None:
        self._node, self._topic = node, topic
        self._names: list[str] = []
        self._seen: list[str] = []
        topics.every(_PERIOD, self._look)

    @property
    def fault(self) -> str:
        """Who publishes, if several do; '' where nothing is wrong."""
        if len(self._names) < 2:
            return ''
        return f'{len(self._names)} publishers on {self._topic}: {", ".join(self._names)}'

    def _look(self) -> None:
        names = full_names(self._node.get_publishers_info_by_topic(self._topic))
        seen, self._seen = self._seen, names
        if names == self._names or (UNKNOWN_NODE in names and names != seen):
            return  # the next look may know who it is
        self._names = names
        if self.fault:
            self._node.get_logger().error(
                f'{self.fault}. Each image is acted on as it comes, from every sender: stop all '
                'but one, or remap it')
