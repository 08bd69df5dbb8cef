"""Which episodes to play, from the parameters of a node; no ROS in it."""

from collections.abc import Iterable
from dataclasses import dataclass

from specvla_ros.errors import SpecVLAError


@dataclass(frozen=True, slots=True)
class EpisodeStart:
    """Where an episode begins: a task of the suite and its stored initial state, both from 0."""

    task: int
    state: int


def parse_indices(value: int | str | Iterable[int], count: int, noun: str) -> list[int]:
    """
    Return the numbers meant by 3, [0, 2], '0,2,5-7' or 'all', in the order given.

    :param count: how many there are: allowed are 0 to count - 1
    :param noun: what is counted, for the error
    :raises SpecVLAError: not of that form, nothing named, or a number out of range
    """
    try:
        if isinstance(value, str):
            indices = _parse_text(value, count)
        elif isinstance(value, int) and not isinstance(value, bool):
            indices = [value]
        else:
            indices = [int(index) for index in value]
    except (TypeError, ValueError) as error:
        raise SpecVLAError(f"{noun}s are {value!r}; give a number, a list of numbers, a text like "
                           "'0,2,5-7', or 'all'") from error
    if not indices:
        raise SpecVLAError(f"no {noun} is named in {value!r}; give 'all' for every one")
    for index in indices:
        if not 0 <= index < count:
            raise SpecVLAError(f'there is no {noun} {index}; there are 0 to {count - 1}')
    return indices


def parse_episodes(text: str, n_tasks: int, n_states: int) -> list[EpisodeStart]:
    """
    Return the episodes meant by '0:0-4 3:7': task:states pairs, apart by spaces.

    :raises SpecVLAError: not of that form, or out of range
    """
    episodes = []
    for pair in text.split():
        task, colon, states = pair.partition(':')
        if not colon:
            raise SpecVLAError(f"episodes hold {pair!r}; must be TASK:STATES, like '0:0-4 3:7'")
        episodes += [EpisodeStart(task_id, state)
                     for task_id in parse_indices(task, n_tasks, 'task')
                     for state in parse_indices(states, n_states, 'state')]
    return episodes


def read_play_list(
        tasks: int | str | Iterable[int], states: int | str | Iterable[int], episodes: str, *,
        repeats: int, n_tasks: int, n_states: int) -> list[EpisodeStart]:
    """
    Return what to play, in order: grouped by task, each episode `repeats` times in a row.

    Making another task's scene costs seconds, so each is made once. `episodes`, unless empty,
    stands in place of `tasks` and `states`.

    :raises SpecVLAError: as `parse_indices` and `parse_episodes`
    """
    if episodes.strip():
        listed = parse_episodes(episodes, n_tasks, n_states)
    else:
        listed = [EpisodeStart(task, state)
                  for task in parse_indices(tasks, n_tasks, 'task')
                  for state in parse_indices(states, n_states, 'state')]
    groups: dict[int, list[EpisodeStart]] = {}
    for episode in listed:
        groups.setdefault(episode.task, []).append(episode)
    return [episode for group in groups.values() for episode in group for _ in range(repeats)]


def _parse_text(text: str, count: int) -> list[int]:
    if text.strip() == 'all':
        return list(range(count))
    indices = []
    for part in text.split(','):
        first, dash, last = part.partition('-')
        indices += range(int(first), int(last if dash else first) + 1)
    return indices
