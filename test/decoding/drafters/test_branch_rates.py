"""Measured hit rates: what counts as a trial, what is believed, and what is forgotten."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from specvla_ros.decoding.drafters.branch_rates import Branch, BranchRates

HELD, MOVED = Branch('history'), Branch('velocity')


def test_a_guess_counts_up_to_its_first_wrong_token():
    rates = BranchRates(4)
    for _ in range(200):
        assert rates.record(HELD, [1, 2, 9], [1, 2, 3, 4], judged=4) == 2
    first, second, third, never = rates.rates(HELD)
    assert min(first, second) > 0.98 and third < 0.02
    assert third < never < second  # never judged: what the others say


def test_tokens_that_no_pass_judged_are_no_trials():
    rates = BranchRates(4)
    before = rates.rates(HELD)
    assert rates.record(HELD, [1, 2, 3], [1, 2, 3, 4], judged=0) == 0
    assert rates.rates(HELD) == before
    assert rates.record(HELD, [1, 2, 3], [1, 2, 3, 4], judged=2) == 2
    assert rates.record(HELD, [3], [1, 2, 3, 4], judged=2, start=2) == 0


def test_a_guess_that_starts_later_counts_where_it_stands():
    rates = BranchRates(4)
    for _ in range(50):
        rates.record(HELD, [3, 9], [1, 2, 3, 4], judged=4, start=2)
    assert rates.rates(HELD)[2] > 0.9 and rates.rates(HELD)[3] < 0.1


def test_before_any_trial_a_later_choice_is_believed_in_less():
    rates = BranchRates(3)
    assert rates.rates(HELD) == [0.5] * 3
    assert rates.rates(Branch('history', 1)) == [0.25] * 3


def test_what_was_seen_fades_so_that_a_branch_gets_another_chance():
    rates = BranchRates(3, memory=10)
    for _ in range(30):
        rates.record(HELD, [9], [1, 2, 3], judged=3)
        rates.fade()
    low = rates.rates(HELD)[0]
    for _ in range(60):
        rates.fade()
    assert low < 0.1 and rates.rates(HELD)[0] == pytest.approx(0.5, abs=0.05)


def test_forgetting_is_beginning_again():
    rates = BranchRates(3)
    rates.record(HELD, [1, 2], [1, 2, 3], judged=3)
    rates.forget()
    assert rates.rates(HELD) == BranchRates(3).rates(HELD)


@given(st.lists(st.tuples(st.sampled_from([HELD, MOVED, Branch('glance', 3)]),
                          st.lists(st.integers(0, 2), max_size=5), st.integers(0, 5)),
                max_size=40))
def test_the_same_history_gives_the_same_rates_and_none_is_sure(history):
    first, second = BranchRates(5, memory=7), BranchRates(5, memory=7)
    for rates in (first, second):
        for branch, path, judged in history:
            rates.record(branch, path, [0, 1, 2, 0, 1], judged)
            rates.fade()
    for branch in (HELD, MOVED, Branch('glance', 3)):
        assert first.rates(branch) == second.rates(branch)
        assert all(0 < rate < 1 for rate in first.rates(branch))
