"""What figures ask of the simulator: `libero.environment.LiberoEnv`, or one that answers alike."""

from __future__ import annotations

from typing import cast, Protocol, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # of the simulator's package
    from specvla_ros.libero.environment import Observation


class Environment(Protocol):
    """A task of a suite, played one control step at a time."""

    suite: str
    task_id: int
    instruction: str
    max_steps: int

    def reset(self, state_index: int) -> Observation:
        """Return the first observation of a stored initial state."""
        ...

    def reset_random(self, seed: int) -> Observation:
        """Return the first observation of a random placement."""
        ...

    def step(self, action: NDArray[np.float32]) -> Observation:
        """Apply [7] SI values (m, rotation vector in rad, gripper 1 = open)."""
        ...

    def close(self) -> None:
        """Free the simulator."""
        ...


def image_of(observation: Observation) -> NDArray[np.uint8]:
    """Return what the camera saw: only `render=False` leaves it out."""
    return cast('NDArray[np.uint8]', observation.image)  # of None a policy says what it needs
