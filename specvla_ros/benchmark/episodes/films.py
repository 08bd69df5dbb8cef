"""Read an episode that the demo session wrote, as a record and as a film."""

from dataclasses import dataclass
import json
from pathlib import Path

import numpy as np

from specvla_ros.benchmark.deviation import BIN_WIDTH
from specvla_ros.benchmark.episodes.overlay import EpisodeFilm
from specvla_ros.benchmark.records import ActionRecord, EpisodeRecord, rounded_risk
from specvla_ros.errors import SpecVLAError


@dataclass(frozen=True, slots=True)
class PlayedEpisode:
    """An episode of the demo: its figures, its pictures and what the robot was told."""

    record: EpisodeRecord
    film: EpisodeFilm
    instruction: str


def read_episode(path: Path, decoder: str, method: str) -> PlayedEpisode:
    """
    Read one episode's npz; its format stands at the top of `nodes/sessions/demo.py`.

    :param decoder: the column's name; :param method: what stands behind it
    :raises SpecVLAError: the file is damaged or of another format
    """
    try:
        # The frames are bytes of different lengths, an object array: the file is our own.
        with np.load(path, allow_pickle=True) as content:
            return _episode(content, decoder, method)
    except (KeyError, ValueError, OSError, EOFError) as error:
        raise SpecVLAError(f'{path} is not an episode of the demo session: {error!r}') from error


def _episode(content: np.lib.npyio.NpzFile, decoder: str, method: str) -> PlayedEpisode:
    sources = json.loads(str(content['sources']))
    lengths = json.loads(str(content['acceptance_lengths']))
    stages = json.loads(str(content['stage_ms']))
    steps = _steps(content, sources)
    actions = tuple(
        ActionRecord(
            tokens=tuple(map(int, content['tokens'][step])),
            target_passes=int(content['target_passes'][step]),
            drafted=int(content['drafted'][step]), accepted=int(content['accepted'][step]),
            acceptance_lengths=tuple(lengths[step]), sources=tuple(sources[step]),
            stage_ms=stages[step], ros_ms=float(content['ros_overhead_ms'][step]),
            risk=rounded_risk(content['risk'][step]) if 'risk' in content else None,
            steps=steps[step],
            forbidden=_count(content, 'forbidden', step),
            unverified=_count(content, 'unverified', step))
        for step in range(len(content['tokens'])))
    success, crashed = bool(content['success']), bool(content['crashed'])
    crash = (str(content['message']) or 'crashed') if crashed else None
    record = EpisodeRecord(
        suite=str(content['suite']), task=int(content['task']), state=int(content['state']),
        decoder=decoder, success=success, steps=sum(1 if it is None else it for it in steps),
        crash=crash, actions=actions)
    film = EpisodeFilm(
        decoder=decoder, method=method, frames=list(content['frames']),
        bins=np.rint((content['normalized'] + 1) / BIN_WIDTH - 0.5).astype(int).tolist(),
        actions=actions, success=success, crash=crash, max_steps=int(content['max_steps']))
    return PlayedEpisode(record, film, str(content['instruction']))


def _steps(content: np.lib.npyio.NpzFile, sources: list[list[str]]) -> list[int | None]:
    """Return the control steps of each action that were executed; None where it is one step."""
    if 'steps' not in content:
        return [None] * len(sources)
    size = content['action_si'].shape[1]
    return [int(content['steps'][number]) if len(said) > size else None
            for number, said in enumerate(sources)]


def _count(content: np.lib.npyio.NpzFile, name: str, step: int) -> int:
    """Return a count of a step; 0 in files that were written before there was one."""
    return int(content[name][step]) if name in content else 0
