"""Acceptance lengths with intervals: the paper's definition, over episodes, by position."""

import numpy as np
import pytest

from specvla_ros.benchmark.acceptance_figures import acceptance
from specvla_ros.benchmark.bootstrap import difference_interval, ratio_intervals


def test_length_shares_and_positions_of_known_passes(make):
    """Verifications gain 2, 1, 3 and 6 tokens: they accept 1, 0, 2 and 5, and begin at y, …"""
    figures = acceptance([make.episode(actions=[make.action((2, 1, 3))]),
                          make.episode(state=1, actions=[make.action((6,)), make.action((6,))])])
    assert figures['episodes'] == 2
    assert figures['length']['value'] == pytest.approx((2 + 1 + 3 + 6 + 6) / 5)
    assert figures['length']['n'] == 5
    assert [share['value'] for share in figures['shares']] == [0.2, 0.2, 0.2, 0.0, 0.0, 0.4]
    at = figures['by_token']
    assert {name: (each['value'], each['n']) for name, each in at.items()} == {
        'y': (pytest.approx(11 / 3), 3), 'roll': (0, 1), 'pitch': (2, 1)}


def test_tokens_that_come_with_the_prefill_or_that_nobody_verifies_move_no_position(make):
    """Three tokens of the prefill: the verification begins at roll; with a completion, too."""
    import dataclasses
    three = make.action((4,))
    completed = dataclasses.replace(make.action((2,)), unverified=2)
    for action in (three, completed):
        assert list(acceptance([make.episode(actions=[action])])['by_token']) == ['roll']


def test_control_steps_of_a_chunk_are_taken_together(make):
    action = make.action((6, 1, 6), tokens=range(14))
    at = acceptance([make.episode(actions=[action])])['by_token']
    assert {name: each['n'] for name, each in at.items()} == {'y': 2, 'x': 1}
    assert at['y']['value'] == 5 and at['x']['value'] == 0


def test_an_interval_is_over_episodes_however_many_actions_they_have(make):
    few, many = ([make.episode(state=state, actions=[make.action(lengths)] * n)
                  for state, lengths in enumerate([(1,) * 6, (6,)] * 4)] for n in (1, 50))
    narrow, wide = (acceptance(episodes)['length']['interval'] for episodes in (few, many))
    assert narrow == pytest.approx(wide)
    assert wide[0] < 1.3 and wide[1] > 2.0


def test_alike_episodes_have_a_narrow_interval_and_one_episode_has_none(make):
    alike = [make.episode(state=state, actions=[make.action((3, 3))]) for state in range(5)]
    assert acceptance(alike)['length']['interval'] == [3, 3]
    assert acceptance(alike[:1])['length'] == {'value': 3, 'interval': None, 'n': 2}


def test_no_verification_and_crashed_episodes_give_nothing(make):
    assert acceptance([]) == acceptance([make.episode(actions=[make.action(())])]) == {}
    crashed = make.episode(crash='x', success=False, actions=[make.action((6,))])
    assert acceptance([crashed, make.episode(actions=[make.action((2, 4))])])['length'] == {
        'value': 3, 'interval': None, 'n': 2}


def test_the_interval_holds_the_true_ratio_in_nineteen_of_twenty_runs():
    """Episodes of unlike length with a ratio of their own: the mean over all is 3."""
    random, held = np.random.default_rng(0), 0
    for seed in range(300):
        passes = random.integers(50, 150, 40).astype(float)
        gained = passes * random.normal(3, 0.5, 40)
        (low, high), = ratio_intervals(gained[:, None], passes[:, None], seed)
        held += low <= 3 <= high
    assert 0.90 <= held / 300 <= 0.98


def test_a_difference_draws_the_same_episodes_of_both():
    """Hard episodes are hard for both: paired, a steady difference is sure."""
    passes = np.full(20, 10.0)
    hard = np.linspace(1, 5, 20)
    one, other = (np.stack((passes * (hard + more), passes), axis=1) for more in (0.5, 0.0))
    assert difference_interval(one, other) == pytest.approx([0.5, 0.5])
    assert difference_interval(one[:1], other[:1]) is None
