"""Says so when nothing comes on a topic that acting needs, and what is there instead."""

import time

from rclpy.node import Node

from specvla_ros.nodes.graph_watch import full_names, type_name
from specvla_ros.nodes.topics import Topics

PATIENCE = 5.0  # s
_PERIOD = 1.0  # s between two looks
_MOST_HINTS = 3


class Silence:
    """
    Finds out why a topic is silent, and logs it once.

    :param topics: what the looking ends with
    :param what: comes on the topic, in a word
    :param topic: its full name
    """

    def __init__(self, node: Node, topics: Topics, what: str, topic: str, kind: type) -> None:
        self._node, self._what, self._topic, self._kind = node, what, topic, type_name(kind)
        self._since = time.monotonic()
        self._is_over = False
        self.fault = ''
        topics.every(_PERIOD, self._look)

    def note(self) -> None:
        """Note that something came; more is expected."""
        self._since = time.monotonic()
        self.fault = ''

    def end(self) -> None:
        """Note that what was needed has come; nothing more is expected."""
        self._is_over, self.fault = True, ''

    def _look(self) -> None:
        if self._is_over or time.monotonic() - self._since < PATIENCE:
            return
        fault = f'no {self._what} for more than {PATIENCE:g} s: {self._reason()}'
        if fault != self.fault:
            self.fault = fault
            self._node.get_logger().warning(fault)

    def _reason(self) -> str:
        publishers = self._node.get_publishers_info_by_topic(self._topic)
        if not publishers:
            return (f'no node publishes on {self._topic}, expected is {self._kind}'
                    f'{self._elsewhere()}')
        found = ', '.join(sorted({end.topic_type for end in publishers}))
        who = f'{", ".join(full_names(publishers))}: {found} on {self._topic}'
        if self._kind not in (end.topic_type for end in publishers):
            return f'{who}, expected is {self._kind}{self._elsewhere()}'
        return (f'{who} is there, but nothing comes: see whether the publisher runs and what '
                'quality of service it offers')

    def _elsewhere(self) -> str:
        """Name topics of others that have what is expected: most often a remapping is missing."""
        own = self._node.get_fully_qualified_name()  # its target_pose is no current_pose
        names = [name for name, kinds in self._node.get_topic_names_and_types()
                 if self._kind in kinds and name != self._topic
                 and set(full_names(self._node.get_publishers_info_by_topic(name))) - {own}]
        if not names:
            return ''
        return f'; that is on {", ".join(names[:_MOST_HINTS])}: remap {self._topic} to it'
