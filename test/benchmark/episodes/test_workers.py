"""Worker processes: every episode once, and none lost when a process dies."""

from fake_players import FakePlayer
import pytest

from specvla_ros.benchmark.episodes.workers import Trial, WorkerPool, WorkersDied
from specvla_ros.benchmark.records import EpisodeRecord
from specvla_ros.errors import SpecVLAError

TRIALS = [Trial('libero_object', task, state, ('ar', 'strict'))
           for task in (0, 1) for state in (0, 1)]
PLACES = sorted((trial.task, trial.state, name) for trial in TRIALS for name in trial.decoders)


def episodes_of(pool, trials=TRIALS):
    return [event for event in pool.run(trials) if isinstance(event, EpisodeRecord)]


def places_of(episodes):
    return sorted((e.task, e.state, e.decoder) for e in episodes)


@pytest.mark.parametrize('workers', [1, 2, 9])
def test_every_episode_is_played_once(workers, tmp_path):
    episodes = episodes_of(WorkerPool(FakePlayer(), workers, tmp_path))
    assert places_of(episodes) == PLACES
    assert all(episode.success for episode in episodes)


def test_a_dead_worker_costs_one_episode_which_is_a_crash(tmp_path):
    player = FakePlayer(dies=((0, 1, 'ar'),))
    episodes = episodes_of(WorkerPool(player, 1, tmp_path))
    assert places_of(episodes) == PLACES
    crashed = [episode for episode in episodes if episode.crash]
    assert places_of(crashed) == [(0, 1, 'ar')]
    assert crashed[0].crash == 'the worker process died with exit code 7'


def test_workers_that_keep_dying_stop_the_run(tmp_path):
    player = FakePlayer(dies=tuple(PLACES))
    with pytest.raises(WorkersDied, match='died with exit code 7; see .*worker-0.log'):
        episodes_of(WorkerPool(player, 1, tmp_path))


def test_what_keeps_a_worker_from_starting_is_the_users_to_read(tmp_path):
    with pytest.raises(SpecVLAError, match='^no checkpoint folder x$'):
        episodes_of(WorkerPool(FakePlayer(no_start='no checkpoint folder x'), 1, tmp_path))


def test_an_error_outside_of_an_episode_stops_the_run_with_its_type(tmp_path):
    player = FakePlayer(raises=((0, 0, 'ar'),))
    with pytest.raises(WorkersDied, match='RuntimeError: the simulator cannot be made; see'):
        episodes_of(WorkerPool(player, 1, tmp_path))
    assert 'Traceback' in (tmp_path / 'worker-0.log').read_text()


def test_no_process_is_left_when_the_run_is_abandoned(tmp_path):
    pool = WorkerPool(FakePlayer(seconds=60), 2, tmp_path)
    events = pool.run(TRIALS)
    next(events)
    processes = [worker.process for worker in pool._workers]
    events.close()
    assert processes and not any(process.is_alive() for process in processes)
