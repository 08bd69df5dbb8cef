"""
What the deployed decoder made of a trained drafter, on held-out frames: a file beside its state.

`specvla train eagle` writes it, `specvla report` holds several against each other.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from specvla_ros.errors import SpecVLAError
from specvla_ros.files import write_json
from specvla_ros.typed_files import read_json, typed, value_of

FILE = 'verdict.json'


@dataclass(frozen=True, slots=True)
class DecodedEpisode:
    """
    Frames of one episode under one decoder.

    name: `task<id>/seed<seed>`; frames: numbers within it; gained: passes after the prefill that
    gained 0, 1, 2 … tokens, bonus included.
    """

    name: str
    frames: tuple[int, ...]
    gained: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DrafterVerdict:
    """
    A drafter, how it was trained, and what it gains.

    recipe: name of its settings; device: type of that it was decoded on; trained: frames, steps,
    minutes and the like, to show; episodes: by decoder, the same frames for all of them.
    """

    recipe: str
    suite: str
    device: str
    target_sha256: str
    drafter_sha256: str
    trained: dict[str, float]
    episodes: dict[str, tuple[DecodedEpisode, ...]]

    def write(self, folder: Path) -> None:
        """Write it into a training's folder; raises SpecVLAError if the disk is full."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> DrafterVerdict:
        """
        Read it from a training's folder.

        :raises SpecVLAError: there is none, or it is damaged
        """
        path = folder / FILE
        if not path.is_file():
            raise SpecVLAError(
                f'{folder} holds no {FILE}: give the folder ….training beside a drafter that '
                '`specvla train eagle` has finished, with frames to decode')
        content = read_json(path)
        episodes = content.get('episodes')
        if not isinstance(episodes, dict) or not episodes:
            raise SpecVLAError(f'{path}: episodes must be an object, a list for each decoder')
        made = {name: tuple(typed(DecodedEpisode, one, f'{path}: {name}')
                            for one in value_of(tuple[Any, ...], rows, f'{path}: {name}'))
                for name, rows in episodes.items()}
        return typed(cls, content | {'episodes': made}, str(path))
