"""Each rule accepts only within what it says; what it rates runs in graphs."""

from dataclasses import replace
from math import exp
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from specvla_ros.action_space import ActionSpace
from specvla_ros.configuration import load_preset
from specvla_ros.decoding import rules
from specvla_ros.decoding.acceptance import Acceptance
from specvla_ros.decoding.drafters import TreeBudget
from specvla_ros.decoding.rules import make_rule, RULES
from specvla_ros.decoding.rules.bins import Bins
from specvla_ros.decoding.rules.confidence import Confidence
from specvla_ros.decoding.rules.dynamic import Dynamic, variability
from specvla_ros.decoding.rules.phase import Phase
from specvla_ros.decoding.rules.sequence import SequenceWise
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.decoding.target import Verification
from specvla_ros.decoding.tree import TokenTree
from specvla_ros.graphs import Runner
from specvla_ros.openvla.action_tokenizer import ActionTokenizer
from specvla_ros.situation import Situation, UNKNOWN

TOKENIZER = ActionTokenizer(32000)
SPACE = ActionSpace(TOKENIZER, 7, 2, (1e-3,) * 6 + (2 / 255,))
RELAXED = [SequenceWise(), SequenceWise(40, 50), Confidence(), Confidence(0.99, 200)]


class Here:
    device = torch.device('cpu')


def verification(own, logits):
    return Verification(own, logits, Runner(), torch.zeros_like(own))


def accepted(rule, offsets, known=0, before=(), logits=None, own=31872):
    """How many of a chain's drafts stay; each is so many bins from what the target says."""
    tree = TokenTree.chain([own + off for off in offsets])
    rows = len(offsets) + 1
    logits = torch.zeros(rows, 256) if logits is None else logits
    acceptance = Acceptance(rule, None, SPACE, Here())
    verified = verification(torch.full((rows,), own), logits)
    path = acceptance.accept(
        tree, verified, [own] * known, acceptance.terms(UNKNOWN), before)
    assert path.bins_off == tuple(abs(off) for off in offsets[: len(path.nodes)])
    return len(path.nodes)


# bins -------------------------------------------------------------------------------------------

@given(chunk=st.integers(1, 8), firm=st.integers(1, 9) | st.none(), r=st.integers(0, 30),
       per_step=st.integers(0, 9), exact=st.booleans())
def test_only_steps_that_are_said_again_may_be_further_off(chunk, firm, r, per_step, exact):
    space, situation = ActionSpace(TOKENIZER, 7, chunk), Situation(firm_steps=firm)
    reach = np.reshape(Bins(r, exact, per_step).reach(space, situation), (chunk, 7))
    loose = 6 if exact else 7
    assert (reach[:, loose:] == 0).all()
    assert (reach[:firm, :loose] == r).all()  # None: of all steps, whatever per_step is
    later = reach[chunk if firm is None else firm :, :loose]
    grows = r + per_step * np.arange(1, 1 + len(later))
    assert (later == grows[:, None]).all()


@given(seed=st.integers(0, 2**20), firm=st.integers(1, 3) | st.none())
@settings(max_examples=30, deadline=None)
def test_what_is_decoded_by_step_keeps_to_each_step_s_threshold(seed, firm, lab):
    it = lab(seed % 4, 3, 3)
    decoder = it.decoder(it.guesser(seed), Bins(2, per_step=8))
    _, trace = decoder.decode(*it.prompt, Situation(firm_steps=firm))
    most = [2] * 3 if firm is None else [2, 2 + 8 * (firm == 1), 2 + 8 * max(0, 3 - firm)]
    assert trace.reach == tuple(bins for step in most for bins in (step, step, 0))
    assert all(off <= bins for off, bins in zip(trace.bins_off, trace.reach, strict=True))


def test_later_steps_use_what_they_are_allowed(lab):
    off = dict.fromkeys((None, 1), 0)
    for seed in range(30):
        it = lab(seed % 4, 3, 3)
        for steps in off:
            decoder = it.decoder(it.guesser(seed), Bins(0, per_step=8))
            _, trace = decoder.decode(*it.prompt, Situation(firm_steps=steps))
            off[steps] += sum(trace.bins_off)
    assert off[None] == 0 < off[1]


# sequence ---------------------------------------------------------------------------------------

@pytest.mark.parametrize(('offsets', 'known', 'before', 'stay'), [
    ((15, -15, 0, 15, 15, 0), 0, (), 6),  # both groups are at their ends
    ((16, 0, 0), 0, (), 0), ((0, -16, 0), 0, (), 1),  # one token is too far
    ((15, 15, 1, 0), 0, (), 2), ((10, 10, 10, 15, 10, 6), 0, (), 5),  # a sum is too large
    ((0, 0, 0, 0, 0, 0, 1), 0, (), 6), ((0,) * 7, 0, (), 7),  # the gripper is exact
    ((1, 15), 2, (15, 15), 0), ((0, 15), 2, (15, 15), 2),  # tokens of earlier passes count
    ((15, 15), 2, (0, 0), 2), ((15, 15, 0, 0), 3, (15, 15, 0), 4),  # of the same group only
    ((15, 15, 0), 7, (15, 15, 0, 15, 15, 0, 0), 3),  # each control step has its own
])
def test_sequence_by_hand(offsets, known, before, stay):
    assert accepted(SequenceWise(), offsets, known, before) == min(stay, len(offsets))


@given(data=st.data(), each=st.integers(0, 20), total=st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_sequence_keeps_its_bound_over_all_passes_and_refuses_nothing_else(data, each, total):
    offs = data.draw(st.lists(st.integers(-25, 25) | st.just(0), min_size=13, max_size=13))
    rule, known, so_far = SequenceWise(each, total), 0, []
    while known < 13:
        chain = offs[known : known + data.draw(st.integers(1, 6))]
        stay = accepted(rule, chain, known, so_far)
        so_far += [*map(abs, chain[:stay]), 0]
        groups = [sum(so_far[at] for at in positions if at < len(so_far)) for positions in (
            (0, 1, 2), (3, 4, 5), (7, 8, 9), (10, 11, 12))]
        assert max(so_far) <= each and max(groups) <= total
        assert so_far[6:7] in ([], [0])
        if stay < len(chain):  # the refused one would have broken a bound
            at = known + stay
            group = [it for it in range(at) if SPACE.groups(it) == SPACE.groups(at)]
            off = abs(chain[stay])
            assert off > each or sum(so_far[it] for it in group) + off > total \
                or SPACE.is_gripper(at) and off
        known = len(so_far)


def test_a_path_of_a_tree_is_judged_by_its_own_nodes():
    own, acceptance = 31872, Acceptance(SequenceWise(), None, SPACE, Here())
    tree = TokenTree.from_paths([[own + 15, own + 15, own + 9], [own + 15, own, own + 15]])
    verified = verification(torch.full((len(tree) + 1,), own), torch.zeros(len(tree) + 1, 256))
    path = acceptance.accept(tree, verified, [], acceptance.terms(UNKNOWN))
    assert path.tokens == (own + 15, own, own + 15) and path.bins_off == (15, 0, 15)


# confidence -------------------------------------------------------------------------------------

def region(chances, best, share):
    """Fewest bins that hold the share, by falling chance, of equal ones the nearest first."""
    order = sorted(range(256), key=lambda it: (-chances[it], abs(it - best), it))
    held, kept = 0.0, set()
    for column in order:
        if held >= share:
            break
        kept.add(column)
        held += chances[column]
    return kept


@given(data=st.data(), share=st.floats(0.05, 1.0), r=st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_confidence_keeps_within_the_smallest_region_of_the_share(data, share, r):
    few = data.draw(st.lists(st.tuples(st.integers(118, 138), st.sampled_from(
        [-1.0, 0.0, 1.0, 2.0])), min_size=1, max_size=8))
    logits = torch.full((256,), data.draw(st.sampled_from([-30.0, -2.0])))
    for column, value in few:
        logits[column] = value
    chances = logits.double().softmax(-1)
    best, off = int(logits.argmax()), data.draw(st.integers(-20, 20))
    column = min(max(best + off, 0), 255)
    stays = accepted(Confidence(share, r), [column - best], logits=logits.expand(2, 256),
                     own=TOKENIZER.first_id + best)
    loose, tight = (region(chances.tolist(), best, share + by) for by in (1e-5, -1e-5))
    apart = abs(TOKENIZER.bins(31744 + column) - TOKENIZER.bins(31744 + best))
    assert not stays or column in loose and apart <= r
    assert stays or column not in tight or abs(column - best) > r


def test_where_all_bins_are_alike_a_share_of_them_may_stay_and_not_all():
    kept = [off for off in range(-127, 128) if accepted(Confidence(0.1, 255), [off])]
    assert len(kept) == 26 and max(map(abs, kept)) == 13
    assert accepted(Confidence(1e-9, 255), [0]) == 1 and accepted(Confidence(1e-9, 255), [1]) == 0


def test_confidence_leaves_the_gripper_exact():
    assert accepted(Confidence(1.0, 255), [1], known=6) == 0
    assert accepted(Confidence(1.0, 255), [0], known=6) == 1


# dynamic, phase ---------------------------------------------------------------------------------

def moving(*changes, start=0.0, dimension=0):
    """Situation of a robot whose delta changes by so many bins from step to step."""
    deltas, value = [], start
    for change in (0, *changes):
        value += change
        deltas.append(tuple(1e-3 * value if at == dimension else 0.0 for at in range(6)) + (1.0,))
    return Situation(recent=tuple(deltas))


def test_dynamic_tightens_with_kinematic_variability():
    rule = Dynamic(least=5, most=15, scale=2.0)
    steady, shaky, shakier = moving(0, 0, 0), moving(12, -12, 12), moving(60, -60)
    assert rule.reach(SPACE, steady) == 2 * (*[15] * 6, 0)
    assert variability(shaky.recent, SPACE) == pytest.approx(2)  # 12 bins in one of six
    assert rule.reach(SPACE, shaky)[0] == 5 + int(10 * exp(-1))
    assert rule.reach(SPACE, shakier)[0] == 5
    squared = replace(rule, power=2.0)
    assert squared.reach(SPACE, moving(6, -6))[0] == 5 + int(10 * exp(-0.25))


@pytest.mark.parametrize('situation', [UNKNOWN, Situation(recent=((0.0,) * 7,))])
def test_dynamic_is_tight_while_it_knows_nothing(situation):
    assert Dynamic().reach(SPACE, situation) == 2 * (*[5] * 6, 0)


@given(changes=st.lists(st.floats(-200, 200), max_size=9), least=st.integers(0, 15),
       dimension=st.integers(0, 5))
def test_dynamic_stays_between_its_ends(changes, least, dimension):
    reach = Dynamic(least=least).reach(SPACE, moving(*changes, dimension=dimension))
    assert all(least <= bins <= 15 for at, bins in enumerate(reach) if at % 7 != 6)


def test_dynamic_needs_the_worth_of_a_bin():
    with pytest.raises(ValueError, match='the rule dynamic needs to know what a bin is worth'):
        Dynamic().reach(replace(SPACE, bin_si=()), UNKNOWN)


def steps(*millimetres, gripper=None):
    grippers = gripper or [1.0] * len(millimetres)
    return Situation(recent=tuple((mm / 1e3, 0, 0, 0, 0, 0, it)
                                  for mm, it in zip(millimetres, grippers, strict=True)))


@pytest.mark.parametrize(('situation', 'bins'), [
    (UNKNOWN, 3),  # nothing known is no free motion
    (steps(20), 15), (steps(1, 20), 15), (steps(20, 5), 3), (steps(20, 5.1), 15),
    (steps(*[20] * 10, gripper=[1.0] * 9 + [0.0]), 3),  # closing now
    (steps(*[20] * 10, gripper=[1.0] + [0.0] * 9), 3),  # closed a while ago
    (steps(*[20] * 10, gripper=[0.0] * 10), 15),  # longer ago
    (steps(20, 20, gripper=[1.0, 0.9]), 15), (steps(20, 20, gripper=[0.3, 0.6]), 3),
])
def test_phase_is_tight_when_slow_and_around_events_of_the_gripper(situation, bins):
    assert Phase(near=3, free=15, slow_mm=5).reach(SPACE, situation) == 2 * (*[bins] * 6, 0)


# all --------------------------------------------------------------------------------------------

@pytest.mark.parametrize(('rule', 'settings', 'message'), [
    ('bins', {'per_step': -1}, 'per_step of the rule bins is -1, must be a whole number from 0'),
    ('bins', {'per_step': 1.5}, 'per_step of the rule bins is 1.5, must be a whole number'),
    ('sequence', {'each': -1}, 'each of the rule sequence is -1, must be a whole number from 0'),
    ('sequence', {'total': 2.5}, 'total of the rule sequence is 2.5, must be a whole number'),
    ('sequence', {'each': True}, 'each of the rule sequence is True'),
    ('confidence', {'share': 0}, 'share of the rule confidence is 0, must be more'),
    ('confidence', {'share': 1.1}, 'share of the rule confidence is 1.1, must be a number from 0'),
    ('confidence', {'share': float('nan')}, 'share of the rule confidence is nan'),
    ('confidence', {'r': -1}, 'r of the rule confidence is -1'),
    ('dynamic', {'least': 16}, 'least of the rule dynamic is 16, must be a whole number from 0 '
                               'to 15'),
    ('dynamic', {'scale': 0}, 'scale of the rule dynamic is 0'),
    ('dynamic', {'power': '1'}, "power of the rule dynamic is '1'"),
    ('phase', {'near': 20}, 'near of the rule phase is 20, must be a whole number from 0 to 15'),
    ('phase', {'slow_mm': -1}, 'slow_mm of the rule phase is -1'),
    ('phase', {'gripper': 2}, 'gripper of the rule phase is 2, must be a number from 0 to 1'),
])
def test_what_a_rule_can_not_be(rule, settings, message):
    with pytest.raises(ValueError, match=message):
        make_rule(rule, settings)


@pytest.mark.parametrize('name', sorted(RULES))
def test_every_rule_has_a_preset_of_which_nothing_is_left_to_its_defaults(name):
    names = {'bins': 'relaxed'}
    config = load_preset(names.get(name, name))
    assert config.rule.name == name
    assert set(config.rule.settings) == set(RULES[name].__dataclass_fields__)


@pytest.mark.parametrize(('rule', 'guarded'), [
    (SequenceWise(90, 120), False), (Confidence(0.9, 90), False), (Confidence(0.9, 90), True)])
def test_rules_that_rate_say_the_same_in_graphs_and_capture_nothing_after_the_warm_up(
    rule, guarded, lab, every_third
):
    it, guard, budget = lab(0, 7, 1), every_third if guarded else None, TreeBudget(3, 5, 12)
    plain, graphs = (it.decoder(it.eagle(3, budget), rule, runner, guard)
                     for runner in ('plain', 'graphs'))
    for prompt in 2 * (it.longer_prompt, it.prompt):  # as Policy.warm_up
        graphs.warm_up(*prompt)
    captures, off = graphs.target.runner.captures, 0
    for prompt in (it.prompt, it.longer_prompt):
        (tokens, trace), (expected, other) = (one.decode(*prompt) for one in (graphs, plain))
        assert (tokens, trace.drafts, trace.bins_off) == (expected, other.drafts, other.bins_off)
        assert trace.risk == pytest.approx(other.risk, abs=1e-5)
        off += sum(trace.bins_off)
    assert graphs.target.runner.captures == captures
    assert off > 0  # something stayed that was not the target's own


@given(seed=st.integers(0, 2**20), rule=st.sampled_from([
    Bins(30), *RELAXED, Dynamic(), Phase()]), space=st.sampled_from([(7, 1), (7, 2), (3, 3)]))
@settings(max_examples=25, deadline=None)
def test_a_trace_says_what_each_token_is(seed, rule, space, lab):
    it = lab(seed % 4, *space)
    it.space = replace(it.space, bin_si=(1e-3,) * space[0])
    tokens, trace = it.decode(it.guesser(seed), rule)
    assert len(trace.bins_off) == len(trace.origins) == len(tokens)
    model, tokenizer = it.model, it.space.tokenizer
    sequence = torch.cat(
        (model.embed(*it.prompt), model.embed_tokens(torch.tensor([tokens[:-1]]))), dim=1)
    logits = model.logits(model(sequence))[0, -len(tokens):]
    logits = logits[:, tokenizer.first_id : tokenizer.last_id + 1]
    own = (logits.argmax(-1) + tokenizer.first_id).tolist()
    for token, choice, source, origin, off, reach in zip(
            tokens, own, trace.sources, trace.origins, trace.bins_off,
            rule.reach(it.space, UNKNOWN), strict=True):
        assert off <= reach
        assert origin == ('chosen' if source == 'target' else 'accepted')
        assert off == abs(tokenizer.bins(token) - tokenizer.bins(choice))
        assert origin == 'accepted' or token == choice
    chances = logits.softmax(-1)
    entropy = -(chances * chances.log()).nan_to_num().sum(-1) / torch.log(torch.tensor(256.0))
    assert trace.risk == pytest.approx(float(entropy.mean()), abs=1e-5)


@given(seed=st.integers(0, 2**20), rule=st.sampled_from([*RELAXED, Bins(255, False)]))
@settings(max_examples=15, deadline=None)
def test_above_a_risk_the_next_action_is_strict(seed, rule, lab):
    it = lab(seed % 4, 7, 1)
    _, trace = it.decode(it.guesser(seed), rule)
    for limit, tokens in ((trace.risk + 1e-6, None), (trace.risk - 1e-6, it.ar())):
        decoder = it.decoder(it.guesser(seed), rule)
        decoder = replace(decoder, acceptance=replace(decoder.acceptance, strict_above=limit))
        found, _ = decoder.decode(*it.prompt, Situation(risk=trace.risk))
        free, _ = it.decode(it.guesser(seed), rule)
        assert found == (free if tokens is None else tokens)


ONE_FILE = '''
from dataclasses import dataclass

from specvla_ros.decoding.rules import RULES


@RULES.register('first_tokens')
@dataclass(frozen=True, slots=True)
class FirstTokens:
    """Within 20 bins, but no more than two tokens that are off in a row of guesses."""

    most: int = 2

    def reach(self, space, situation):
        return (20,) * space.length

    def stays(self, drafts, space):
        return (drafts.paths * (drafts.off > 0)).sum(1) <= self.most
'''


def test_a_rule_that_rates_is_one_file(tmp_path, monkeypatch):
    (tmp_path / 'first_tokens.py').write_text(ONE_FILE)
    monkeypatch.setattr(rules, '__path__', [*rules.__path__, str(tmp_path)])
    monkeypatch.setattr(RULES, '_classes', dict(RULES._classes))
    rule = make_rule('first_tokens', {'most': 1})
    monkeypatch.delitem(sys.modules, 'specvla_ros.decoding.rules.first_tokens')
    assert accepted(rule, (0, 20, 0, 1)) == 3 and accepted(rule, (0, 21)) == 1


def test_a_rule_that_rates_must_have_a_hash(lab):
    class Unhashable(Strict):
        __hash__ = None
        __slots__ = ()

        def stays(self, drafts, space):
            return drafts.off == 0

    with pytest.raises(ValueError, match='the rule .* has no hash.*frozen dataclass'):
        lab(0, 3, 1).decode(lab(0, 3, 1).guesser(1), Unhashable())
