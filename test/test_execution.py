"""How many steps of an answer are executed, and what an arm does in a simulation."""
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from specvla_ros.errors import SpecVLAError
from specvla_ros.execution import check_execute_steps, Execution, StepsAhead

T = 0.05


def said(chunk, image):
    """Return an answer whose steps tell the image's time and their own number."""
    deltas = np.zeros((chunk, 7))
    deltas[:, 0], deltas[:, 1], deltas[:, 6] = image, np.arange(chunk), image % 2
    return deltas


def play(execution, chunk, answers):
    """Return what is done in each period: (image's time, number of the step), None = still."""
    ahead, done = StepsAhead(), []
    for _ in range(answers):
        steps, image = execution.steps(chunk), len(done)
        for move in ahead.put(said(chunk, image)[steps], execution.latency):
            done.append(None if move.stands else (int(move.delta[0]), int(move.delta[1])))
        assert len(done) - image == execution.periods(chunk)
    return done


@pytest.mark.parametrize('execute, latency, expected', [
    (None, 0, [(0, 0), (0, 1), (0, 2), (0, 3), (4, 0), (4, 1), (4, 2), (4, 3)]),
    (2, 0, [(0, 0), (0, 1), (2, 0), (2, 1), (4, 0), (4, 1)]),
    (1, 0, [(0, 0), (1, 0), (2, 0), (3, 0)]),
    # The next answer is there when two steps of the last are done; the first of each is over.
    (2, 1, [None, (0, 1), (0, 2), (2, 1), (2, 2), (4, 1)]),
    # Four steps are said, two of them are over when they come: no more than two can be done.
    (None, 2, [None, None, (0, 2), (0, 3), (2, 2), (2, 3)]),
    # One answer is computed at a time: where that takes longer, steps beyond go on.
    (1, 2, [None, None, (0, 2), (0, 3), (2, 2), (2, 3)]),
    (1, 3, [None, None, None, (0, 3), None, None, (3, 3), None, None]),
    # All steps are over: the last one, late.
    (4, 6, [None] * 6 + [(0, 3)] + [None] * 5 + [(6, 3)] + [None] * 5)])
def test_what_is_done_in_each_period(execute, latency, expected):
    done = play(Execution(execute, latency), 4, len(expected))
    assert done[:len(expected)] == expected


def test_a_policy_of_one_step_makes_one_a_latency():
    assert play(Execution(1, 0), 1, 3) == [(0, 0), (1, 0), (2, 0)]
    assert play(Execution(1, 3), 1, 3) == [None] * 3 + [(0, 0), None, None, (3, 0), None, None]


@given(st.integers(1, 16), st.integers(1, 16), st.integers(0, 20))
def test_no_step_twice_none_out_of_order_and_none_late_but_the_last(chunk, execute, latency):
    done = play(Execution(min(execute, chunk), latency), chunk, 12)
    steps = [(now, *step) for now, step in enumerate(done) if step is not None]
    for now, image, number in steps:
        assert now >= image + latency
        assert now == image + number or number == chunk - 1
    assert all(before[1:] < after[1:] for before, after in zip(steps, steps[1:]))
    if latency + max(execute, latency) <= chunk:  # there is a step for each period
        assert None not in done[latency:]


def test_steps_beyond_the_next_image_go_on_until_the_next_answer_is_there():
    ahead, steps = StepsAhead(), []
    for image, first, periods in ((1, 0, 2), (2, 3, 3), (3, 1, 2)):
        steps += [None if move.stands else (int(move.delta[0]), int(move.delta[1]))
                  for move in ahead.put(said(4, image)[min(first, 3):], first, periods)]
    assert steps == [(1, 0), (1, 1), (1, 2), (1, 3), None, (2, 3), (3, 1)]


def test_where_the_arm_stands_still_the_gripper_stays_as_it_is():
    ahead = StepsAhead()
    moves = [*ahead.put(said(1, 1), 2), *ahead.put(said(1, 2), 2), *ahead.put(said(1, 4), 2)]
    assert [move.stands for move in moves] == [True, True, False, True, False, True]
    assert [move.delta[6] for move in moves] == [1, 1, 1, 1, 0, 0]
    assert not any(move.delta[:6].any() for move in moves if move.stands)


@pytest.mark.parametrize('seconds, periods', [
    (0.0, 0), (0.049, 0), (0.05, 1), (0.15, 3), (0.3, 6), (0.12, 2), (0.35, 7)])
def test_parts_of_a_period_do_not_count(seconds, periods):
    assert Execution.late(4, seconds, T) == Execution(4, periods)


@pytest.mark.parametrize('seconds', [-0.1, float('nan'), float('inf')])
def test_a_latency_that_can_not_be_is_refused(seconds):
    with pytest.raises(SpecVLAError, match='latency_s is .*, must be 0 s or more'):
        Execution.late(4, seconds, T)


def test_no_more_steps_than_an_answer_has():
    for fine in (None, 1, 8):
        check_execute_steps(fine, 8)
    for wrong in (0, -1, 9):
        with pytest.raises(SpecVLAError, match=f'execute_steps is {wrong}, must be from 1 to 8'):
            check_execute_steps(wrong, 8)


@pytest.mark.parametrize('execute, latency, firm', [
    (None, 0, None), (4, 0, 4), (4, 2, 6), (1, 3, 6), (8, 2, 10)])
def test_steps_before_the_next_answer_comes_are_firm(execute, latency, firm):
    execution = Execution(execute, latency)
    assert execution.firm_steps() == firm
    assert Execution(execute).firm_steps(latency) == firm
    if firm is not None:
        assert execution.steps(8).stop <= firm
