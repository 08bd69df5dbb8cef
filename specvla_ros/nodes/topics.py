"""Publishers, subscriptions and timers that come and go together."""

from collections.abc import Callable
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

_PATIENCE = Duration(seconds=0.2)  # for a subscriber that doesn't answer


class Topics:
    """
    Makes a node's publishers, subscriptions and timers, and destroys them all at once.

    Ends that can't meet because of their quality of service are an error in the log, with the way
    out: silence is the most often asked question about cameras.

    :param group: of the callbacks; None: the node's default group
    """

    def __init__(self, node: Node, group: CallbackGroup | None = None) -> None:
        self._node, self._group = node, group
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

    def subscribe_latched(self, kind: type, topic: str, callback: Callable[[Any], None]) -> None:
        """
        Hear what was said before this node came up, and publishers that don't latch.

        Two subscriptions: the latched one gets what was said before, the other one hears those
        that don't latch (`ros2 topic pub`). That the latched one can't is no news to anybody. What
        is said by a publisher that latches is heard twice.
        """
        self._subscribe(kind, topic, callback, qos.LATCHED, lambda _: None)
        self.subscribe(kind, topic, callback, qos.NEWEST, 'publish with reliability reliable')

    def every(self, period: float, callback: Callable[[], None]) -> None:
        """Call back every so many seconds of real time, whatever the ROS clock does."""
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
