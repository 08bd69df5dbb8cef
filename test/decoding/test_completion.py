"""Tokens that the target never saw: when they are taken, what they may be, their name."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from specvla_ros.components import CompletionConfig, Component
from specvla_ros.configuration import load_preset, preset_names
from specvla_ros.decoding.completion import Completion
from specvla_ros.decoding.drafters import Held, HistoryDrafter, NoDrafter, TreeBudget
from specvla_ros.decoding.rules.bins import Bins
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.errors import SpecVLAError


class Sure(HistoryDrafter):
    """Always says the last action, and how sure it is."""

    sure = 1.0

    def likeness(self, context):
        return self.sure


@dataclass(frozen=True)
class Odd:
    """A guard: every other bin, which ones depends on what was said."""

    def allowed(self, said, position, state, space):
        bins = torch.arange(space.tokenizer.n_bins)
        return (bins + (position + said.sum(1))[:, None]) % 2 > 0


def completion(**changes):
    return Completion(CompletionConfig(Component('history'), **changes), Sure(Held()))


def decoder(it, drafter, completes, *others):
    made = it.decoder(drafter, Strict(), *others)
    return made, type(made)(made.target, drafter, made.acceptance, completes)


def test_after_a_rejection_the_rest_is_predicted_at_most_every_so_many_actions(lab):
    it, last = lab(0, 7, 1), [100] * 7
    drafter, completes = HistoryDrafter(Held()), completion(every=3)
    _, unverified = decoder(it, drafter, completes)
    right = it.ar()
    assert unverified.decode(*it.prompt)[1].unverified == 0  # nothing was drafted yet
    counts = []
    for _ in range(7):
        for memory in (drafter, completes):
            memory.remember(last)
        tokens, trace = unverified.decode(*it.prompt)
        counts.append(trace.unverified)
        known = 7 - trace.unverified
        assert tokens[:known] == right[:known] and tokens[known:] == last[known:]
        assert trace.origins == ['chosen'] * known + ['unverified'] * trace.unverified
        assert trace.target_passes == (1 if trace.unverified else 7)
        assert trace.sources[known:] == ['history'] * trace.unverified
    assert counts == [6, 0, 0, 6, 0, 0, 6]
    completes.reset()
    assert unverified.decode(*it.prompt)[1].unverified == 0


@pytest.mark.parametrize('sure, passes', [(1.0, 0), (0.95, 0), (0.9, 7), (float('nan'), 7)])
def test_a_whole_action_is_taken_where_the_drafter_knows_what_is_seen(lab, sure, passes):
    it = lab(0, 7, 1)
    completes = completion(every=1, after_rejection=False, skip_above=0.95)
    completes.drafter.sure = sure
    _, unverified = decoder(it, NoDrafter(), completes)
    assert unverified.decode(*it.prompt)[0] == it.ar()  # nothing to predict by
    completes.remember([99] * 7)
    tokens, trace = unverified.decode(*it.prompt)
    assert (trace.target_passes, trace.unverified) == (passes, 0 if passes else 7)
    assert tokens == (it.ar() if passes else [99] * 7)
    assert unverified.decode(*it.prompt)[1].target_passes == 7  # not twice in one action


@given(seed=st.integers(0, 2**16), token=st.integers(44, 299), space=st.sampled_from(
    [(7, 1), (3, 2)]), r=st.sampled_from([0, 9]))
@settings(max_examples=15, deadline=None)
def test_no_forbidden_bin_is_completed(seed, token, space, r, lab):
    it = lab(seed % 4, *space)
    drafter, completes = HistoryDrafter(Held()), completion(every=1, skip_above=0.5)
    completes.drafter.sure = seed % 2
    made = it.decoder(drafter, Bins(r, False), 'plain', Odd())
    unverified = type(made)(made.target, drafter, made.acceptance, completes)
    for memory in (drafter, completes):
        memory.remember([token] * it.space.length)
    tokens, trace = unverified.decode(*it.prompt)
    for known in range(len(tokens)):
        said = torch.tensor([[*tokens[:known], *[-1] * (len(tokens) - known)]])
        allowed = Odd().allowed(said, torch.tensor([known]), None, it.space)
        assert allowed[0, tokens[known] - it.space.tokenizer.first_id]


def test_every_decoder_that_completes_is_called_unverified_and_the_others_do_not_complete():
    completing = {name for name in preset_names() if load_preset(name).completion}
    assert completing == {'kerv', 'heisd'}
    for name in preset_names():
        assert ('(unverified)' in load_preset(name).name) == (name in completing)


@pytest.mark.parametrize('entry, message', [
    ('{every: 4}', 'must be a mapping with a drafter'),
    ('{drafter: kalman, evry: 4}', 'must be a mapping with a drafter and some of'),
    ('{drafter: kalman, every: 0}', 'completion every is 0'),
    ('{drafter: kalman, skip_above: 2}', 'completion skip_above is 2'),
    ('{drafter: kalman, after_rejection: 1}', 'completion after_rejection is 1'),
])
def test_what_a_completion_can_not_be(tmp_path, entry, message):
    path = tmp_path / 'mine.yaml'
    path.write_text(f'drafter: {{name: none}}\nrule: {{name: strict}}\ncompletion: {entry}\n')
    with pytest.raises(SpecVLAError, match=message):
        load_preset(path)


def test_a_drafter_that_waits_for_a_pass_can_not_complete(lab):
    it = lab(0, 7, 1)
    with pytest.raises(SpecVLAError, match='predicts nothing alone before a pass; take one'):
        Completion(CompletionConfig(Component('eagle')), it.eagle(0, TreeBudget(2, 2, 4)))
