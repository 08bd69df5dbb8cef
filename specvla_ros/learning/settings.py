"""The bounds of learning while running: memory, CPU, and how sure a new head must be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from specvla_ros.errors import SpecVLAError

STRETCHES = 10  # of a window: an action is like its neighbours, so means of stretches are compared


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """
    Bounds of what is learned from.

    actions: kept at most. window: actions that a new head is tried on, and the one in use is
    watched by. seed: of the order and of dropout.
    """

    actions: int = 2000
    window: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.window < STRETCHES or self.actions < self.window:
            raise SpecVLAError(
                f'a window of {self.window} actions, of {self.actions} that are kept: must be at '
                f'least {STRETCHES}, and at most as many as are kept')


@dataclass(frozen=True, slots=True)
class IdleSettings:
    """threads: of the CPU, for a step. share: of the idle time that may be used, above 0 to 1."""

    threads: int = 1
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.threads < 1 or not 0 < self.share <= 1:
            raise SpecVLAError(f'{self.threads} threads and a share of {self.share:g}: must be at '
                               'least 1, and above 0 to 1')


@dataclass(frozen=True, slots=True)
class OnlineSettings:
    """Bounds of learning. out: folder of drafters to write at the end; None = none is written."""

    learner: LearnerSettings = field(default_factory=LearnerSettings)
    idle: IdleSettings = field(default_factory=IdleSettings)
    out: Path | None = None
