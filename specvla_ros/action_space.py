"""What the tokens of an action mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TYPE_CHECKING

from specvla_ros.errors import SpecVLAError

if TYPE_CHECKING:
    from specvla_ros.openvla.action_tokenizer import ActionTokenizer


@dataclass(frozen=True, slots=True)
class ActionSpace:
    """
    Says what the L = action_dim · chunk tokens of an action mean, and a bin is worth.

    Token ``position`` (0 … L - 1) is dimension ``position % action_dim`` of step
    ``position // action_dim``; the last dimension is the gripper.

    bin_si: [action_dim] how far one bin moves the robot: m, rad, and of the gripper's way from
        closed (0) to open (1). Empty = not known: it depends on the data set.
    """

    tokenizer: ActionTokenizer
    action_dim: int
    chunk: int = 1
    bin_si: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        sizes = self.action_dim, self.chunk
        if not all(type(size) is int and size >= 1 for size in sizes):
            raise SpecVLAError(
                f'action_dim is {self.action_dim!r} and chunk {self.chunk!r}, both must be at '
                'least 1, whole numbers'
            )
        if self.bin_si and len(self.bin_si) != self.action_dim:
            raise SpecVLAError(
                f'bin_si has {len(self.bin_si)} numbers, must have one for each of the '
                f'{self.action_dim} action dimensions, or none'
            )

    @property
    def length(self) -> int:
        """L: tokens of an action."""
        return self.action_dim * self.chunk

    def is_gripper(self, positions: Any) -> Any:
        """Whether tokens at these positions are the gripper's: elementwise, or of an int."""
        return positions % self.action_dim == self.action_dim - 1

    def groups(self, positions: Any) -> Any:
        """Number of the group that tokens are of: a step's translation, rotation or gripper."""
        step, dimension = positions // self.action_dim, positions % self.action_dim
        return 3 * step + 1 * (dimension >= 3) + 1 * (dimension == self.action_dim - 1)
