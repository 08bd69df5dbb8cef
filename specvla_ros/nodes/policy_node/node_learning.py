"""Whether the node's drafter learns at present; from configuration to cleanup."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

from specvla_ros.learning.settings import OnlineSettings

if TYPE_CHECKING:  # they load torch, which may fail for a reason that configuring tells
    from specvla_ros.learning.online import OnlineLearning
    from specvla_ros.policy import Policy


class NodeLearning:
    """
    Holds what learns, if something does.

    current: it; None = nothing learns.

    :param logger: of the node
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self.current: OnlineLearning | None = None

    def begin(self, policy: Policy, bounds: OnlineSettings | None) -> None:
        """
        Let a policy's drafter learn, unless there are no bounds.

        :raises SpecVLAError: nothing may be written where the learned head is to be kept
        """
        if bounds is not None:
            from specvla_ros.learning.online import OnlineLearning
            self.current = OnlineLearning(policy, bounds, self._say)

    def end(self) -> None:
        """Let it end, and keep what was learned if that is asked for."""
        current, self.current = self.current, None
        if current is not None:
            current.end()

    def facts(self) -> dict[str, str]:
        """Return what diagnostics say of it."""
        current = self.current
        return {} if current is None else current.facts()

    def _say(self, line: str) -> None:
        self._logger.info(line)
