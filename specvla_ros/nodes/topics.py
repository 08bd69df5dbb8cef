"""Publishers, subscriptions and timers that come and go together."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import qos_policy_name_from_kind, QoSProfile, ReliabilityPolicy

from specvla_ros.nodes import qos
from specvla_ros.nodes.alarm import Alarm
from specvla_ros.nodes.graph_watch import GraphWatch

_PATIENCE = Duration(seconds=0.2)  # for a subscriber that doesn't answer
_UNKNOWN_NUMBERS = (None, 2**64 - 1)  # what rmw says where it doesn't count


@dataclass(frozen=True, slots=True)
class Origin:
    """
    The publisher and the times of a message, as far as rclpy says.

    stamp: when it was written, ns, by its publisher's clock, 0 where that is unknown; copies of a
    message have the same. number: counts what its publisher wrote, from 1; 0: unknown. is_kept:
    it may have been written long ago, and kept for those who join late.
    """

    stamp: int
    number: int
    is_kept: bool

    @classmethod
    def of(cls, info: Mapping[str, Any], is_kept: bool) -> 'Origin':
        number = info['publication_sequence_number']
        return cls(info['source_timestamp'], 0 if number in _UNKNOWN_NUMBERS else number, is_kept)


class Topics:
    """
    Makes a node's publishers, subscriptions and timers, and destroys them all at once.

    Ends that can't meet because of their quality of service are an error in the log, with the way
    out: silence is the most often asked question about cameras.

    :param group: of the callbacks; None: the node's default group
    :param watch: is told which topics the node must hear, or be alone on
    """

    def __init__(self, node: Node, group: CallbackGroup | None = None,
                 watch: GraphWatch | None = None) -> None:
        self._node, self._group, self._watch = node, group, watch
        self._destroy: list[Callable[[], Any]] = []

    def publisher(self, kind: type, topic: str, profile: QoSProfile) -> Publisher:
        """Publish messages of a kind."""
        events = PublisherEventCallbacks(incompatible_qos=self._tell(
            topic, 'a subscriber asks for more than is offered and gets nothing',
            'subscribe with durability volatile, deadline and liveliness at their defaults'))
        publisher = self._node.create_publisher(kind, topic, profile, event_callbacks=events)
        self._destroy.append(lambda: self._node.destroy_publisher(publisher))
        if profile.reliability == ReliabilityPolicy.RELIABLE:
            self._destroy.append(lambda: publisher.wait_for_all_acked(_PATIENCE))
        return publisher

    def subscribe(self, kind: type, topic: str, callback: Callable[[Any], None],
                  profile: QoSProfile, way_out: str | None) -> None:
        """
        Hear messages of a kind.

        :param way_out: what to do if a publisher offers less than `profile` asks for; None: the
            caller sees to that, nothing is said
        """
        self._subscribe(kind, topic, callback, profile, (lambda _: None) if way_out is None else (
            self._tell(topic, 'a publisher offers less than is asked for and is not heard',
                       way_out)))

    def subscribe_to_all(self, kind: type, topic: str, callback: Callable[[Any, Origin], None],
                         is_latched: bool = False) -> None:
        """
        Hear every publisher of messages of a kind, whatever quality of service it offers.

        A reliable subscription loses nothing, but doesn't hear publishers that are best effort;
        another one does; and the latched one gets what was said before this node came up. So a
        message is heard up to three times, each time with the same `Origin.stamp`: see `once`.
        No error is logged if one of them can't hear a publisher. A publisher of another type can't
        be heard at all: `GraphWatch` objects to it. Earlier messages of a best effort publisher
        are lost: DDS keeps nothing for such pairs.
        """
        self.must_hear(kind, topic)
        for profile in (qos.COMMAND, qos.COMMAND_BEST_EFFORT,
                        *([qos.COMMAND_LATCHED] if is_latched else [])):
            self._subscribe(kind, topic, _with_origin(callback, profile is qos.COMMAND_LATCHED),
                            profile, lambda _: None)

    def must_hear(self, kind: type, topic: str) -> None:
        """Object to acting while a topic has publishers of another type: see `GraphWatch`."""
        if self._watch is not None:
            self._destroy.append(
                self._watch.must_hear(self._node.resolve_topic_name(topic), kind))

    def must_be_alone(self, topic: str) -> None:
        """Object to acting while others publish on a topic as well: see `GraphWatch`."""
        if self._watch is not None:
            self._destroy.append(
                self._watch.must_be_alone(self._node.resolve_topic_name(topic)))

    def every(self, period: float, callback: Callable[[], None]) -> None:
        """Call back once every `period` seconds of real time; the ROS clock has no influence."""
        timer = self._node.create_timer(
            period, callback, callback_group=self._group,
            clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._destroy.append(lambda: self._node.destroy_timer(timer))

    def sibling(self) -> 'Topics':
        """Return an empty one for the same node and callbacks, with an end of its own."""
        return Topics(self._node, self._group)

    def alarm(self, callback: Callable[[], None]) -> Alarm:
        """Call back once, each time the alarm is set."""
        alarm = Alarm(self._node, self._group, callback)
        self._destroy.append(alarm.destroy)
        return alarm

    def add(self, end: Any) -> None:
        """Take over something else to `destroy`."""
        self._destroy.append(end.destroy)

    def destroy(self) -> None:
        """Destroy everything that was made; the last words said on a topic are still heard."""
        while self._destroy:
            self._destroy.pop()()

    def _subscribe(self, kind: type, topic: str, callback: Callable[[Any], None],
                   profile: QoSProfile, on_incompatible: Callable[[Any], None]) -> None:
        events = SubscriptionEventCallbacks(incompatible_qos=on_incompatible)
        subscription = self._node.create_subscription(
            kind, topic, callback, profile, callback_group=self._group, event_callbacks=events)
        self._destroy.append(lambda: self._node.destroy_subscription(subscription))

    def _tell(self, topic: str, what: str, way_out: str) -> Callable[[Any], None]:
        def tell(event: Any) -> None:
            self._node.get_logger().error(
                f'{self._node.resolve_topic_name(topic)}: {what} '
                f'({qos_policy_name_from_kind(event.last_policy_kind).lower()}); {way_out}')
        return tell


def once(callback: Callable[[Any], None]) -> Callable[[Any, Origin], None]:
    """Call back once for all copies of a message."""
    stamps: deque[int] = deque(maxlen=64)

    def hear(message: Any, origin: Origin) -> None:
        if not origin.stamp or origin.stamp not in stamps:
            stamps.append(origin.stamp)
            callback(message)
    return hear


def _with_origin(callback: Callable[[Any, Origin], None],
                 is_kept: bool) -> Callable[[Any, Mapping[str, Any]], None]:
    return lambda message, info: callback(message, Origin.of(info, is_kept))
