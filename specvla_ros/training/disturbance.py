"""Pushes, twists and noise: what makes a demonstration teach corrections."""

import numpy as np
from numpy.typing import NDArray


class Disturbance:
    """
    Add noise to the executed action: a little always, pushes and twists for a few steps.

    strength: 1 = full, 0 = none.
    """

    def __init__(self, random: np.random.Generator, strength: float) -> None:
        self._random, self._strength = random, strength
        self._left, self._push = 0, np.zeros(6)
        self._fingers_left = 0
        # Half of the episodes start elsewhere: a long push away from the usual first pose.
        if strength and random.random() < 0.5:
            self._left = int(random.integers(5, 16))
            self._push = np.concatenate([random.normal(size=3) * 1.2, random.normal(size=3) * 0.1])

    def __call__(self, action: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the action [7] of a step as it is carried out, in [-1, 1]; 1 = open fingers."""
        random, executed = self._random, action.copy()
        # Long, strong and frequent pushes: where the arm is must not follow from how far the task
        # has come, or a policy learns the usual path by heart instead of looking.
        if self._left == 0 and random.random() < 0.07:
            self._left = int(random.integers(3, 13))
            twist = random.normal(size=3) * (0.25 if random.random() < 0.2 else 0.0)
            self._push = np.concatenate([random.normal(size=3) * 1.4, twist])
        if self._left:
            executed[:6] += self._strength * self._push
            self._left -= 1
        # Open fingers close at times: a policy that did so in mid-air must know how to go on.
        if self._fingers_left == 0 and self._strength and random.random() < 0.02:
            self._fingers_left = int(random.integers(3, 13))
        if self._fingers_left:
            executed[6] = 0.0
            self._fingers_left -= 1
        executed[:3] += self._strength * 0.1 * random.normal(size=3)
        executed[:6] = np.clip(executed[:6], -1, 1)
        return executed
