"""A head learns in shadow, is used when it is better, and is taken back when it is worse."""
import numpy as np
import pytest
import torch

from specvla_ros.errors import SpecVLAError
from specvla_ros.learning import learner as module
from specvla_ros.learning.contest import Contest
from specvla_ros.learning.settings import IdleSettings, LearnerSettings


def numbers(head):
    return [parameter.clone() for parameter in head.parameters()]


def same(head, before):
    return all(torch.equal(a, b) for a, b in zip(head.parameters(), before, strict=True))


def test_what_is_guessed_right_already_is_left_alone(make_world):
    world = make_world()
    before = numbers(world.head)
    world.act(150)
    assert world.changes == [] and same(world.head, before)
    assert world.learner._learned == 3 * 150 and world.learner.state.used == 1.0


def test_when_the_world_drifts_a_new_head_is_used_and_guesses_better(make_world):
    world = make_world()
    world.truth = world.other
    was = world.right()
    world.act(200)
    assert world.changes and not any(change.taken_back for change in world.changes)
    first = world.changes[0]
    assert first.passes.after < first.passes.before and first.passes.is_less
    # At least a window to learn from, and a window to be tried on.
    assert first.sequence > 2 * world.settings.window
    assert world.right() > max(0.9, was)
    state = world.learner.state
    assert (state.swaps, state.last) == (len(world.changes), world.changes[-1])
    assert state.used < state.loaded
    text = str(first)
    assert text.startswith(f'head {first.number} that was learned while running is used from '
                           f'action {first.sequence} on: ')
    assert text.count('\n') == 0 and '% (95 %: ' in text


def test_when_it_drifts_back_the_loaded_head_is_taken_back(make_world):
    world = make_world(actions=60)
    before, world.truth = numbers(world.head), world.other
    world.act(120)
    assert world.changes and not same(world.head, before)
    # The old world again, and no time to learn: what is in use is only watched.
    world.learner._shadow.learn = lambda *_: None
    world.truth, count = made_loaded(world), len(world.changes)
    world.act(120)
    back = [change for change in world.changes[count:] if change.taken_back]
    assert back and back[-1] is world.changes[-1] and back[-1].number == 0
    assert back[0].passes.after < back[0].passes.before
    assert same(world.head, before)  # to the bit
    assert 'the head as it was loaded is taken back from action' in str(back[-1])
    assert world.learner.state.taken_back == len(back)
    assert world.learner.head_in_use is None


def made_loaded(world):
    return world.learner._loaded


def test_a_shadow_that_gets_worse_is_never_used_and_begins_anew(make_world, monkeypatch):
    world = make_world()
    before = numbers(world.head)
    learn, restarts = world.learner._shadow.learn, []

    def spoil(features, columns):
        learn(features, (columns + 3) % 6)

    world.learner._shadow.learn = spoil
    restart = world.learner._shadow.restart
    world.learner._shadow.restart = lambda head: (restarts.append(head), restart(head))
    world.act(200)
    assert world.changes == [] and same(world.head, before)
    assert restarts and world.learner.state.number == 0


def test_nothing_is_measured_on_what_was_learned_from(make_world, monkeypatch):
    world, order = make_world(), []
    contest, kept = world.learner._contest, world.learner._kept
    measure, put = contest.measure, kept.put
    monkeypatch.setattr(contest, 'measure', lambda features, columns: (
        order.extend(('measured', row.tobytes()) for row in features.astype(np.float16)),
        measure(features, columns)))
    monkeypatch.setattr(kept, 'put', lambda features, columns: (
        order.append(('kept', features.tobytes())), put(features, columns)))
    world.seen = world.random.normal(size=(4000, 8)).astype(np.float16)
    world.act(60)
    places = {event: number for number, event in enumerate(order)}
    kept_ones = [event for event in order if event[0] == 'kept']
    assert len(kept_ones) == 60
    assert all(places['measured', what] < places['kept', what] for _, what in kept_ones)


def test_weights_in_use_change_only_where_the_acting_thread_says_so(make_world):
    world = make_world()
    world.truth = world.other
    before = numbers(world.head)
    for _ in range(200):  # acts, but never lets a change happen
        features = world.seen[[world.random.integers(len(world.seen))]]
        world.learner.take(features[0], world.said(world.truth, features)[0].astype(np.int16))
        while world.learner.has_work:
            world.learner.step()
    assert same(world.head, before) and world.learner._order is not None
    change = world.learner.carry_out(7)
    assert change.sequence == 7 and not same(world.head, before)
    assert world.learner.carry_out(8) is None  # once


def test_memory_is_bounded_however_long_it_runs(make_world):
    world = make_world(actions=50, window=40)
    held = world.learner.nbytes
    for _ in range(500):  # nobody has time
        world.take()
    assert len(world.learner._fresh) == 40
    world.act(300)
    assert world.learner.nbytes == held == 50 * (2 * 8 + 2 * 7)
    assert world.learner.state.kept == 50 and world.learner._owed <= 3 * 50
    assert len(world.learner._contest.used) <= 3
    assert all(len(it.passes) <= 40 for it in world.learner._contest.used)


def test_a_robot_at_rest_is_not_learned_from_for_ever(make_world):
    world = make_world()
    world.act(50)
    assert not world.learner.has_work
    assert world.learner.state.steps <= 50 * module._STEPS_AN_ACTION


def test_of_the_heads_before_the_loaded_one_is_never_forgotten(make_world):
    world = make_world()
    contest = Contest(world.head, 40)
    for number in range(1, 6):
        contest.nominate(world.other, number)
        contest.put_in_use(contest.candidate)
    assert [it.number for it in contest.used] == [0, 4, 5]
    contest.put_in_use(contest.used[0])
    assert [it.number for it in contest.used] == [0]


@pytest.mark.parametrize('settings', [dict(window=9), dict(actions=100, window=101)])
def test_bounds_that_can_not_be_are_refused(settings):
    with pytest.raises(SpecVLAError, match='must be at least 10, and at most as many as are kept'):
        LearnerSettings(**settings)


@pytest.mark.parametrize('settings', [dict(threads=0), dict(share=0.0), dict(share=1.1)])
def test_so_is_a_share_of_nothing(settings):
    with pytest.raises(SpecVLAError, match='must be at least 1, and above 0 to 1'):
        IdleSettings(**settings)
