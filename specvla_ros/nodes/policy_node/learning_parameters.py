"""The parameters of `policy_node` that say whether its drafter learns while it runs, and how."""

from dataclasses import dataclass
from pathlib import Path

from specvla_ros.learning.settings import IdleSettings, LearnerSettings, OnlineSettings
from specvla_ros.nodes.parameters import Parameter

LEARNING_PARAMETERS = (
    Parameter('adapt', False, 'true: while nothing else is to be done the drafter glance learns '
              'from what the target says, under a lossless decoder (auto, glance), and a new head '
              'is used once it has proved better; no token changes by it', reloadable=True),
    Parameter('adapt_actions', 2000, 'the last actions that are kept to learn from; each takes 2 '
              'kB with the embedded checkpoint, 12 kB with a 7B', low=100, high=100000,
              reloadable=True),
    Parameter('adapt_window', 200, 'actions on which a new head must prove better, and by which '
              'the one in use is watched; at most adapt_actions', low=20, high=10000,
              reloadable=True),
    Parameter('adapt_threads', 1, 'CPU threads of learning, of the lowest priority', low=1,
              high=64, reloadable=True),
    Parameter('adapt_share', 0.5, 'share of the idle time that learning may use', unit='1',
              low=0.01, high=1.0, reloadable=True),
    Parameter('adapt_out', '', 'folder of drafters that gets the learned head when the node is '
              'cleaned up or ends; empty: it is not kept', reloadable=True),
)


@dataclass(frozen=True, slots=True)
class LearningSettings:
    """These parameters' values."""

    adapt: bool
    adapt_actions: int
    adapt_window: int
    adapt_threads: int
    adapt_share: float
    adapt_out: str

    @property
    def online(self) -> OnlineSettings | None:
        """
        The bounds of learning; None = nothing is to be learned.

        :raises SpecVLAError: values that contradict each other
        """
        if not self.adapt:
            return None
        return OnlineSettings(
            LearnerSettings(self.adapt_actions, self.adapt_window),
            IdleSettings(self.adapt_threads, self.adapt_share),
            Path(self.adapt_out).expanduser() if self.adapt_out else None)
