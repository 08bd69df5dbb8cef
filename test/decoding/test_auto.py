"""Several decoders on one target: whoever decodes, the tokens are right and all remember."""

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from specvla_ros.decoding.auto import AutoDecoder
from specvla_ros.decoding.choice import Choice
from specvla_ros.decoding.drafters import (
    DynamicTree,
    Glance,
    Held,
    HistoryDrafter,
    Jacobi,
    JacobiDrafter,
    NoDrafter,
    RelayDrafter,
)
from specvla_ros.decoding.rules.bins import Bins
from specvla_ros.decoding.rules.strict import Strict


def candidates(it, rule, runner='plain'):
    """Decoders on the target of the first, as a policy makes them."""
    ar = it.decoder(NoDrafter(), Strict(), runner)
    drafters = {
        'history': HistoryDrafter(Held()),
        'jacobi': JacobiDrafter(Jacobi()),
        'glance': RelayDrafter([HistoryDrafter(Held()), it.glance(3, Glance(branches=2)),
                                JacobiDrafter(Jacobi())]),
        'eagle': it.eagle(5, DynamicTree(2, 3, 6)),
    }
    made = {'ar': ar}
    for name, drafter in drafters.items():
        decoder = it.decoder(drafter, rule, runner)
        acceptance = decoder.acceptance
        made[name] = type(decoder)(
            ar.target, drafter, type(acceptance)(rule, None, it.space, ar.target))
    return made


@given(seed=st.integers(0, 3), chunk=st.integers(1, 2), picks=st.lists(
    st.sampled_from(['ar', 'history', 'jacobi', 'glance', 'eagle']), min_size=3, max_size=8),
    depths=st.lists(st.integers(0, 6), min_size=14, max_size=14))
@settings(max_examples=25, deadline=None)
def test_lossless_whoever_is_taken_and_however_deep_it_drafts(seed, chunk, picks, depths, lab):
    it = lab(seed, 7, chunk)
    auto, right = AutoDecoder(candidates(it, Strict())), it.ar()
    auto.measured.depths = lambda name: depths
    for name in picks:
        auto.measured.next = lambda name=name: Choice(name, 'because')
        tokens, trace = auto.decode(*it.prompt)
        auto.remember(tokens)
        assert (tokens, trace.decoder, trace.reason) == (right, name, 'because')


@pytest.mark.parametrize('runner', ['plain', 'graphs'])
def test_it_chooses_by_itself_and_stays_lossless(lab, runner):
    it = lab(1, 7, 1)
    auto, right, taken = AutoDecoder(candidates(it, Strict(), runner)), it.ar(), set()
    for _ in range(25):
        tokens, trace = auto.decode(*it.prompt)
        auto.remember(tokens)
        taken.add(trace.decoder)
        assert tokens == right
    assert taken >= {'ar', 'history'}  # how many are looked at depends on what they lost


def test_all_candidates_are_captured_when_it_is_warmed_up(lab):
    it = lab(1, 7, 1)
    auto = AutoDecoder(candidates(it, Bins(40), 'graphs'))
    for _ in range(2):
        auto.warm_up(*it.prompt)
    captures = auto.target.runner.captures
    for _ in range(25):
        auto.remember(auto.decode(*it.prompt)[0])
    assert auto.target.runner.captures == captures > 10


def test_those_not_taken_see_what_was_said(lab):
    it = lab(2, 7, 1)
    auto = AutoDecoder(candidates(it, Strict()))
    auto.measured.next = lambda: Choice('ar', '')
    tokens, _ = auto.decode(*it.prompt)
    auto.remember(tokens)
    auto.measured.next = lambda: Choice('history', '')
    _, trace = auto.decode(*it.prompt)
    assert trace.drafts == [(6, 6)]  # the same image, so the same action: one pass
    auto.reset()
    _, trace = auto.decode(*it.prompt)
    assert trace.drafts[0] == (0, 0)
    assert auto.measured.candidates['history'].actions == 2  # the machine is the same one


def test_those_left_out_are_named_in_every_report(lab):
    it = lab(0, 7, 1)
    auto = AutoDecoder(candidates(it, Strict()), {'glance': 'no folder /x'})
    for _ in range(2):
        assert auto.decode(*it.prompt)[1].reason.endswith('; glance left out: no folder /x')


def test_what_an_action_took_is_sorted_by_passes(lab):
    it = lab(0, 7, 1)
    auto, seen = AutoDecoder(candidates(it, Strict())), []
    auto.measured.take = lambda name, taken: seen.append((name, taken))
    auto.measured.next = lambda: Choice('jacobi', '')
    _, trace = auto.decode(*it.prompt)
    (name, taken), = seen
    assert name == 'jacobi'
    assert [(done.drafted, done.accepted) for done in taken.passes] == trace.drafts
    assert taken.vision_ms == trace.stage_ms['vision'] > 0
    assert sum(done.pass_ms for done in taken.passes) == pytest.approx(
        trace.stage_ms['prefill'] + trace.stage_ms['verify'])
    assert sum(done.draft_ms for done in taken.passes) == pytest.approx(trace.stage_ms['draft'])
    assert taken.total_ms >= taken.vision_ms + sum(done.pass_ms for done in taken.passes)
