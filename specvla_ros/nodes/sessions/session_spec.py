"""What a demo session plays, read from JSON; no ROS in it. The format: see `demo_session`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from specvla_ros.configuration import DecoderConfig, load_preset
from specvla_ros.errors import shown, SpecVLAError
from specvla_ros.libero import suites
from specvla_ros.nodes.play_list import EpisodeStart
from specvla_ros.policy_source import PolicySource
from specvla_ros.typed_files import naming, read_json, typed, value_of


@dataclass(frozen=True, slots=True)
class Round:
    """
    One episode under one decoder; index counts the rounds of a session from 0.

    decoder: as it is asked for; config: what that is, under the name that reports carry.
    """

    index: int
    episode: EpisodeStart
    decoder: str
    config: DecoderConfig

    @property
    def file_name(self) -> str:
        """Name of the file that its record is written to."""
        return f'{self.config.file_name}_{self.episode.task}_{self.episode.state}.npz'


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """A session's settings; the names, units and defaults of the JSON file."""

    decoders: tuple[str, ...]
    episodes: tuple[EpisodeStart, ...]
    source: PolicySource = PolicySource()
    suite: str = 'libero_object'
    max_steps: int = 0
    resolution: int = 256
    action_timeout_s: float = 60.0
    start_timeout_s: float = 300.0
    threads: int = 0
    execute_steps: int = 0
    domain_id: int | None = None

    def __post_init__(self) -> None:
        n_tasks = len(suites.tasks(self.suite))
        if not self.decoders or not self.episodes:
            raise SpecVLAError('a session needs at least one decoder and one episode; got '
                               f'{len(self.decoders)} and {len(self.episodes)}')
        if len(set(self.decoders)) < len(self.decoders):
            raise SpecVLAError(f'a decoder is named twice: {", ".join(self.decoders)}')
        if len(set(self.episodes)) < len(self.episodes):
            raise SpecVLAError('an episode is listed twice; each is played once per decoder')
        names = [load_preset(decoder).file_name for decoder in self.decoders]
        if len(set(names)) < len(names):
            raise SpecVLAError(
                f'the decoders {", ".join(self.decoders)} would be written to {", ".join(names)}, '
                'which must differ; give other names to files among them')
        for episode in self.episodes:
            if not (0 <= episode.task < n_tasks and 0 <= episode.state < suites.N_INITIAL_STATES):
                raise SpecVLAError(
                    f'{self.suite} has no task {shown(episode.task)} with state '
                    f'{shown(episode.state)}; tasks are 0 to {n_tasks - 1}, '
                    f'states 0 to {suites.N_INITIAL_STATES - 1}')

    @classmethod
    def read(cls, path: Path) -> SessionSpec:
        """
        Read the JSON file.

        :raises SpecVLAError: not JSON, an unknown key, or a value that can't be
        :raises FileNotFoundError: no such file
        """
        content = read_json(path)
        with naming(path):
            return cls.of(content)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> SessionSpec:
        """
        Make a specification of the JSON object.

        :raises SpecVLAError: see `read`
        """
        content = dict(content)
        tasks, states = (
            value_of(tuple[int, ...] | None, content.pop(name, None), f'specification: {name}')
            for name in ('tasks', 'states'))
        if 'episodes' not in content:
            content['episodes'] = [[t, s] for t in tasks or [0] for s in states or [0]]
        elif tasks is not None or states is not None:
            raise SpecVLAError('give either episodes or tasks and states, not both')
        source = PolicySource.take(content)
        allowed = {field.name for field in fields(cls)} - {'source'}
        if unknown := sorted(set(content) - allowed):
            allowed |= {'tasks', 'states'} | PolicySource.names()
            raise SpecVLAError(f'unknown keys {unknown} in the specification; there are '
                               f'{sorted(allowed)}')
        try:
            episodes = value_of(tuple[tuple[int, int], ...], content['episodes'], 'episodes')
        except SpecVLAError as error:
            raise SpecVLAError(
                f'{error}: episodes must be a list of [task, state]') from error
        return typed(cls, content | {'episodes': [EpisodeStart(*episode) for episode in episodes],
                                     'source': source}, 'specification')

    @property
    def rounds(self) -> list[Round]:
        """Everything to play, in order: by task, then state, then decoder."""
        by_task: dict[int, list[EpisodeStart]] = {}
        for episode in self.episodes:
            by_task.setdefault(episode.task, []).append(episode)
        played = [(episode, decoder) for group in by_task.values() for episode in group
                  for decoder in self.decoders]
        configs = {decoder: load_preset(decoder) for decoder in self.decoders}
        return [Round(index, episode, decoder, configs[decoder])
                for index, (episode, decoder) in enumerate(played)]

    @property
    def policy_parameters(self) -> dict[str, Any]:
        """Parameters of `policy_node`."""
        steps = {'execute_steps': self.execute_steps} if self.execute_steps else {}
        return {**self.source.parameters, 'decoder': self.decoders[0], 'threads': self.threads,
                **steps, 'pacing': 'lockstep'}

    @property
    def bridge_parameters(self) -> dict[str, Any]:
        """Parameters of `libero_bridge_node`."""
        return {
            'suite': self.suite,
            'episodes': ' '.join(f'{e.task}:{e.state}' for e in self.episodes),
            'repeats': len(self.decoders), 'mode': 'lockstep', 'wait_for_start': True,
            'action_timeout': float(self.action_timeout_s), 'max_steps': self.max_steps,
            'resolution': self.resolution, 'exit_when_done': True,
        }
