"""Which episodes are held out: measured with, never trained on."""

from collections.abc import Iterable
from typing import Protocol, TypeVar
import zlib


class Named(Protocol):
    """An episode, or what was made of one; `name` is `task<id>/seed<seed>`."""

    @property
    def name(self) -> str: ...


Item = TypeVar('Item', bound=Named)


def is_held_out(name: str, share: float) -> bool:
    """Whether an episode is for measuring: its name decides, for target and drafters alike."""
    return zlib.crc32(name.encode()) % 1000 < 1000 * share


def divide(episodes: Iterable[Item], share: float) -> tuple[list[Item], list[Item]]:
    """Part episodes into those to train on and those held out, about a share of them."""
    parts: tuple[list[Item], list[Item]] = ([], [])
    for episode in episodes:
        parts[is_held_out(episode.name, share)].append(episode)
    return parts
