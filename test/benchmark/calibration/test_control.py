"""How loose thresholds may be: made-up exchangeable losses whose risk is known."""
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from specvla_ros.benchmark.calibration import control

# At which scale an episode begins to lose, per mille of the loosest: uniform, so at column k the
# risk is k / 100.
SCALES = 101


def made_up(random, n):
    """Losses [n, SCALES] of 0 and 1, each row a step; the risk at column k is k / 100."""
    return (random.uniform(0, 1, (n, 1)) < np.arange(SCALES) / 100).astype(float)


def risks(choose, n=100, count=20, seed=0):
    """Return the true risks of the scales that `choose` takes, over new calibrations."""
    random = np.random.default_rng(seed)
    return [choose(made_up(random, n)) / 100 for _ in range(count)]


def kept_splits(seed, confidence=0.99):
    """Return in how many of 20 splits of 200 episodes at most a tenth of those aside lose."""
    losses = made_up(np.random.default_rng(seed), 200)
    return sum(split.risk <= 0.1 for split in control.splits(losses, 0.1, confidence, 20, seed))


@pytest.mark.parametrize('delta', [0.05, 0.1, 0.3])
@pytest.mark.parametrize('confidence', [0.95, 0.99])
def test_a_calibration_keeps_its_promise_with_the_confidence_asked_for(delta, confidence):
    kept = [risk <= delta for risk in risks(
        lambda losses: control.loosest(losses, delta, confidence), count=1000)]
    assert np.mean(kept) >= confidence - 0.005  # what a thousand tries tell


def test_violations_are_at_most_delta_in_19_of_20_random_splits():
    pools = [kept_splits(seed) for seed in range(20)]
    assert sum(kept >= 19 for kept in pools) >= 19  # splits of one pool are no independent tries


def test_risk_control_alone_does_not_reach_that():
    assert sum(kept_splits(seed, 0.0) >= 19 for seed in range(20)) == 0


def test_a_threshold_that_is_too_loose_is_found_out_by_the_same_splits(monkeypatch):
    right = control.loosest
    monkeypatch.setattr(control, 'loosest', lambda *given: right(*given) + 8)
    assert sum(kept_splits(seed) >= 19 for seed in range(20)) <= 5


def test_risk_control_alone_keeps_the_mean_but_not_each_calibration():
    found = risks(lambda losses: control.loosest(losses, 0.1, 0.0), count=2000)
    assert np.mean(found) <= 0.1
    assert np.mean(found) > 0.08  # no looser than it must be, nor tighter
    assert np.mean([risk <= 0.1 for risk in found]) < 0.8


def test_shares_are_controlled_as_zeros_and_ones_are():
    def shares(n):  # of an episode's actions: column k times a number of its own, 1 in the mean
        return random.uniform(0, 2, (n, 1)) * np.arange(51) / 100

    random = np.random.default_rng(0)
    found = [control.loosest(shares(100), 0.1, 0.95) / 100 for _ in range(300)]
    assert np.mean([risk <= 0.1 for risk in found]) >= 0.95
    assert np.mean(found) > 0.02  # it is of some use


@given(st.floats(1e-4, 0.9), st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99]))
def test_as_many_as_are_needed_hold_a_promise_and_one_less_does_not(delta, confidence):
    n = control.needed(delta, confidence)
    assert control.holds(np.zeros(n), delta, confidence)
    assert control.smallest_delta(n, confidence) <= delta + 1e-6
    if n > 1:
        assert not control.holds(np.zeros(n - 1), delta - 1e-6, confidence)
        assert control.smallest_delta(n - 1, confidence) > delta - 1e-6


@pytest.mark.parametrize('delta, confidence, n', [
    (0.1, 0.0, 9), (0.01, 0.0, 99), (0.05, 0.0, 19), (0.1, 0.95, 29), (0.05, 0.95, 59),
    (0.01, 0.95, 299), (0.9, 0.0, 1)])
def test_how_many_episodes_a_promise_takes(delta, confidence, n):
    assert control.needed(delta, confidence) == n


def test_a_hundred_episodes_promise_nothing_below_one_percent():
    assert control.smallest_delta(100, 0.0) == pytest.approx(1 / 101)
    assert control.smallest_delta(100, 0.95) == pytest.approx(0.02951, abs=1e-5)


def test_the_formula_of_conformal_risk_control():
    losses = np.zeros(19)
    losses[0] = 1.0  # 19/20 · 1/19 + 1/20 = 0.1
    assert control.holds(losses, 0.1, 0.0)
    assert not control.holds(losses, 0.0999, 0.0)


def test_the_interval_of_an_exact_binomial():
    losses = np.zeros(47)  # P(at most 1 of 47 | 0.1) = 0.0439; of 46 it is 0.0481, of 45 0.0524
    losses[0] = 1.0
    assert control.holds(losses, 0.1, 0.95)
    assert control.holds(losses[:46], 0.1, 0.95)
    assert not control.holds(losses[:45], 0.1, 0.95)


def test_a_loss_that_falls_again_counts_as_its_largest_so_far():
    assert control.monotone(np.array([[0., 1, 0, 0], [0, 0, 0, 1]])).tolist() == [
        [0, 1, 1, 1], [0, 0, 0, 1]]


def test_nothing_holds_where_even_the_tightest_loses():
    assert control.loosest(np.ones((100, 3)), 0.1, 0.0) is None
    assert all(split.column is None and split.risk == 0
               for split in control.splits(np.ones((100, 3)), 0.1, 0.0, 3, 0))
