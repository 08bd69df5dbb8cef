"""The safety envelope around an episode, as the policy node has it in lockstep."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specvla_ros.errors import SpecVLAError
from specvla_ros.safety import fit, step_limits, StepLimits
from specvla_ros.safety_settings import SafetySettings


class EpisodeEnvelope:
    """
    Limits the actions of an episode: in the decoder, and by `safety.fit` behind it.

    :param period_s: how long a control step lasts
    """

    def __init__(self, settings: SafetySettings, period_s: float) -> None:
        self._settings, self._period = settings, period_s
        self._previous: NDArray[np.float64] | None = None  # the arm is at rest

    def limits(self, position: NDArray[np.float64]) -> StepLimits:
        """Return the limits of the next control step; position: of the end effector, m [3]."""
        return step_limits(self._settings, self._period, position_m=position,
                           previous=self._previous)

    def fit(self, delta: NDArray[np.float32], position: NDArray[np.float64]
            ) -> NDArray[np.float32]:
        """
        Return a control step inside the envelope, SI [7]; the arm executes it.

        :raises SpecVLAError: it must not be executed
        """
        safe = fit(delta[None], self._settings, self._period, position_m=position,
                   previous=self._previous)
        if safe.deltas is None:
            raise SpecVLAError(safe.refusal)
        step = safe.deltas[0].astype(np.float32)
        self._previous = step.astype(np.float64)
        return step


def settings_for_json(settings: SafetySettings) -> dict[str, Any]:
    """Return an envelope as reports have it; JSON knows no infinity, so that is the text 'inf'."""
    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(part) for part in value]
        return str(value) if isinstance(value, float) and math.isinf(value) else value

    return {name: plain(value) for name, value in dataclasses.asdict(settings).items()}
