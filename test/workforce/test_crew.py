"""A crew: every job once, none lost where a worker dies, and an end where it makes no sense."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time

from fake_players import FakePlayer
from hypothesis import given, settings, strategies
import pytest

from specvla_ros.benchmark.episodes.trial import Trial
from specvla_ros.errors import SpecVLAError
from specvla_ros.workforce.crew import Crew, Done, GivenUp, MAX_TRIES, News
from specvla_ros.workforce.processes import Processes
from specvla_ros.workforce.threads import Threads
from specvla_ros.workforce.worker import WorkerLost, WorkersDied

ROOT = Path(__file__).parents[2]
TRIALS = [Trial('libero_object', task, state, decoder)
          for task in (0, 1) for state in (0, 1) for decoder in ('ar', 'strict')]


def crew(player, workers, logs, **more) -> Crew:
    return Crew(Processes(player, logs), workers, logs, **more)


def done(events) -> list[Trial]:
    return [event.job for event in events if isinstance(event, Done)]


@pytest.mark.parametrize('workers', [1, 2, 9])
def test_every_episode_is_played_once_in_processes(workers, tmp_path):
    events = list(crew(FakePlayer(), workers, tmp_path).run(TRIALS))
    assert sorted(done(events), key=TRIALS.index) == TRIALS
    assert all(event.result.success for event in events if isinstance(event, Done))
    assert {event.said.steps for event in events if isinstance(event, News)} == {0, 2}


def test_one_worker_keeps_the_order(tmp_path):
    assert done(crew(FakePlayer(), 1, tmp_path).run(TRIALS)) == TRIALS


def test_the_episode_of_a_dead_worker_is_played_again(tmp_path):
    player = FakePlayer(dies=((0, 1, 'ar'), (1, 0, 'ar')), once=tmp_path)
    events = list(crew(player, 1, tmp_path).run(TRIALS))
    assert done(events) == TRIALS


def test_kill_9_loses_and_doubles_nothing(tmp_path):
    """A kill from outside, twice, while another worker plays on."""
    (tmp_path / 'pids').mkdir()
    player, killed, finished = FakePlayer(seconds=0.1, pids=tmp_path / 'pids'), set(), []
    for event in crew(player, 2, tmp_path).run(TRIALS):
        if isinstance(event, Done):
            finished.append(event.job)
        elif event.said.steps == 0 and len(killed) < 2 and len(finished) > len(killed):
            pid = next((int(path.name.split('-')[0]) for path in (tmp_path / 'pids').iterdir()
                        if path.name.endswith('-'.join(map(str, (
                            event.job.task, event.job.state, event.job.decoder))))), None)
            if pid is not None and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
    assert len(killed) == 2
    assert sorted(finished, key=TRIALS.index) == TRIALS


def test_an_episode_that_takes_worker_after_worker_is_given_up_and_the_others_go_on(tmp_path):
    player = FakePlayer(dies=((0, 1, 'ar'),))
    events = list(crew(player, 1, tmp_path).run(TRIALS))
    given_up, = (event for event in events if isinstance(event, GivenUp))
    assert given_up.job == Trial('libero_object', 0, 1, 'ar')
    assert given_up.reason == f'the worker process died with exit code 7, {MAX_TRIES} times'
    assert len(done(events)) == len(TRIALS) - 1


def test_workers_that_keep_dying_stop_the_run(tmp_path):
    player = FakePlayer(dies=tuple((it.task, it.state, it.decoder) for it in TRIALS))
    with pytest.raises(WorkersDied, match='died with exit code 7; see .*worker-0.log'):
        list(crew(player, 1, tmp_path).run(TRIALS))


def test_workers_that_die_before_they_play_stop_the_run(tmp_path):
    with pytest.raises(WorkersDied, match='died with exit code 3'):
        list(crew(FakePlayer(exits=True), 1, tmp_path).run(TRIALS))


def test_what_keeps_a_worker_from_starting_is_the_users_to_read(tmp_path):
    with pytest.raises(SpecVLAError, match='^no checkpoint folder x$'):
        list(crew(FakePlayer(no_start='no checkpoint folder x'), 1, tmp_path).run(TRIALS))


def test_an_error_outside_of_an_episode_stops_the_run_with_its_type(tmp_path):
    player = FakePlayer(raises=((0, 0, 'ar'),))
    with pytest.raises(WorkersDied, match='RuntimeError: the simulator cannot be made; see'):
        list(crew(player, 1, tmp_path).run(TRIALS))
    assert 'Traceback' in (tmp_path / 'worker-0.log').read_text()


def is_alive(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().split(') ')[1][0] != 'Z'
    except OSError:
        return False


def test_no_process_is_left_when_the_run_is_abandoned(tmp_path):
    before = set(threading.enumerate())  # other tests leave threads that wait for ever
    events = Crew(Processes(FakePlayer(seconds=60, pids=tmp_path)), 2).run(TRIALS)
    next(events)
    events.close()
    pids = {int(path.name.split('-')[0]) for path in tmp_path.iterdir()}
    assert pids and not any(map(is_alive, pids))
    assert not [it for it in {*threading.enumerate()} - before
                if it.name.startswith('Thread-') and it.is_alive()]


def test_a_fresh_process_takes_over_after_a_lifetime(tmp_path):
    (pids := tmp_path / 'pids').mkdir()
    events = list(crew(FakePlayer(pids=pids), 1, tmp_path, lifetime=3).run(TRIALS))
    assert done(events) == TRIALS
    assert len({path.name.split('-')[0] for path in pids.iterdir()}) == 3  # of 8 episodes


class Losing:
    """An employer whose workers are lost as a list of draws says, before or after the job."""

    def __init__(self, draws):
        self.draws, self.lock = list(draws), threading.Lock()
        self.played = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def hire(self, number):
        return self

    def begin(self):
        pass

    def end(self):
        pass

    def do(self, job, tell):
        with self.lock:
            draw = self.draws.pop() if self.draws else 'done'
        tell(draw)
        if draw == 'lost':
            raise WorkerLost('gone')
        self.played.append(job)
        return job


@settings(max_examples=60)
@given(draws=strategies.lists(strategies.sampled_from(['done', 'lost']), max_size=20),
       workers=strategies.integers(1, 4), jobs=strategies.integers(0, 9))
def test_whoever_is_lost_each_job_ends_once(draws, workers, jobs):
    trials = [Trial('s', number % 3, number, 'ar') for number in range(jobs)]
    employer, ended = Losing(draws), []
    try:
        for event in Crew(employer, workers).run(trials):
            if not isinstance(event, News):
                ended.append(event)
    except WorkersDied:
        assert draws.count('lost') >= 2 * MAX_TRIES
        return
    assert sorted((event.job for event in ended), key=trials.index) == trials
    finished = [event.job for event in ended if isinstance(event, Done)]
    assert sorted(finished, key=trials.index) == sorted(employer.played, key=trials.index)


class Counter:
    def __call__(self):
        return self

    def do(self, job, tell):
        if job.state == 5:
            raise KeyboardInterrupt
        return threading.get_ident()


def test_a_thread_raises_where_the_crew_is_run():
    with pytest.raises(KeyboardInterrupt):
        list(Crew(Threads(Counter()), 2).run([Trial('s', 0, state, 'ar') for state in range(9)]))


def test_a_worker_stays_at_its_task_and_leaves_that_of_another_alone():
    """Making a simulator takes as long as two episodes."""
    class Recorder:
        def __call__(self):
            return self

        def do(self, job, tell):
            barrier.wait(timeout=10)
            return threading.get_ident()

    barrier = threading.Barrier(2)
    trials = [Trial('s', task, state, 'ar') for state in range(4) for task in (0, 1)]
    events = list(Crew(Threads(Recorder()), 2).run(trials))
    by_worker = {}
    for event in events:
        by_worker.setdefault(event.result, set()).add(event.job.task)
    assert sorted(map(tuple, by_worker.values())) == [(0,), (1,)]


def test_workers_end_with_a_driver_that_was_killed(tmp_path):
    """It can't tell them, and they would keep simulator and model in memory for ever."""
    driver = subprocess.Popen([sys.executable, '-c', '\n'.join([
        'import sys',
        f'sys.path[:0] = {[str(ROOT), str(ROOT / "test" / "benchmark")]!r}',
        'from pathlib import Path',
        'from fake_players import FakePlayer',
        'from specvla_ros.benchmark.episodes.trial import Trial',
        'from specvla_ros.workforce.crew import Crew',
        'from specvla_ros.workforce.processes import Processes',
        f'player = FakePlayer(seconds=60, pids=Path({str(tmp_path)!r}))',
        'if __name__ == "__main__":',
        '    list(Crew(Processes(player), 2).run('
        '[Trial("s", 0, state, "ar") for state in (0, 1)]))'])])
    try:
        assert wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    finally:
        driver.kill()
        driver.wait()
    pids = [int(path.name.split('-')[0]) for path in tmp_path.iterdir()]
    assert wait_for(lambda: not any(map(is_alive, pids)))


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
