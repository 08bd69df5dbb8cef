"""When a control step is handed out: `StepQueue`, with a made-up clock."""
from hypothesis import given
from hypothesis import strategies as st
import pytest

from specvla_ros.steps import StepQueue

T = 0.1


@pytest.fixture
def steps():
    return StepQueue(T)


def ask(steps, *times):
    """Return what is handed out at these times."""
    due = [steps.due(time) for time in times]
    return [None if step is None else step.delta for step in due]


def test_step_k_belongs_to_the_image_s_time_and_k_periods(steps):
    steps.put('abcd', taken=5.0)
    assert ask(steps, 4.9, 5.01, 5.05, 5.11, 5.15, 5.21, 5.31, 5.41) == [
        None, 'a', None, 'b', None, 'c', 'd', None]


def test_late_steps_are_skipped_and_the_last_one_is_not(steps):
    steps.put('abcd', taken=5.0)
    assert ask(steps, 5.25, 5.36, 5.5) == ['c', 'd', None]
    steps.put('efgh', taken=6.0)
    assert ask(steps, 60.0, 70.0) == ['h', None]


def test_a_newer_answer_takes_the_place_of_an_older_one(steps):
    steps.put('abcd', taken=5.0)
    assert ask(steps, 5.01) == ['a']
    assert steps.put('efgh', taken=5.08)
    assert ask(steps, 5.1, 5.11, 5.21) == [None, 'e', 'f']
    assert not steps.put('ABCD', taken=5.07)
    assert not steps.put('EFGH', taken=5.08)
    assert ask(steps, 5.31) == ['g']


def test_no_two_steps_in_a_period_however_fast_the_answers_come(steps):
    handed = []
    for number in range(600):  # 1 ms apart
        now = number * 0.001
        steps.put([number], taken=now)
        step = steps.due(now)
        if step is not None:
            handed.append((now, step.delta))
    assert len(handed) == 6
    assert all(b - a >= T - 1e-9 for (a, _), (b, _) in zip(handed, handed[1:]))
    assert all(now == number * 0.001 for now, number in handed)  # the newest


def test_what_was_cleared_never_comes_and_the_pace_stays(steps):
    steps.put('abcd', taken=5.0)
    assert ask(steps, 5.0) == ['a']
    steps.clear()
    assert (steps.next_at, ask(steps, 5.1)) == (None, [None])
    assert not steps.put('abcd', taken=5.0)  # one of its steps was handed out
    steps.put('ef', taken=5.02)
    steps.clear()
    steps.put('gh', taken=5.02)  # none of this image's was
    assert ask(steps, 5.05, 5.1) == [None, 'g']


def test_held_until_a_time(steps):
    steps.hold(7.0)
    steps.put('a', taken=6.9)
    assert ask(steps, 6.95, 7.0) == [None, 'a']
    assert steps.free_at == 7.0 + T


times = st.floats(0, 3)


@given(st.lists(st.tuples(times, st.floats(0, 0.5), st.integers(1, 4)), max_size=30),
       st.lists(times, max_size=60))
def test_each_step_once_in_order_in_its_time_and_a_period_apart(answers, asked):
    """Answers come at any time, of images taken up to 0.5 s before; somebody asks at any time."""
    steps, handed, taken_of = StepQueue(T), [], {}
    put = [(time, ('put', number, age, chunk))
           for number, (time, age, chunk) in enumerate(answers)]
    for now, what in sorted([*put, *((time, ('ask',)) for time in asked)], key=lambda e: e[0]):
        if what[0] == 'put':
            _, number, age, chunk = what
            if steps.put([(number, k, chunk) for k in range(chunk)], now - age):
                taken_of[number] = now - age
        expected = steps.next_at
        step = steps.due(now)
        assert (step is not None) == (expected is not None and now >= expected)
        if step is not None:
            handed.append((now, *step.delta))
    for now, number, k, chunk in handed:
        begins = taken_of[number] + k * T
        assert begins <= now + 1e-9
        assert now < begins + T + 1e-9 or k == chunk - 1  # not late
    for (before, a, k, _), (now, b, m, _) in zip(handed, handed[1:]):
        assert now - before >= T - 1e-9
        assert (taken_of[a], k) < (taken_of[b], m)


@pytest.mark.parametrize('late, done', [(0.0, [0, 1, 2]), (0.21, [2]), (0.31, []), (9.0, [])])
def test_steps_that_are_not_firm_are_never_handed_out(late, done):
    queue = StepQueue(T, execute_steps=4)
    assert queue.put(range(8), 0.0, firm_steps=3)
    steps = [queue.due(late + number * T) for number in range(9)]
    assert [step.number for step in steps if step is not None] == done
    assert queue.next_at is None and not queue.put(range(8), 0.0)
    assert queue.put(range(8), 0.01)  # a later image: all of its steps may be
    assert queue.due(20.0).number == 7
