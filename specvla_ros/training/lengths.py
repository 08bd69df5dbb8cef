"""How long the episodes of a suite are when demonstrations are collected."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lengths:
    """
    Steps of an episode.

    disturbed: pushes come, and a policy drives, before this step; then the expert brings the
    episode to its end. most: longer episodes are stuck and teach nothing.
    """

    disturbed: int
    most: int


# Those of libero_90 are estimates: its expert was not counted yet.
LENGTHS = {
    'libero_spatial': Lengths(110, 240),
    'libero_object': Lengths(110, 220),
    'libero_goal': Lengths(150, 360),
    'libero_10': Lengths(240, 560),
    'libero_90': Lengths(200, 480),
}
