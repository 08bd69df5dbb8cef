"""Which episodes the parameters mean, and in which order they are played."""
import pytest

from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes.play_list import (
    EpisodeStart,
    parse_episodes,
    parse_indices,
    read_play_list,
)


@pytest.mark.parametrize('value, indices', [
    (3, [3]), ([0, 2], [0, 2]), ('3', [3]), ('0,2,5-7', [0, 2, 5, 6, 7]), ('7, 1', [7, 1]),
    ('all', list(range(10))),
])
def test_indices(value, indices):
    assert parse_indices(value, 10, 'task') == indices


@pytest.mark.parametrize('value, reason', [
    (10, 'there is no task 10; there are 0 to 9'),
    (-1, 'there is no task -1'),
    ('8-12', 'there is no task 10'),
    ('', "tasks are ''"),
    ([], 'no task is named'),
    ('5-3', 'no task is named'),
    ('some', "tasks are 'some'"),
    (1.5, 'tasks are 1.5'),
    (True, 'tasks are True'),
])
def test_indices_that_cannot_be(value, reason):
    with pytest.raises(SpecVLAError, match=reason):
        parse_indices(value, 10, 'task')


def test_episodes_of_tasks_and_states():
    assert parse_episodes(' 0:0-1  3:7', 10, 50) == [
        EpisodeStart(0, 0), EpisodeStart(0, 1), EpisodeStart(3, 7)]


@pytest.mark.parametrize('text, reason', [
    ('3', 'must be TASK:STATES'), ('0:50', 'there is no state 50'), ('10:0', 'there is no task')])
def test_episodes_that_cannot_be(text, reason):
    with pytest.raises(SpecVLAError, match=reason):
        parse_episodes(text, 10, 50)


def test_the_list_is_grouped_by_task_and_each_episode_repeated_in_a_row():
    played = read_play_list(0, 0, '0:1 2:0 0:0', repeats=2, n_tasks=10, n_states=50)
    assert [(e.task, e.state) for e in played] == [
        (0, 1), (0, 1), (0, 0), (0, 0), (2, 0), (2, 0)]


def test_without_episodes_every_state_of_every_task():
    played = read_play_list('1,0', [4, 2], '', repeats=1, n_tasks=10, n_states=50)
    assert [(e.task, e.state) for e in played] == [(1, 4), (1, 2), (0, 4), (0, 2)]
