"""The switch by the end effector's path: the metric, who plays, and what is forgotten."""

import numpy as np
import pytest

from specvla_ros.decoding.drafters import (
    DraftContext,
    DRAFTERS,
    Held,
    HistoryDrafter,
    HybridKinematic,
    Jacobi,
    NoDrafter,
    RelayDrafter,
)
from specvla_ros.decoding.drafters.hybrid_kinematic import fused_metric
from specvla_ros.errors import SpecVLAError
from specvla_ros.situation import Situation


def arc(radius, steps=15, length=0.01):
    """Steps [n, 3] along a circle, m."""
    angles = np.arange(steps) * length / radius
    return length * np.stack((np.cos(angles), np.sin(angles), 0 * angles), axis=1)


def test_straight_and_long_is_one_and_standing_still_zero():
    straight = np.tile([0.01, 0, 0], (15, 1))
    assert fused_metric(straight, longest=0.15, alpha=0.5) == pytest.approx(1)
    assert fused_metric(0 * straight, longest=0.15, alpha=0.5) == 0
    assert fused_metric(straight, longest=0.3, alpha=0) == pytest.approx(0.5)


def test_the_radius_is_that_of_the_circle_and_smaller_where_the_path_bends_more():
    for radius in (0.02, 0.1, 1.0):
        curved = fused_metric(arc(radius), longest=1, alpha=1)
        assert curved == pytest.approx(radius / (radius + 0.15), rel=0.01)


def test_a_path_that_turns_back_and_forth_is_bent_however_long():
    shaking = np.tile([[0.01, 0, 0], [-0.01, 0, 0]], (8, 1))
    assert fused_metric(shaking, longest=0.16, alpha=1) < 0.05


@pytest.fixture
def play(lab):
    """Relay of two that hold an action, the switch between; its metric and who plays, by step."""
    it = lab(0, 7, 1)
    switch = HybridKinematic().drafter(None)
    before, behind, go_on = HistoryDrafter(Held()), NoDrafter(), Jacobi().drafter(None)
    relay = RelayDrafter([before, switch, behind, go_on])

    def play(values, positions=None):
        tokens = it.space.tokenizer.encode(np.array(values)).tolist()
        relay.remember(tokens)
        context = DraftContext(None, it.space, None, [], Situation(eef_position=positions))
        relay.guess(context)
        return switch.metric, [name for name, drafter in (
            ('before', before), ('behind', behind), ('go on', go_on)) if drafter in relay._playing]

    play.relay = relay
    return play


def test_a_straight_fast_path_is_retrievals_and_a_slow_shaking_one_the_drafters(play):
    fast = [play([1.0, 1.0, -1.0, 0, 0, 0, 1]) for _ in range(16)]
    assert fast[0] == (None, ['behind', 'go on'])  # too little is known
    assert fast[-1][0] == pytest.approx(1, abs=0.02) and fast[-1][1] == ['before', 'go on']
    slow = [play([(-1) ** step * 0.05, 0, 0, 0, 0, 0, 1]) for step in range(16)]
    assert slow[-1][0] < 0.1 and slow[-1][1] == ['behind', 'go on']


def test_where_the_position_is_known_it_is_what_counts(play):
    metrics = [play([1.0, 1.0, 1.0, 0, 0, 0, 1], (0.5, 0.0, 0.2)) for _ in range(16)]
    assert metrics[-1] == (0.0, ['behind', 'go on'])  # told to go, but it stands still


@pytest.mark.parametrize('knows_position', [True, False])
@pytest.mark.parametrize('executed', [1, 4])
def test_of_overlapping_chunks_only_the_steps_executed_make_the_path(
        lab, executed, knows_position):
    """Full speed, straight ahead: F is 1 however many steps of each chunk are executed."""
    it, switch = lab(0, 7, 4), HybridKinematic(window=6).drafter(None)
    full, metrics = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], []
    back = [-1.0, *full[1:]]
    said = it.space.tokenizer.encode(np.array(full * executed + back * (4 - executed))).tolist()
    per_step = (it.space.tokenizer.n_bins - 1) / 2
    for number in range(9):
        place = (number * executed * per_step, 0.0, 0.0) if knows_position else None
        switch.players([switch], DraftContext(
            None, it.space, None, [], Situation(eef_position=place, executed=executed)))
        metrics.append(switch.metric)
        switch.remember(said)
        switch.note_executed(executed)
    # One axis of three at full speed.
    assert metrics[-1] == pytest.approx(0.5 + 0.5 / np.sqrt(3), abs=0.01)


def test_a_new_episode_has_no_path(play):
    for _ in range(16):
        play([1.0, 1.0, -1.0, 0, 0, 0, 1])
    play.relay.reset()
    assert play([1.0, 1.0, -1.0, 0, 0, 0, 1]) == (None, ['behind', 'go on'])


@pytest.mark.parametrize('setting', [
    {'window': 2}, {'window': 1.5}, {'alpha': -0.1}, {'alpha': 'x'}, {'threshold': 1.1},
    {'threshold': float('nan')}])
def test_settings_that_cannot_be_are_refused(setting):
    with pytest.raises(SpecVLAError, match='of the drafter hybrid_kinematic is'):
        DRAFTERS.make('hybrid_kinematic', setting)
