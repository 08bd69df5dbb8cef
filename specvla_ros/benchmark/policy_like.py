"""The part of `policy.Policy` that benchmarks measure; peers have it as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specvla_ros.data_sets import DatasetConfig
from specvla_ros.safety import StepLimits

if TYPE_CHECKING:  # heavy
    from specvla_ros.actions import Action
    from specvla_ros.decoding.trace import DecodeTrace

WARM_UP_ACTIONS = 2


class ActionLike(Protocol):
    """The part of a `policy.Action` that a record needs."""

    @property
    def tokens(self) -> Sequence[int]: ...

    @property
    def normalized(self) -> NDArray[np.floating]: ...

    @property
    def si(self) -> NDArray[np.floating]: ...

    @property
    def trace(self) -> DecodeTrace: ...


class PolicyLike(Protocol):
    """
    The two methods of `policy.Policy` that benchmarks call.

    Only decoders with `DecoderConfig.by_step` are told `firm_steps` as well.
    """

    def act(self, image: NDArray[np.uint8], instruction: str, stamp: float | None = None, /, *,
            executed: int | None = None) -> Action:
        """
        Return the action for uint8 [H, W, 3] RGB, top row first.

        stamp: s. executed: of the last action's steps, how many are of times before; None = all.
        """
        ...

    def reset(self) -> None:
        """Forget the previous episode."""
        ...


class EpisodePolicy(PolicyLike, Protocol):
    """A policy that plays an episode: under an envelope it takes position and limits as well."""

    @property
    def dataset(self) -> DatasetConfig:
        """What the actions mean on a robot."""
        ...

    def act(self, image: NDArray[np.uint8], instruction: str, stamp: float | None = None,
            eef_position: tuple[float, float, float] | None = None,
            limits: StepLimits | None = None, /, *, executed: int | None = None) -> Action:
        """Return the action; eef_position: of the end effector, m; limits: of the next step."""
        ...
