"""
A bag's frames and instructions on topics, as a camera and a user would send them.

In lockstep the next frame is sent when the one before it has been answered, so that none is
missed; at a rate they are sent when their time has come, whatever the policy does.

Images are stamped with the time of publishing: a policy has reason to refuse older ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
import threading
import time

from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import String

from specvla_ros.bags.frames import Frame
from specvla_ros.msg import ActionDelta
from specvla_ros.nodes import qos
from specvla_ros.nodes.conversions import fill_image, to_nanoseconds

_RESEND_AFTER = 2.0  # s, then twice as long, and so on: a camera's image may get lost
_POLL = 0.2  # s between two looks whether to go on waiting


@dataclass(frozen=True, slots=True)
class Sent:
    """A frame that was published; stamps (ns): of the message and of its copies."""

    frame: Frame
    stamps: frozenset[int]


class BagPlayer:
    """
    Publishes `image` and `instruction`, subscribes `action`.

    :param rate: times the speed of the recording; 0: lockstep
    :param timeout: lockstep: the longest an answer may take, s
    """

    def __init__(self, node: Node, rate: float, timeout: float) -> None:
        self._node, self._rate, self._timeout = node, rate, timeout
        self._answered = threading.Condition()
        self._answers: set[int] = set()
        self._instruction: str | None = None
        self._images = node.create_publisher(Image, 'image', qos.CAMERA_PUBLISHER)
        self._instructions = node.create_publisher(String, 'instruction', qos.LATCHED)
        node.create_subscription(ActionDelta, 'action', self._on_action, qos.STREAM)

    @property
    def has_policy(self) -> bool:
        """Whether a node subscribes to the images and one publishes actions."""
        action = self._node.resolve_topic_name('action')
        return bool(self._images.get_subscription_count() and self._node.count_publishers(action))

    def play(self, frames: Iterable[Frame]) -> Iterator[Sent]:
        """
        Publish every frame, and yield it once it is published and, in lockstep, answered.

        :raises RuntimeError: lockstep: no answer came in time
        """
        begin = None
        for frame in frames:
            if self._rate:
                begin = begin or (time.monotonic(), frame.received)
                due = begin[0] + (frame.received - begin[1]) * 1e-9 / self._rate
                time.sleep(max(0.0, due - time.monotonic()))
            if frame.instruction != self._instruction:
                self._instruct(frame.instruction)
            yield Sent(frame, frozenset({self._publish(frame)}) if self._rate
                       else self._ask(frame))

    def _ask(self, frame: Frame) -> frozenset[int]:
        """Publish a frame, again and again, until it is answered; return the stamps it had."""
        begun, patience = time.monotonic(), _RESEND_AFTER
        stamps = {self._publish(frame)}
        resend = begun + patience
        with self._answered:
            while not self._answers & stamps:
                now = time.monotonic()
                if now > begun + self._timeout:
                    raise RuntimeError(f'no action answered frame {frame.number} within '
                                       f'{self._timeout:g} s (action_timeout)')
                if now > resend:
                    patience *= 2
                    resend = now + patience
                    stamps.add(self._publish(frame))
                self._answered.wait(_POLL)
            self._answers.clear()
        return frozenset(stamps)

    def _publish(self, frame: Frame) -> int:
        message = Image()
        fill_image(message, frame.image)
        message.header.frame_id = 'camera'
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._images.publish(message)
        return to_nanoseconds(message.header.stamp)

    def _instruct(self, instruction: str) -> None:
        """Publish the instruction, and give it time to arrive before the first image."""
        self._instruction = instruction
        self._instructions.publish(String(data=instruction))
        self._instructions.wait_for_all_acked(Duration(seconds=1))

    def _on_action(self, message: ActionDelta) -> None:
        with self._answered:
            self._answers.add(to_nanoseconds(message.image_stamp))
            self._answered.notify()
