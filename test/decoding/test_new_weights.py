"""A drafter's weights change between two actions: the tokens stay, the guesses are new."""
import copy

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from specvla_ros.auto.auto_decoder import AutoDecoder
from specvla_ros.auto.choice import Choice
from specvla_ros.decoding.drafters import (
    GlanceDrafter,
    GlanceSettings,
    Held,
    HistoryDrafter,
    Jacobi,
    JacobiDrafter,
    NoDrafter,
    RelayDrafter,
)
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.learning.passes import passes_alone
from specvla_ros.learning.shadow import put_in_place


def changed(head, seed=9):
    """The same head with other numbers in all layers that learn."""
    other = copy.deepcopy(head)
    torch.manual_seed(seed)
    with torch.no_grad():
        for layer in (other.first, other.second, other.mixture, other.shapes):
            layer.weight.normal_(std=2 * layer.weight.shape[1] ** -0.5)
    return other


@given(seed=st.integers(0, 5), chunk=st.integers(1, 2), near=st.integers(0, 255))
@settings(max_examples=30, deadline=None)
def test_the_count_without_a_target_is_what_a_target_takes(seed, chunk, near, lab):
    it = lab(seed, 7, chunk)
    right = it.ar()
    first = it.space.tokenizer.first_id

    class Told(GlanceDrafter):
        """Guesses what is right, but for a few tokens."""

        def _look(self, prompt, rows, *, space):
            wrong = torch.tensor([near >> n % 8 & 1 for n in range(len(right))])
            said = torch.tensor(right)
            return torch.where(wrong > 0, first + (said - first + 1) % 256, said)[None], \
                torch.ones(1, dtype=torch.bool)

    drafter = Told(it.glance(0).head, GlanceSettings())
    tokens, trace = it.decode(drafter, Strict())
    assert tokens == right
    guessed = drafter._guessed.numpy()
    assert passes_alone(guessed, np.array([right])).tolist() == [trace.target_passes]


@pytest.mark.parametrize('runner', ['plain', 'graphs'])
def test_the_tokens_are_the_same_before_and_after_and_the_guess_is_the_new_one(lab, runner):
    it = lab(1, 7, 1)
    glance = it.glance(3)
    new = changed(glance.head)
    decoder = it.decoder(
        RelayDrafter([HistoryDrafter(Held()), glance, JacobiDrafter(Jacobi())]), Strict(), runner)
    right, before = it.ar(), None
    for number in range(4):
        if number == 2:
            before = glance._guessed.clone()
            put_in_place(new, glance.head)
        tokens, _ = decoder.decode(*it.prompt)
        assert tokens == right
    fresh = it.decoder(GlanceDrafter(new, GlanceSettings()), Strict())
    fresh.decode(*it.prompt)
    assert torch.equal(glance._guessed, fresh.drafter._guessed)
    assert not torch.equal(glance._guessed, before)


def test_auto_forgets_what_the_old_guesses_were_worth_and_nothing_else(lab):
    it = lab(1, 7, 1)
    glance = it.glance(3)
    ar = it.decoder(NoDrafter(), Strict())
    relay = RelayDrafter([glance, JacobiDrafter(Jacobi())])
    auto = AutoDecoder({'ar': ar, 'history': it.decoder(HistoryDrafter(Held()), Strict()),
                        'glance': it.decoder(relay, Strict())})
    choose = auto.measured.next
    for name in ('ar', 'history', 'glance') * 3:
        auto.measured.next = lambda name=name: Choice(name, '')
        auto.remember(auto.decode(*it.prompt)[0])
    auto.measured.next = choose
    known, passes = dict(auto.measured.candidates), auto.measured.passes
    assert known['glance'].actions > 0
    guarded = auto.guarded(None)
    assert auto.note_new_weights(glance.head)
    assert not auto.note_new_weights(object())
    now = auto.measured.candidates
    assert now['glance'].actions == 0 and now['glance'].plan is None
    assert now['glance'].hits[0].at(0) == now['ar'].hits[0].__class__(7).at(0)
    assert now['ar'] is known['ar'] and now['history'] is known['history']
    assert auto.measured.passes is passes and guarded.measured is auto.measured
    auto.measured._lost.clear()  # else what was lost on a busy machine decides
    _, trace = auto.decode(*it.prompt)
    assert (trace.decoder, trace.reason[:21]) == ('glance', 'glance is looked at: ')


def test_a_relay_with_a_limit_forgets_its_hit_rates(lab):
    it = lab(1, 7, 1)
    glance = it.glance(3)
    relay = RelayDrafter([HistoryDrafter(Held()), glance], nodes=4)
    decoder = it.decoder(relay, Strict())
    for _ in range(3):
        decoder.remember(decoder.decode(*it.prompt)[0])
    assert relay.guesses.rates._rows
    assert not decoder.note_new_weights(object()) and relay.guesses.rates._rows
    assert decoder.note_new_weights(glance.head) and not relay.guesses.rates._rows
