"""A policy's drafter learns from its words: what is taken in, what is said, what is kept."""
from dataclasses import replace
import math
import shutil

import numpy as np
import pytest
import torch

from specvla_ros.drafter_folders import beside
from specvla_ros.embedded import DEFAULT_CHECKPOINT
from specvla_ros.errors import SpecVLAError
from specvla_ros.learning import learned_folder
from specvla_ros.learning.learned_folder import check_learned_folder
from specvla_ros.learning.learner import Learner
from specvla_ros.learning.online import OnlineLearning
from specvla_ros.learning.paired import Paired
from specvla_ros.learning.settings import LearnerSettings, OnlineSettings
from specvla_ros.learning.shadow import cpu_copy
from specvla_ros.policy import Policy

SETTINGS = OnlineSettings(LearnerSettings(actions=40, window=20))
PRESENT = beside(DEFAULT_CHECKPOINT)
TOLD = 'pick up the milk and place it in the basket'


@pytest.fixture
def policy():
    return Policy.load(decoder='glance')


@pytest.fixture
def make(policy):
    """Give a function that lets a policy learn; it is asked for, never by chance."""
    made = []

    def make(settings=SETTINGS, under=policy):
        lines = []
        learning = OnlineLearning(under, settings, lines.append)
        learning.lines = lines
        made.append(learning)
        return learning

    yield make
    for learning in made:
        learning.end()


def image(seed):
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)


def act(learning, policy, seed, sequence=1):
    action = policy.act(image(seed), TOLD)
    learning.mark(action.trace)
    learning.note(policy, action, TOLD, sequence)
    return action


def order(learner, scale=0.5):
    """Let a head with other weights have proved better."""
    head = cpu_copy(learner._head)
    head.shapes.weight.mul_(scale)
    head.first.bias.add_(0.5)
    learner._contest.nominate(head, 1)
    learner._order = learner._contest.candidate, Paired.of([3.0] * 4, [2.0, 2.1, 2.0, 1.9])
    return head


def test_tokens_are_the_same_before_and_after_and_the_report_says_who_guessed(policy, make):
    exact, learning = policy.with_decoder('ar'), make()
    learning.rest()  # nobody has time: the order below is ours
    before = [act(learning, policy, seed) for seed in range(3)]
    assert [it.trace.reason for it in before] == ['', '', '']
    order(learning.learner)
    act(learning, policy, 3, sequence=17)
    after = [act(learning, policy, seed) for seed in range(3)]
    right = [exact.act(image(seed), TOLD).tokens for seed in range(3)]
    assert [it.tokens for it in before] == [it.tokens for it in after] == right
    assert {it.trace.reason for it in after} == {
        'glance learned while running, in use since action 17'}
    assert learning.lines == [
        'glance: head 1 that was learned while running is used from action 17 on: 3.00 → 2.00 '
        'passes an action by its guesses alone, -33 % (95 %: -38 to -29)']


def test_words_are_taken_in_with_what_was_seen_and_only_where_there_is_time(policy, make):
    learning = make()
    taken = []
    learning.learner.take = lambda features, columns: taken.append((features, columns))
    act(learning, policy, 0)  # before `listen` nobody says that there is time
    learning.listen(lambda: 0.0005)
    act(learning, policy, 0)
    assert taken == []
    learning.listen(lambda: math.inf)
    action = act(learning, policy, 0)
    (features, columns), = taken
    config = learning.learner._head.config
    assert features.shape == ((config.patches + 1) * config.rank,)
    assert features.dtype == np.float16 and columns.dtype == np.int16
    first = policy.checkpoint.space.tokenizer.first_id
    assert tuple(columns + first) == action.tokens
    # What is kept is what the drafter looked at: the same guess comes of it.
    guess = cpu_copy(learning.learner._head).guess(
        torch.from_numpy(features.astype(np.float32))[None]).argmax(-1)[0]
    drafter = policy._decoder.drafter.drafters[1]
    assert np.array_equal(guess.numpy() + first, drafter._guessed[0].numpy())


def test_an_action_that_a_guard_changed_is_not_the_targets_own_word(policy, make):
    learning = make()
    learning.listen(lambda: math.inf)
    action = policy.act(image(0), TOLD)
    for change in ({'forbidden': 1}, {'bins_off': [0] * 6 + [2]}, {'bins_off': [None] * 7}):
        learning.note(policy, replace(action, trace=replace(action.trace, **change)), TOLD, 1)
    learning._thread.end()
    assert learning.learner.state.kept == 0 and not learning.learner._fresh


@pytest.mark.parametrize('decoder, reason', [
    ('glance_relaxed', 'decoder glance_relaxed is relaxed, so what the target itself would have '
     'said is not known; set decoder to auto or glance'),
    ('auto_relaxed', 'decoder auto_relaxed is relaxed, so'),
    ('kerv', 'decoder kerv (unverified) is unverified, so'),
    ('history', 'decoder history does not draft with glance; set decoder to auto or glance'),
    ('ar', 'decoder ar does not draft with glance'),
])
def test_where_nothing_is_learned_one_line_says_why(policy, make, decoder, reason):
    other = policy.with_decoder(decoder)
    learning = make(under=other)
    learning.listen(lambda: math.inf)
    for seed in range(2):
        act(learning, other, seed)
    line, = learning.lines
    assert line.startswith(f'adapt: nothing is learned: {reason}')
    assert learning.facts()['learning'].startswith(f'nothing: {reason}')
    assert not learning.learner._fresh
    act(learning, policy, 0)  # the decoder is changed
    assert 'kept' in learning.facts()['learning']
    act(learning, other, 0)
    assert len(learning.lines) == 2


@pytest.mark.parametrize('decoder', ['auto', 'glance'])
def test_under_a_lossless_decoder_something_is(policy, make, decoder):
    learning = make(under=policy.with_decoder(decoder))
    assert learning.lines == [] and learning.facts()['learned head in use'] == 'none'


def test_without_weights_of_glance_nothing_is_learned(tmp_path, make):
    policy = Policy.load(decoder='history', drafter=tmp_path)
    learning = make(under=policy)
    assert 'there are no weights of glance: `specvla adapt` makes' in learning.lines[0]
    act(learning, policy, 0)
    assert learning.facts()['learning'].startswith('nothing: there are no weights')


def test_learning_that_fails_ends_and_acting_goes_on(policy, make, monkeypatch):
    monkeypatch.setattr(Learner, 'step', lambda self: 1 / 0)
    learning = make()
    learning.listen(lambda: math.inf)
    act(learning, policy, 0)
    learning._thread._thread.join(60)
    assert learning.lines == [
        'glance learns no more, acting goes on: ZeroDivisionError: division by zero']
    assert act(learning, policy, 1).tokens
    assert 'ZeroDivisionError' in learning.facts()['learning']


def test_the_learned_head_is_kept_whole_with_a_card_and_acts(policy, make, tmp_path):
    out = tmp_path / 'learned'
    learning = make(replace(SETTINGS, out=out))
    learning.listen(lambda: math.inf)
    act(learning, policy, 0)
    head = order(learning.learner)
    act(learning, policy, 1, sequence=3)
    learning.end()
    assert learning.lines[-1] == (
        f'adapt_out: the learned head is in {out}: use it with drafter:={out}')
    assert {it.name for it in out.iterdir()} == {it.name for it in PRESENT.iterdir()}
    card = (out / 'glance' / 'README.md').read_text()
    assert f'* {TOLD}' in card and 'Heads put in use: 1; taken back: 0.' in card
    assert 'is used from action 3 on: 3.00 → 2.00' in card
    kept = Policy.load(decoder='glance', drafter=out)
    assert kept.act(image(2), TOLD).tokens == policy.act(image(2), TOLD).tokens
    assert np.array_equal(kept.checkpoint.drafter_weights('glance').shapes.weight,
                          head.shapes.weight)
    check_learned_folder(out, PRESENT)  # the next run may write there again
    assert list(tmp_path.iterdir()) == [out]


def test_a_full_disk_is_one_line_and_leaves_what_was_there(policy, make, tmp_path, monkeypatch):
    out = tmp_path / 'learned'
    learning = make(replace(SETTINGS, out=out))
    order(learning.learner)
    act(learning, policy, 0)
    monkeypatch.setattr(learned_folder.shutil, 'copytree', lambda *_: (
        _ for _ in ()).throw(OSError(28, 'No space left on device')))
    learning.end()
    assert learning.lines[-1].startswith(
        f'adapt_out: the learned head is lost: cannot write {out}: No space left on device')
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_was_learned_nothing_is_written(policy, make, tmp_path):
    learning = make(replace(SETTINGS, out=tmp_path / 'learned'))
    act(learning, policy, 0)
    learning.end()
    assert learning.lines[-1].endswith('no learned head is in use')
    assert list(tmp_path.iterdir()) == []


def test_nothing_else_is_ever_replaced(tmp_path):
    mine = tmp_path / 'mine'
    mine.mkdir()
    (mine / 'thesis.txt').write_text('')
    (tmp_path / 'file').write_text('')
    present = shutil.copytree(PRESENT, tmp_path / 'drafters')
    for folder, message in ((mine, 'holds what was not learned while running'),
                            (tmp_path / 'file', 'is a file; choose a folder'),
                            (present, 'where the drafters in use stand'),
                            (present / 'glance', 'where the drafters in use stand'),
                            (tmp_path, 'where the drafters in use stand')):
        with pytest.raises(SpecVLAError, match=message) as error:
            check_learned_folder(folder, present)
        assert '\n' not in str(error.value)
