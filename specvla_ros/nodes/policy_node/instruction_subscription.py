"""The instruction that holds, from the topic or a goal, also while the node does not act."""

from collections.abc import Callable
import time
from typing import Protocol

from rclpy.node import Node
from std_msgs.msg import String

from specvla_ros.nodes.policy_node.instruction_arbiter import (
    HeardText,
    InstructionArbiter,
    Novelty,
    PAUSE,
)
from specvla_ros.nodes.policy_node.listening import Listening, PERIOD
from specvla_ros.nodes.topics import Origin, Topics

_LOG_PERIOD = 5.0
_LOG_LENGTH = 100  # characters of an instruction


class Follower(Protocol):
    """Acts on instructions."""

    def follow(self, instruction: str) -> None:
        """Act on an instruction from now on; '' is none."""

    def withdraw(self) -> None:
        """Act on none; when this returns, nothing more is published for the one before."""


class InstructionSubscription:
    """
    Subscribes `instruction`, and passes on the text that holds; see `InstructionArbiter`.

    It lives as long as its node. So what was said last holds when the node is activated, and a
    latched text isn't heard a second time.

    :param on_replaced: called in a callback when a text on the topic took the place of what held
    """

    def __init__(self, node: Node, topics: Topics, on_replaced: Callable[[], None]) -> None:
        self._node, self._logger = node, node.get_logger()
        self._on_replaced = on_replaced
        self._topic = node.resolve_topic_name('instruction')
        self._arbiter, self._listening = InstructionArbiter(), Listening()
        self._ignored: str | None = None
        self._follower: Follower | None = None
        self._was_told = False
        topics.subscribe_to_all(String, 'instruction', self._hear, is_latched=True)
        topics.every(PERIOD, self._listening.note)

    def set_follower(self, follower: Follower | None) -> None:
        """Have what holds, now and later, followed; None: the node isn't active."""
        self._follower = follower
        if follower is not None and self._was_told:
            follower.follow(self._arbiter.text)

    def follow(self, instruction: str) -> None:
        """Let a goal's instruction hold from now on."""
        self._arbiter.say(instruction, time.time_ns())
        self._was_told, self._ignored = True, None
        if self._follower is not None:
            self._follower.follow(instruction)

    def withdraw(self) -> None:
        """Let none hold, until a new one comes."""
        self._arbiter.say('', time.time_ns())
        self._was_told, self._ignored = True, None
        if self._follower is not None:
            self._follower.withdraw()

    def _hear(self, message: String, origin: Origin) -> None:
        text = message.data.strip()
        speakers = frozenset(bytes(end.endpoint_gid) for end in
                             self._node.get_publishers_info_by_topic(self._topic))
        novelty = self._arbiter.hear(
            HeardText(text, origin.stamp, origin.is_kept, origin.number, speakers),
            self._listening.note())
        if not text and novelty is not Novelty.OUTDATED:
            self._logger.warning('the instruction is empty: no action until another comes',
                                 throttle_duration_sec=_LOG_PERIOD)
        if novelty is Novelty.NEW:
            self._was_told, self._ignored = True, None
            if self._follower is not None:
                self._follower.follow(text)
            self._on_replaced()
        elif novelty is Novelty.REPEATED:
            self._ignore(text, (
                'it was said before what holds now, and is only repeated. Say another text, say '
                f'it again after a pause of {PAUSE:g} s, or send a goal'))
        elif novelty is Novelty.OUTDATED:
            self._ignore(text, (
                "by its publisher's clock it was written before what holds now. Say it again"))

    def _ignore(self, text: str, why: str) -> None:
        """Say once why a text isn't followed."""
        if self._ignored != text:
            self._ignored = text
            self._logger.warning(f'{self._topic}: {text[:_LOG_LENGTH]!r} is not followed: {why}')
