"""The emergency stop of a node: it latches."""

from collections.abc import Callable

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from specvla_ros.nodes.policy_node.stop_elsewhere import StopElsewhere
from specvla_ros.nodes.topics import Origin, Topics


class EmergencyStop:
    """
    `true` on `emergency_stop` stops, and only the service `~/reset_emergency_stop` ends that.

    `false` does nothing: an arm must not go on because a button is let go. A stop from before the
    node came up counts, if it was latched. The node hears publishers of every quality of service.
    It can't hear a publisher of another type, and `GraphWatch` objects to that.

    :param topics: with a group of callbacks that never waits for something slow
    :param group: that group
    :param on_stop: called in a callback when the stop begins; when it returns, all stands still
    :param on_reset: called when the stop ends
    """

    def __init__(self, node: Node, topics: Topics, group: CallbackGroup,
                 on_stop: Callable[[], None], on_reset: Callable[[], None]) -> None:
        self._logger = node.get_logger()
        self._on_stop, self._on_reset = on_stop, on_reset
        self.is_on = False
        topics.subscribe_to_all(Bool, 'emergency_stop', self._hear, is_latched=True)
        StopElsewhere(node, topics)
        node.create_service(
            Trigger, '~/reset_emergency_stop', self._reset, callback_group=group)

    def _hear(self, message: Bool, _: Origin) -> None:
        if not message.data or self.is_on:
            return
        self.is_on = True
        self._on_stop()
        self._logger.error('EMERGENCY STOP: no action any more, until the service '
                           '~/reset_emergency_stop is called')

    def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self.is_on
        response.message = '' if self.is_on else 'there was no emergency stop'
        if self.is_on:
            self.is_on = False
            self._on_reset()
            self._logger.warning('the emergency stop is over')
        return response
