"""Watches a node's topics for reasons not to act: a second master, and unheard publishers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.topic_endpoint_info import TopicEndpointInfo

UNKNOWN_NODE = '(unknown node)'
_UNKNOWN = '_NODE_NAME_UNKNOWN_'  # what rmw says
_PERIOD = 0.2  # s between two looks; a look at a topic takes 0.03 ms


def type_name(kind: type) -> str:
    """Return the name of a message type as the graph has it: 'std_msgs/msg/Bool'."""
    package, folder = kind.__module__.split('.')[:2]
    return f'{package}/{folder}/{kind.__name__}'


def full_names(ends: Iterable[TopicEndpointInfo]) -> list[str]:
    """
    Return the nodes of ends, sorted; a node with two of them comes twice.

    An end is seen some ms before its node is known, and some ms after that was told that it goes;
    the node of one that is not of ROS is never known. Such a node is `UNKNOWN_NODE`.
    """
    return sorted(UNKNOWN_NODE if end.node_name == _UNKNOWN else
                  f'{end.node_namespace.rstrip("/")}/{end.node_name}' for end in ends)


@dataclass(frozen=True, slots=True, eq=False)
class _Rule:
    topic: str  # its full name
    find: Callable[[list[TopicEndpointInfo]], str]


class GraphWatch:
    """
    Says why a node must not act, as far as other nodes' publishers are the reason.

    Topics are told apart by their full names: nodes in two namespaces share nothing.

    :param group: of the callbacks: one that never waits for something slow
    :param on_change: called in a callback when `objection` has changed
    """

    def __init__(self, node: Node, group: CallbackGroup, on_change: Callable[[], None]) -> None:
        self._node, self._on_change = node, on_change
        self._rules: list[_Rule] = []
        self.objection = self._seen = ''
        node.create_timer(_PERIOD, self.look, callback_group=group,
                          clock=Clock(clock_type=ClockType.STEADY_TIME))

    def must_be_alone(self, topic: str) -> Callable[[], None]:
        """Object while the node isn't the only publisher of a topic; return what ends that."""
        def find(publishers: list[TopicEndpointInfo]) -> str:
            if len(publishers) < 2:
                return ''
            return (f'{len(publishers)} publishers on {topic}: '
                    f'{", ".join(full_names(publishers))}; an arm has one master: stop all but '
                    'one, or remap it')
        return self._add(_Rule(topic, find))

    def must_hear(self, topic: str, kind: type) -> Callable[[], None]:
        """Object while a topic has a publisher of another type; return what ends that."""
        def find(publishers: list[TopicEndpointInfo]) -> str:
            others = [end for end in publishers if end.topic_type != type_name(kind)]
            if not others:
                return ''
            return (f'{topic} has publishers that cannot be heard: '
                    f'{", ".join(full_names(others))} with '
                    f'{", ".join(sorted({end.topic_type for end in others}))}, expected is '
                    f'{type_name(kind)}; publish that, or remap them')
        return self._add(_Rule(topic, find))

    def look(self) -> None:
        """Look at the graph as it is now."""
        found = [rule.find(self._node.get_publishers_info_by_topic(rule.topic))
                 for rule in self._rules]
        objection = next(filter(None, found), '')
        seen, self._seen = self._seen, objection
        if objection == self.objection:
            return
        if self.objection and UNKNOWN_NODE in objection and objection != seen:
            return  # the next look may know who it is; acting is not allowed meanwhile
        before, self.objection = self.objection, objection
        if objection:
            self._node.get_logger().error(f'no action: {objection}')
        else:
            self._node.get_logger().warning(f'acting is allowed again, it is over that {before}')
        self._on_change()

    def _add(self, rule: _Rule) -> Callable[[], None]:
        self._rules.append(rule)
        return lambda: self._rules.remove(rule)
