"""Actions are handed out at most once, and only as answers to what was asked."""
import threading

import numpy as np

from specvla_ros.nodes.libero_bridge.action_inbox import ActionInbox


def action(value):
    return np.full((1, 7), float(value))


def test_waits_for_the_answer_to_an_image_and_drops_the_others():
    inbox = ActionInbox()
    inbox.put(1, action(1))
    threading.Timer(0.05, lambda: inbox.put(2, action(2))).start()
    assert inbox.wait_for({2}, timeout=5)[0, 0] == 2
    assert inbox.n_unasked == 1
    assert inbox.wait_for({1, 2}, timeout=0) is None


def test_any_copy_of_the_image_may_be_answered_but_only_the_first_answer_counts():
    inbox = ActionInbox()
    inbox.put(12, action(1))
    inbox.put(10, action(2))
    assert inbox.wait_for({10, 12}, timeout=0)[0, 0] == 1
    assert inbox.wait_for({10, 12}, timeout=0) is None


def test_the_newest_is_taken_once_and_older_ones_never_after_it():
    inbox = ActionInbox()
    for stamp in (3, 4, 5, 6):
        inbox.show(stamp)
    for stamp in (3, 5, 4):
        inbox.put(stamp, action(stamp))
    assert inbox.take_newest()[0, 0] == 5
    assert inbox.take_newest() is None
    inbox.put(4, action(4))
    inbox.put(5, action(5))
    assert inbox.take_newest() is None
    inbox.put(6, action(6))
    assert inbox.take_newest()[0, 0] == 6


def test_further_steps_of_an_answer_count_once_and_until_a_newer_image_is_answered():
    inbox = ActionInbox()
    inbox.show(1)
    inbox.show(2)
    inbox.put(0, action(9), 0)  # a command to stand still answers nothing
    assert inbox.take_newest() is None
    for sequence in (0, 1, 3):
        inbox.put(1, action(sequence), sequence)
        assert inbox.take_newest()[0, 0] == sequence
    inbox.put(1, action(3), 3)
    assert inbox.take_newest() is None
    inbox.put(2, action(20), 4)
    assert inbox.take_newest()[0, 0] == 20
    inbox.put(1, action(12), 5)
    assert inbox.take_newest() is None


def test_an_answer_from_the_episode_before_is_refused():
    inbox = ActionInbox()
    inbox.show(10)
    inbox.show(11)
    inbox.put(10, action(1))
    inbox.begin_episode()
    inbox.put(11, action(2))
    assert inbox.take_newest() is None
    inbox.show(20)
    inbox.put(20, action(3))
    assert inbox.take_newest()[0, 0] == 3


def test_a_clock_that_was_set_back_makes_no_image_older():
    inbox = ActionInbox()
    for stamp in (1000, 1001, 500, 501):
        inbox.show(stamp)
    inbox.put(1001, action(1))
    inbox.put(500, action(2))
    assert inbox.take_newest()[0, 0] == 2
    inbox.put(1001, action(3))
    assert inbox.take_newest() is None
    inbox.put(501, action(4))
    assert inbox.take_newest()[0, 0] == 4


def test_flooding_keeps_memory_bounded_and_the_newest():
    inbox = ActionInbox()
    inbox.show(9_999)
    for stamp in range(10_000):
        inbox.put(stamp, action(stamp))
    assert inbox.take_newest()[0, 0] == 9_999
