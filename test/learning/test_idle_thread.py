"""A step begins only while nothing else is to be done."""
import os
import threading
import time

import pytest
import torch

from specvla_ros.learning import idle_thread
from specvla_ros.learning.idle_thread import IdleThread
from specvla_ros.learning.settings import IdleSettings


class Steps:
    """Work without an end; remembers each step, and the thread's settings."""

    has_work = True

    def __init__(self, seconds=0.0):
        self.seconds, self.count, self.began = seconds, 0, []

    def step(self):
        self.began.append(time.monotonic())
        time.sleep(self.seconds)
        self.niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        self.threads = torch.get_num_threads()
        self.count += 1


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def idle():
    """Give a function that starts a thread; all end."""
    started, faults = [], []

    def idle(work, idle_s, **settings):
        started.append(IdleThread(work, idle_s, IdleSettings(**settings), faults.append))
        return started[-1]

    idle.faults = faults
    yield idle
    for thread in started:
        thread.end()


def test_no_step_begins_while_a_request_is_pending(idle):
    work, free = Steps(), [0.0]
    idle(work, lambda: free[0], share=1.0)
    time.sleep(0.1)
    assert work.count == 0
    free[0] = float('inf')
    wait_for(lambda: work.count > 3)
    free[0] = 0.0
    time.sleep(0.05)  # the step under way
    count = work.count
    time.sleep(0.1)
    assert work.count == count


def test_no_step_begins_in_a_gap_that_is_shorter_than_steps_take(idle):
    work, free = Steps(seconds=0.03), [float('inf')]
    idle(work, lambda: free[0], share=1.0)
    wait_for(lambda: work.count > 2)
    free[0] = 0.035
    time.sleep(0.1)
    count = work.count
    time.sleep(0.1)
    assert work.count == count
    free[0] = 60.0
    wait_for(lambda: work.count > count)


def test_one_slow_step_does_not_end_it_where_there_is_never_twice_its_time(idle, monkeypatch):
    """As the first one on a slow machine, at a control period of 50 ms."""
    monkeypatch.setattr(idle_thread, '_FADES', 0.98)
    work = Steps(seconds=0.06)
    idle(work, lambda: 0.045, share=1.0)
    wait_for(lambda: work.count == 1)
    work.seconds, second = 0.0, time.monotonic()
    wait_for(lambda: work.count > 1)
    assert time.monotonic() - second > 0.1  # 0.06 has to fade to 0.0225 first


def test_a_gap_in_which_no_first_step_would_begin_is_never_enough(idle, monkeypatch):
    monkeypatch.setattr(idle_thread, '_FADES', 0.5)
    work, free = Steps(), [float('inf')]
    idle(work, lambda: free[0], share=1.0)
    wait_for(lambda: work.count > 2)
    work.seconds = 0.06
    count = work.count
    wait_for(lambda: work.count > count + 1)
    free[0] = 0.035
    time.sleep(0.1)
    count = work.count
    time.sleep(0.2)
    assert work.count == count


def test_it_takes_its_share_of_the_time_and_no_more(idle):
    work = Steps(seconds=0.01)
    idle(work, lambda: float('inf'), share=0.25)
    wait_for(lambda: work.count > 10)
    gaps = [b - a for a, b in zip(work.began[:-1], work.began[1:])]
    assert min(gaps) >= 0.04 - 1e-3  # at least: a busy machine makes them longer


def test_it_has_the_lowest_priority_and_threads_of_its_own(idle):
    mine, work = torch.get_num_threads(), Steps()
    idle(work, lambda: float('inf'), threads=2)
    wait_for(lambda: work.count)
    assert (work.niceness, work.threads) == (19, 2)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < 19
    assert torch.get_num_threads() == mine


def test_after_its_end_no_step_runs(idle):
    work = Steps(seconds=0.02)
    thread = idle(work, lambda: float('inf'), share=1.0)
    wait_for(lambda: work.count)
    thread.end()
    count = work.count
    assert count == len(work.began)  # none is under way
    time.sleep(0.1)
    assert work.count == count


def test_a_step_that_fails_is_told_and_is_the_last(idle):
    class Broken(Steps):
        def step(self):
            self.count += 1
            raise RuntimeError('broken')

    work = Broken()
    idle(work, lambda: float('inf'))
    wait_for(lambda: idle.faults)
    time.sleep(0.05)
    assert work.count == 1 and str(idle.faults[0]) == 'broken'
