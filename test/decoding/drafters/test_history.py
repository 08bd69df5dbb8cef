"""Drafters that guess from earlier actions: what they guess, when, and that it is lossless."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from specvla_ros.configuration import load_preset
from specvla_ros.decoding.drafters import (
    ConstantVelocity,
    DraftContext,
    Held,
    HistoryDrafter,
    make_drafter,
    RelayDrafter,
    TreeBudget,
)
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.decoding.tree import TokenTree
from specvla_ros.errors import SpecVLAError
from specvla_ros.situation import Situation


def ids(layout, *values):
    """Token ids of normalised values."""
    return layout.tokenizer.encode(np.array(values)).tolist()


def values(layout, tokens):
    """Normalised values of token ids."""
    return layout.tokenizer.decode(np.array(list(tokens))).tolist()


def context(it, *known):
    """Return a context with some tokens known; these drafters never look at the target."""
    return DraftContext(None, it.space, None, list(known))


def test_nothing_is_guessed_before_the_first_action(lab):
    it = lab(0, 7, 1)
    for motion in (Held(), ConstantVelocity()):
        assert len(HistoryDrafter(motion).guess(context(it))) == 0


def test_held_guesses_the_last_action_but_for_its_last_token(lab):
    it = lab(0, 4, 1)
    drafter = HistoryDrafter(Held())
    drafter.remember([290, 291, 292, 293])
    drafter.remember([280, 281, 282, 283])
    assert drafter.guess(context(it)).tokens.tolist() == [280, 281, 282]
    assert drafter.propose(context(it, 99)).tokens.tolist() == [281, 282]
    assert len(drafter.propose(context(it, 99, 98, 97))) == 0


def test_constant_velocity_goes_on_as_the_last_two_steps_did(lab):
    it = lab(0, 4, 1)
    drafter = HistoryDrafter(ConstantVelocity())
    drafter.remember(ids(it.space, -0.5, 0.2, 0.9, 1.0))
    drafter.remember(ids(it.space, -0.3, 0.2, 0.99, 1.0))
    guessed = values(it.space, drafter.guess(context(it)).tokens)
    assert guessed == pytest.approx([-0.1, 0.2, 1.0], abs=2 / 255)


def test_a_chunk_goes_on_step_by_step_with_the_gripper_held(lab):
    it = lab(0, 2, 3)
    drafter = HistoryDrafter(ConstantVelocity())
    drafter.remember(ids(it.space, -0.9, 1.0, -0.4, 1.0, -0.3, -1.0))
    guessed = values(it.space, drafter.guess(context(it)).tokens)
    assert guessed == pytest.approx([-0.2, -1.0, -0.1, -1.0, 0.0], abs=3 / 255)


@pytest.mark.parametrize(('executed', 'expected'), [
    (1, [-0.4, 1.0, -0.3, -1.0, -0.2]),  # what is left of the last chunk, then as it went on
    (2, [-0.3, -1.0, -0.2, -1.0, -0.1]), (3, [-0.2, -1.0, -0.1, -1.0, 0.0]),
    (None, [-0.2, -1.0, -0.1, -1.0, 0.0]), (0, [-0.9, 1.0, -0.4, 1.0, -0.3])])
def test_the_last_chunk_is_guessed_again_shifted_by_what_was_executed(lab, executed, expected):
    it = lab(0, 2, 3)
    for before in ((), (0.3, 1.0, 0.4, 1.0, 0.5, 1.0)):  # older ones are no part of it
        drafter = HistoryDrafter(ConstantVelocity())
        if before:
            drafter.remember(ids(it.space, *before))
        drafter.remember(ids(it.space, -0.9, 1.0, -0.4, 1.0, -0.3, -1.0))
        now = replace(context(it), situation=Situation(executed=executed))
        guessed = values(it.space, drafter.guess(now).tokens)
        assert guessed == pytest.approx(expected, abs=3 / 255)


def test_every_drafter_that_predicts_says_the_tail_of_a_chunk_again(lab):
    it = lab(0, 2, 3)
    for name in ('history', 'velocity', 'kalman'):
        drafter = make_drafter(name, {}, {})
        drafter.remember(ids(it.space, -0.9, 1.0, -0.4, 1.0, -0.3, -1.0))
        now = replace(context(it), situation=Situation(executed=1))
        guessed = values(it.space, drafter.guess(now).tokens)
        assert guessed[:4] == pytest.approx([-0.4, 1.0, -0.3, -1.0], abs=2 / 255), name
        assert len(guessed) == 5


@pytest.mark.parametrize('name', ['history', 'velocity', 'kalman'])
def test_overlapping_chunks_of_a_steady_motion_are_guessed_as_it_goes_on(lab, name):
    """Two of four steps are executed, the others said again: no step is seen twice."""
    it, drafter = lab(0, 2, 4), make_drafter(name, {}, {})
    for first in range(0, 12, 2):
        steps = [(-0.9 + 0.08 * (first + step), 1.0) for step in range(4)]
        drafter.remember(ids(it.space, *sum(steps, ())))
        drafter.note_executed(2)
    now = replace(context(it), situation=Situation(executed=2))
    guessed = values(it.space, drafter.guess(now).tokens)[::2]
    steady = [-0.9 + 0.08 * (12 + step) for step in range(4)]
    right = [*steady[:2], steady[1], steady[1]] if name == 'history' else steady
    assert guessed == pytest.approx(right, abs=0.05)


def test_what_stood_still_keeps_its_token_even_where_two_ids_mean_the_same(lab):
    it = lab(0, 2, 1)
    lowest = it.space.tokenizer.first_id
    for token in (lowest, lowest + 1):
        drafter = HistoryDrafter(ConstantVelocity())
        drafter.remember([token, lowest])
        drafter.remember([token, lowest])
        assert drafter.guess(context(it)).tokens.tolist() == [token]


def test_a_reset_forgets(lab):
    it = lab(0, 3, 1)
    relay = RelayDrafter([HistoryDrafter(Held()), HistoryDrafter(ConstantVelocity())])
    relay.remember([290, 291, 292])
    assert len(relay.guess(context(it))) == 2
    relay.reset()
    assert len(relay.guess(context(it))) == 0


def test_a_relay_merges_the_guesses_and_the_last_one_goes_on(lab):
    it = lab(0, 4, 1)
    relay = make_drafter('history+velocity', {}, {})
    relay.remember(ids(it.space, 0.0, 0.0, 0.0, 1.0))
    relay.remember(ids(it.space, 0.0, 0.5, 0.0, 1.0))
    tree = relay.guess(context(it))
    assert tree.parents.tolist() == [-1, 0, 1, 0, 3]
    assert tree.sources == ('history',) * 3 + ('velocity',) * 2
    assert relay.propose(context(it, 99)).sources == ('velocity',) * 2


@given(data=st.data(), seed=st.integers(0, 2**20))
@settings(max_examples=40, deadline=None)
def test_strict_is_ar_whatever_was_remembered(data, seed, lab):
    layout = data.draw(st.tuples(st.integers(1, 8), st.integers(1, 3)))
    it = lab(seed % 4, *layout)
    random, tokenizer = np.random.default_rng(seed), it.space.tokenizer
    drafter = RelayDrafter([
        HistoryDrafter(Held()), HistoryDrafter(ConstantVelocity()),
        it.eagle(seed, TreeBudget(2, 3, 8))])
    right = it.ar()
    for _ in range(data.draw(st.integers(0, 2))):
        off = random.choice([0, 0, 0, -1, 1, 9], len(right))
        drafter.remember(np.clip(right + off, tokenizer.first_id, tokenizer.last_id).tolist())
    decoder = it.decoder(drafter, Strict())
    assert decoder.decode(*it.prompt)[0] == right


def test_a_right_guess_leaves_the_prefill_alone(lab):
    it = lab(1, 7, 1)
    drafter = HistoryDrafter(Held())
    drafter.remember(it.ar())
    tokens, trace = it.decode(drafter, Strict())
    assert tokens == it.ar()
    assert trace.target_passes == 1
    assert trace.sources == ['history'] * 6 + ['target']


def test_merged_trees_share_their_beginnings():
    first = TokenTree.from_paths([[1, 2], [1, 3]], 'first')
    second = TokenTree.from_paths([[4], [1, 3, 5]], 'second')
    tree = TokenTree.merge([first, TokenTree.empty(), second])
    assert tree.tokens.tolist() == [1, 2, 3, 4, 5]
    assert tree.parents.tolist() == [-1, 0, 0, -1, 2]
    assert tree.sources == ('first', 'first', 'first', 'second', 'second')
    assert len(TokenTree.merge([])) == 0


def test_the_presets_name_relays():
    for name in ('history', 'history_relaxed', 'glance', 'hybrid', 'hybrid_relaxed'):
        config = load_preset(name)
        settings = config.drafter.settings_on('cuda')
        assert all(part in config.drafter.name.split('+') for part in settings)


@pytest.mark.parametrize(('name', 'settings', 'message'), [
    ('history+nonsense', {}, r"drafter is 'nonsense', must be one of \['eagle', 'glance'"),
    ('history+velocity', {'eagle': {}}, r"settings for \['eagle'\], must be for some of"),
    ('history+velocity', {'history': 3}, r'settings of the drafter history are 3'),
    ('history', {'depth': 3}, r'drafter history has no setting depth'),
])
def test_bad_configuration_gets_one_clear_line(name, settings, message):
    with pytest.raises(SpecVLAError, match=message):
        make_drafter(name, settings, {})
