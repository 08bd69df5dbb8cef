"""A guard forbids bins: drafts and bonus keep to it, and strict is still plain autoregression."""

from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from specvla_ros.decoding.drafters import (
    ConstantVelocity,
    GlanceSettings,
    Held,
    HistoryDrafter,
    Jacobi,
    NoDrafter,
    RelayDrafter,
    TreeBudget,
)
from specvla_ros.decoding.rules.bins import Bins
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.situation import Situation

SITUATION = Situation(stamp=12.5, eef_position=(0.25, 0.5, 0.75), steps=3)


def columns_said(said, space):
    """Sum of the columns of the tokens so far, int64 [R]."""
    return torch.where(said >= 0, said - space.tokenizer.first_id, 0).sum(1)


def window(low, width, space):
    """Bins from ``low`` on, bool [R, bins]."""
    bins = torch.arange(space.tokenizer.n_bins, device=low.device)
    return (bins >= low[:, None]) & (bins < low[:, None] + width)


@dataclass(frozen=True)
class Moving:
    """Forbids a window of bins; where it stands depends on all there is to depend on."""

    width: int = 90

    def allowed(self, said, position, state, space):
        steps = state[4].long()
        low = (columns_said(said, space) * 7 + position * 31 + steps * 13) % (255 - self.width)
        return ~window(low, self.width, space)

    def forbids(self, tokens, space, steps):
        """Whether the last token is forbidden behind the others, on the host."""
        *said, token = (token - space.tokenizer.first_id for token in tokens)
        low = (sum(said) * 7 + len(said) * 31 + steps * 13) % (255 - self.width)
        return low <= token < low + self.width


@dataclass(frozen=True)
class Open:
    """Forbids nothing."""

    def allowed(self, said, position, state, space):
        return torch.ones(
            (len(said), space.tokenizer.n_bins), dtype=torch.bool, device=said.device)


@dataclass(frozen=True)
class Shut:
    """Forbids everything from a token on, as long as the position is not known."""

    known: int

    def allowed(self, said, position, state, space):
        shut = (position >= self.known) & state[1].isnan()
        return ~shut[:, None].expand(-1, space.tokenizer.n_bins)


def remembering(drafter, it, seed):
    """Let a drafter remember two actions near what plain autoregression says."""
    for action in it.guesser(seed), it.guesser(seed + 1):
        drafter.remember([token ^ (action.random.integers(0, 3) == 0) for token in action.right])
    return drafter


DRAFTERS = {
    'none': lambda it, seed: NoDrafter(),
    'guesser': lambda it, seed: it.guesser(seed),
    'eagle': lambda it, seed: it.eagle(seed, TreeBudget(3, 4, 12)),
    'glance': lambda it, seed: it.glance(seed, GlanceSettings(within=3, branches=2)),
    'history': lambda it, seed: remembering(HistoryDrafter(Held()), it, seed),
    'velocity': lambda it, seed: remembering(HistoryDrafter(ConstantVelocity()), it, seed),
    'jacobi': lambda it, seed: remembering(Jacobi().drafter(None), it, seed),
    'relay': lambda it, seed: RelayDrafter(
        [it.guesser(seed), it.eagle(seed, TreeBudget(2, 3, 8))]),
}
seeds, kinds = st.integers(0, 2**20), st.sampled_from(sorted(DRAFTERS))
spaces = st.tuples(st.integers(1, 7), st.integers(1, 2))
runners = st.sampled_from(['plain', 'plain', 'plain', 'graphs'])  # tracing takes seconds


@given(seed=seeds, space=spaces, kind=kinds, runner=runners)
@settings(max_examples=25, deadline=None)
def test_strict_under_a_guard_is_ar_under_it(seed, space, kind, runner, lab):
    it, guard = lab(seed % 4, *space), Moving()
    expected = it.decoder(NoDrafter(), Strict(), 'plain', guard).decode(*it.prompt, SITUATION)[0]
    it.ar = lambda: expected  # what drafters guess around
    decoder = it.decoder(DRAFTERS[kind](it, seed), Strict(), runner, guard)
    assert decoder.decode(*it.prompt, SITUATION)[0] == expected


def test_a_guard_changes_actions_and_drafts_still_save_passes(lab):
    changed = saved = 0
    for seed in range(4):
        it = lab(seed, 7, 1)
        free, guarded = it.ar(), it.ar(Moving())
        changed += free != guarded
        it.ar = lambda guarded=guarded: guarded
        _, trace = it.decode(it.guesser(seed), Strict(), 'plain', Moving())
        saved += len(guarded) - trace.target_passes
    assert changed >= 3 and saved >= 3


@given(seed=seeds, space=spaces, kind=kinds, runner=runners, r=st.sampled_from([0, 9, 255]),
       steps=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_no_forbidden_bin_is_said_neither_as_a_draft_nor_as_a_bonus(
    seed, space, kind, runner, r, steps, lab
):
    it, guard = lab(seed % 4, *space), Moving(120)
    decoder = it.decoder(DRAFTERS[kind](it, seed), Bins(r, False), runner, guard)
    tokens, _ = decoder.decode(*it.prompt, Situation(steps=steps))
    for said in range(1, len(tokens) + 1):
        assert not guard.forbids(tokens[:said], it.space, steps), said


@given(seed=seeds, space=spaces, kind=kinds, runner=runners, r=st.sampled_from([0, 9, 255]))
@settings(max_examples=20, deadline=None)
def test_a_guard_that_forbids_nothing_changes_nothing(seed, space, kind, runner, r, lab):
    it = lab(seed % 4, *space)
    (free, trace), (tokens, other) = (
        it.decode(DRAFTERS[kind](it, seed), Bins(r), runner, guard) for guard in (None, Open()))
    assert (tokens, other.drafts) == (free, trace.drafts)


@pytest.mark.parametrize('runner', ['plain', 'graphs'])
def test_guards_and_situations_share_a_target_and_its_graphs(runner, lab):
    it = lab(2, 7, 1)
    decoder = it.decoder(it.guesser(4), Bins(30), runner, Moving())
    for width, steps in ((90, 0), (20, 0), (90, 7), (20, 7), (90, 0)):
        acceptance = replace(decoder.acceptance, guard=Moving(width))
        again = replace(decoder, drafter=it.guesser(4), acceptance=acceptance)
        expected = it.decoder(it.guesser(4), Bins(30), 'plain', Moving(width))
        found = [one.decode(*it.prompt, Situation(steps=steps))[0] for one in (again, expected)]
        assert found[0] == found[1]


@dataclass(frozen=True)
class ByStep:
    """A rule that changes with every action."""

    def reach(self, space, situation):
        return tuple((position + situation.steps) % 60 for position in range(space.length))


@pytest.mark.parametrize('guard', [None, Moving(), Shut(0)])
def test_a_rule_that_changes_with_every_action_captures_nothing_after_the_warm_up(guard, lab):
    it = lab(0, 7, 1)
    right = it.ar()
    decoder = it.decoder(it.eagle(3, TreeBudget(3, 5, 12)), ByStep(), 'graphs', guard)
    for prompt in 2 * (it.longer_prompt, it.prompt):  # as Policy.warm_up; no position is known
        decoder.warm_up(*prompt)
    captures = decoder.target.runner.captures
    found = []
    for steps in (0, 40, 55):
        situation = Situation(eef_position=(0.0, 0.0, 0.0), steps=steps)
        found.append(decoder.decode(*it.prompt, situation)[0])
        plain = it.decoder(it.eagle(3, TreeBudget(3, 5, 12)), ByStep(), 'plain', guard)
        assert plain.decode(*it.prompt, situation)[0] == found[-1]
    assert decoder.target.runner.captures == captures
    assert found.count(right) < 3


@pytest.mark.parametrize('runner', ['plain', 'graphs'])
@pytest.mark.parametrize('kind', ['none', 'guesser'])
@pytest.mark.parametrize('known', [0, 3, 6])
def test_where_everything_is_forbidden_there_is_no_action_but_one_clear_line(
    kind, known, runner, lab
):
    it = lab(1, 7, 1)
    decoder = it.decoder(DRAFTERS[kind](it, 3), Bins(9), runner, Shut(known))
    message = rf'Shut\(known={known}\) forbids every bin of token {known + 1} of 7'
    with pytest.raises(ValueError, match=message):
        decoder.decode(*it.prompt)
    tokens, _ = decoder.decode(*it.prompt, SITUATION)  # the next action is as if nothing had been
    assert len(tokens) == 7


@pytest.mark.parametrize('runner', ['plain', 'graphs'])
def test_a_target_that_is_not_finite_is_still_an_error(runner, lab):
    it = lab(0, 7, 1)
    decoder = it.decoder(it.guesser(3), Bins(9), runner, Open())
    with pytest.raises(ValueError, match='not finite'):
        decoder.decode(it.prompt[0], it.prompt[1] * float('nan'))


class Broken:
    """Answers with too few bins."""

    def allowed(self, said, position, state, space):
        return torch.ones((len(said), 3), dtype=torch.bool)


@dataclass(frozen=True)
class Unhashable(Open):
    """Can't be known by its content."""

    bins: list


def test_what_a_guard_can_not_be(lab):
    it = lab(0, 7, 1)
    with pytest.raises(ValueError, match=r'gives torch.bool \[1, 3\], must be bool \[1, 256\]'):
        it.ar(Broken())
    with pytest.raises(ValueError, match='has no hash.*frozen dataclass'):
        it.ar(Unhashable([1]))


def test_the_state_is_stamp_position_steps_and_the_previous_delta(lab):
    assert Situation(1.5, (2.0, 3.0, 4.0), (5.0, 6.0), 7).numbers(2) == (1.5, 2, 3, 4, 7, 5, 6)
    unknown = torch.tensor(Situation().numbers(7))
    assert unknown.shape == (12,) and unknown.isnan().tolist() == [True] * 4 + [False] + [True] * 7
