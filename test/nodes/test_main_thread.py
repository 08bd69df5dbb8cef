"""Tasks that callbacks hand to the main thread."""
import os
import signal
import threading

import pytest

from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes import waiting
from specvla_ros.nodes.main_thread import MainThread


class Over(BaseException):
    """What ends the main thread's work, like KeyboardInterrupt."""


@pytest.fixture
def main():
    return MainThread()


def end():
    raise Over


def in_thread(function):
    """Run `function` beside the main thread; return the thread and the list of what it gave."""
    results = []

    def run():
        try:
            results.append(function())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


def run_until(main, thread):
    """Run the main thread's work until the thread beside it has ended."""
    threading.Thread(target=lambda: (thread.join(), main.post(end))).start()
    with pytest.raises(Over):
        main.run()


def test_a_call_runs_in_the_main_thread_and_gives_back_what_it_returns(main):
    thread, results = in_thread(lambda: main.call(threading.current_thread))
    run_until(main, thread)
    assert results == [threading.main_thread()]


def test_a_call_raises_what_the_task_raises_and_the_work_goes_on(main):
    thread, results = in_thread(lambda: main.call(lambda: 1 / 0))
    run_until(main, thread)
    assert isinstance(results[0], ZeroDivisionError)


def test_the_main_thread_itself_does_not_wait_for_itself(main):
    assert main.call(lambda: 5) == 5


def test_functions_run_in_order(main):
    done = []
    for number in range(3):
        main.post(lambda number=number: done.append(number))
    main.post(end)
    with pytest.raises(Over):
        main.run()
    assert done == [0, 1, 2]


def test_whoever_waits_is_told_when_the_process_ends(main):
    """During the task that is waited for, behind it in the queue, and afterwards."""
    threads = [in_thread(lambda: main.call(end)) for _ in range(3)]
    with pytest.raises(Over):
        main.run()
    threads.append(in_thread(lambda: main.call(end)))
    for thread, results in threads:
        thread.join(10)
        assert isinstance(results[0], SpecVLAError)


class TooLate(BaseException):
    """What ends a wait that the signal didn't end."""


@pytest.fixture
def unheard():
    """
    Give a function that calls `wait`, and sends a signal meanwhile that doesn't wake it.

    Another thread receives the signal, so Python notes it and the main thread goes on waiting: the
    same as with a signal that comes right before a wait.
    """
    def handle(number, frame):
        raise Over if number == signal.SIGUSR1 else TooLate

    def send():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        if not over.wait(0.5):
            os.kill(os.getpid(), signal.SIGUSR1)
        if not over.wait(20):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR2)

    def unheard(wait):
        thread.start()
        try:
            with pytest.raises(Over):
                wait()
        finally:
            over.set()
            thread.join()

    numbers = signal.SIGUSR1, signal.SIGUSR2
    before = [signal.signal(number, handle) for number in numbers]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    over, thread = threading.Event(), threading.Thread(target=send)
    yield unheard
    for number, handler in zip(numbers, before):
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])


def test_a_signal_right_before_a_wait_ends_it(main, unheard):
    unheard(main.run)


@pytest.mark.parametrize('wait', [
    waiting.for_ever,
    lambda: waiting.until(lambda seconds: threading.Semaphore(0).acquire(timeout=seconds))])
def test_a_signal_right_before_a_wait_of_nodes_ends_it(wait, unheard):
    unheard(wait)


def test_a_wait_gives_what_it_waited_for():
    answers = iter([None, 0, 'it'])
    assert waiting.until(lambda seconds: next(answers)) == 'it'
