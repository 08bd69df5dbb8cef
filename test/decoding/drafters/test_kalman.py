"""The Kalman drafter: what it predicts, holds and forgets, and that it is lossless."""

from copy import deepcopy
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from specvla_ros.auto.auto_decoder import AutoDecoder
from specvla_ros.components import CompletionConfig, Component
from specvla_ros.decoding.completion import Completion
from specvla_ros.decoding.drafters import DraftContext, DRAFTERS, NoDrafter, RelayDrafter
from specvla_ros.decoding.drafters.jacobi import Jacobi
from specvla_ros.decoding.drafters.kalman import Kalman, VelocityFilter
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.errors import SpecVLAError
from specvla_ros.situation import Situation

BIN = 2 / 255


def ids(layout, *values):
    """Token ids of normalised values."""
    return layout.tokenizer.encode(np.array(values)).tolist()


def guessed(drafter, it, known=()):
    """Normalised values of the guess; this drafter never looks at the target."""
    tree = drafter.guess(DraftContext(None, it.space, None, list(known)))
    return it.space.tokenizer.decode(tree.tokens.numpy()).tolist()


def test_nothing_is_guessed_before_the_first_action_and_the_first_is_held(lab):
    it, drafter = lab(0, 4, 1), Kalman().drafter(None)
    assert guessed(drafter, it) == []
    drafter.remember(ids(it.space, 0.3, -0.2, 1.0, -1.0))
    assert guessed(drafter, it) == pytest.approx([0.3, -0.2, 1.0], abs=BIN)


def test_a_steady_motion_goes_on_and_what_stands_still_is_held_to_the_token(lab):
    it, drafter = lab(0, 4, 1), Kalman().drafter(None)
    lowest = it.space.tokenizer.first_id
    for step in range(12):
        moving = ids(it.space, -0.9 + 0.1 * step)
        drafter.remember([*moving, lowest, *ids(it.space, 0.25, 1.0 if step % 2 else -1.0)])
    tree = drafter.guess(DraftContext(None, it.space, None, []))
    assert guessed(drafter, it)[0] == pytest.approx(-0.9 + 0.1 * 12, abs=3 * BIN)
    assert tree.tokens.tolist()[1:] == [lowest, *ids(it.space, 0.25)]


def test_a_chunk_goes_on_over_its_steps_with_the_gripper_held(lab):
    it, drafter = lab(0, 2, 4), Kalman().drafter(None)
    for first in range(0, 12, 4):
        steps = [(-0.9 + 0.08 * (first + step), 1.0 if first < 8 else -1.0) for step in range(4)]
        drafter.remember(ids(it.space, *sum(steps, ())))
    values = guessed(drafter, it)
    assert values[::2] == pytest.approx([-0.9 + 0.08 * step for step in range(12, 16)], abs=0.06)
    assert values[1::2] == pytest.approx([-1.0] * 3, abs=BIN)


def test_the_filter_smooths_noise_around_a_steady_motion_better_than_extrapolation():
    random, errors = np.random.default_rng(0), {'filter': 0.0, 'velocity': 0.0}
    motion = np.cumsum(np.full((200, 3), 0.004), axis=0) - 0.5
    seen = motion + random.normal(scale=0.03, size=motion.shape)
    kalman = VelocityFilter(seen[0], noise=5 * BIN, window=10)
    for before, last, truth in zip(seen[:-2], seen[1:-1], motion[2:], strict=True):
        kalman.update(last)
        errors['filter'] += np.abs(truth - kalman.value - kalman.velocity).sum()
        errors['velocity'] += np.abs(truth - 2 * last + before).sum()
    assert errors['filter'] < 0.7 * errors['velocity']


def test_a_dimension_that_jumps_is_followed_closely_while_a_steady_one_is_smoothed():
    random = np.random.default_rng(1)
    jumps = np.cumsum(random.normal(scale=0.3, size=300))
    steady = random.normal(scale=0.02, size=300)
    kalman = VelocityFilter(np.array([jumps[0], steady[0]]), noise=5 * BIN, window=10)
    moved = []
    for measured in np.stack((jumps, steady), axis=1)[1:]:
        expected = kalman.value + kalman.velocity
        kalman.update(measured)
        moved.append((kalman.value - expected) / (measured - expected))
    gain = np.median(moved[20:], axis=0)
    assert gain[0] > 0.95 > 0.8 > gain[1] > 0


def test_it_forgets(lab):
    it, drafter = lab(0, 3, 1), Kalman().drafter(None)
    for step in range(5):
        drafter.remember(ids(it.space, 0.1 * step, 0.5, 1.0))
    drafter.reset()
    assert guessed(drafter, it) == []
    fresh = Kalman().drafter(None)
    for each in (drafter, fresh):
        each.remember(ids(it.space, -0.5, 0.1, 1.0))
        each.remember(ids(it.space, -0.4, 0.2, 1.0))
    assert guessed(drafter, it) == guessed(fresh, it)


@given(data=st.data(), seed=st.integers(0, 2**20))
@settings(max_examples=40, deadline=None)
def test_each_step_of_overlapping_chunks_is_filtered_once(data, seed, lab):
    """As if each step that was executed had been an action; those left count on trial only."""
    chunk = data.draw(st.integers(2, 6))
    it, random = lab(0, 3, chunk), np.random.default_rng(seed)
    low, high = it.space.tokenizer.first_id, it.space.tokenizer.last_id
    drafter, single = Kalman().drafter(None), Kalman().drafter(None)
    for _ in range(data.draw(st.integers(1, 5))):
        said = random.integers(low, high + 1, (chunk, 3))
        executed = data.draw(st.integers(0, chunk))
        drafter.remember(said.ravel().tolist())
        drafter.note_executed(executed)
        for step in said[:executed]:
            single.remember(step.tolist())
        if data.draw(st.booleans()):
            continue  # of this action another drafter's guess was taken
        trial = deepcopy(single)
        for step in said[executed:]:
            trial.remember(step.tolist())
        right = [*said[executed:].ravel().tolist(), *trial.predict(it.space)[:3 * executed]]
        tree = drafter.guess(DraftContext(
            None, it.space, None, [], Situation(executed=executed)))
        assert tree.tokens.tolist() == right[:-1]


def test_a_policy_tells_every_drafter_what_was_executed(lab):
    """In a relay, as a completion and under auto: whoever guesses next, each step counts once."""
    it = lab(0, 2, 4)
    hidden, completing, resting = (Kalman().drafter(None) for _ in range(3))
    completion = Completion(CompletionConfig(Component('kalman'), every=100), completing)
    playing = it.decoder(RelayDrafter([hidden, NoDrafter()]), Strict())
    playing = replace(playing, completion=completion)
    auto = AutoDecoder({'ar': playing, 'other': it.decoder(resting, Strict())})
    said = [ids(it.space, *sum(((0.05 * k + 0.1 * n, 1.0) for k in range(4)), ()))
            for n in range(5)]
    for tokens in said:
        auto.remember(tokens)
        auto.note_executed(2)
    single = Kalman().drafter(None)
    for tokens in said:
        for step in (tokens[:2], tokens[2:4]):
            single.remember(step)
    for step in (said[-1][4:6], said[-1][6:]):
        single.remember(step)
    for drafter in (hidden, completing, resting):
        assert drafter.predict(it.space) == single.predict(it.space)


@pytest.mark.parametrize('setting', [
    {'window': 1}, {'window': 2.5}, {'window': True}, {'noise': 0}, {'noise': 'much'},
    {'noise': float('nan')}, {'noise': 256}])
def test_settings_that_cannot_be_are_refused(setting):
    with pytest.raises(SpecVLAError, match=f'{next(iter(setting))} of the drafter kalman'):
        DRAFTERS.make('kalman', setting)


@given(seed=st.integers(0, 3), layout=st.tuples(st.integers(1, 7), st.integers(1, 3)),
       random=st.integers(0, 2**20))
@settings(max_examples=25, deadline=None)
def test_strict_is_ar(seed, layout, random, lab):
    it, random = lab(seed, *layout), np.random.default_rng(random)
    right = it.ar()
    drafter = RelayDrafter([Kalman().drafter(None), Jacobi().drafter(None)])
    for _ in range(random.integers(0, 5)):
        off = random.integers(-3, 4, len(right)) * random.integers(0, 2)
        low, high = it.space.tokenizer.first_id, it.space.tokenizer.last_id
        drafter.remember([int(t) for t in np.clip(np.array(right) + off, low, high)])
    assert it.decode(drafter, Strict())[0] == right
