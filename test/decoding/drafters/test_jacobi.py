"""The target's own words as guesses: which they are, where they stand, and that it is lossless."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from specvla_ros.configuration import load_preset
from specvla_ros.decoding.drafters import (
    ConstantVelocity,
    DraftContext,
    Drafter,
    GlanceSettings,
    Held,
    HistoryDrafter,
    Jacobi,
    make_drafter,
    RelayDrafter,
    TreeBudget,
)
from specvla_ros.decoding.rules.bins import Bins
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.decoding.target import Target, Verification
from specvla_ros.decoding.tree import Accepted, TokenTree
from specvla_ros.errors import SpecVLAError
from specvla_ros.situation import Situation


def after(it, tree, said, nodes, known, runner='plain', start=()):
    """
    Tree that it proposes after a pass.

    said: what the target said after each node; nodes: those accepted; known: the action's tokens,
    the bonus the last of them; start: the last action.
    """
    drafter = Jacobi().drafter(None)
    if start:
        drafter.remember(start)
    target = Target(it.model, it.runners[runner]())
    verified = Verification(
        torch.tensor([0, *said]), torch.zeros(len(tree) + 1, 256), target.runner,
        torch.zeros(len(tree) + 1, dtype=torch.int64))
    tokens = tuple(tree.tokens[node].item() for node in nodes)
    context = DraftContext(target, it.space, None, known)
    return drafter.propose(context.after(tree, verified, Accepted(nodes, tokens, known[-1])))


RUNNERS = pytest.mark.parametrize('runner', ['plain', 'graphs'])


@RUNNERS
def test_words_behind_the_rejected_node_stand_behind_the_bonus(runner, lab):
    it = lab(0, 7, 1)
    tree = TokenTree.chain([110, 120, 130, 140, 150, 160])
    guess = after(it, tree, [121, 131, 141, 151, 161, 171], (0,), [110, 121], runner)
    # Node 1 stood in the bonus's place: what was said after it is the token after the bonus.
    assert guess.tokens.tolist() == [131, 141, 151, 161]
    assert guess.parents.tolist() == [-1, 0, 1, 2]
    assert guess.sources == ('jacobi',) * 4


@RUNNERS
def test_the_branch_nearest_to_the_bonus_is_heard_and_of_equal_ones_the_deepest(runner, lab):
    it = lab(0, 5, 1)
    tree = TokenTree.of(
        [110, 120, 125, 122, 130, 131, 140, 141, 118, 200],
        [-1, 0, 0, 0, 2, 3, 5, 5, 0, -1], 'guess')
    said = [1100 + node for node in range(10)]
    guess = after(it, tree, said, (0,), [110, 121], runner, start=[290, 291, 292, 293, 294])
    # 120 and 122 are as near; behind 122 stand 131 and 140.
    assert guess.tokens.tolist() == [1103, 1105]
    guess = after(it, tree, said, (0,), [110, 126], runner, start=[290, 291, 292, 293, 294])
    assert guess.tokens.tolist() == [1102, 1104]
    # The bonus takes the place of the first token: the branch of 200 has one node.
    guess = after(it, tree, said, (), [190], runner, start=[290, 291, 292, 293, 294])
    assert guess.tokens.tolist() == [1109, 292, 293]  # the last action where nothing was said


@RUNNERS
def test_a_branch_that_leaves_the_accepted_path_earlier_is_not_heard(runner, lab):
    it = lab(0, 4, 1)
    tree = TokenTree.of([200, 110, 121, 120], [-1, -1, 0, 1], 'guess')
    guess = after(it, tree, [1100, 1101, 1102, 1103], (1,), [110, 121], runner)
    assert guess.tokens.tolist() == [1103]  # not behind 200, 121, though the bonus is 121


@RUNNERS
def test_nothing_behind_an_accepted_branch_is_filled_from_the_last_action(runner, lab):
    it = lab(0, 5, 1)
    tree = TokenTree.of([110, 111, 120], [-1, 0, -1], 'guess')
    guess = after(it, tree, [1, 2, 3], (0, 1), [110, 111, 130], runner, start=[290] * 5)
    assert guess.tokens.tolist() == [290]


def test_a_tree_of_which_all_stayed_or_none_was_has_no_words(lab):
    it = lab(0, 7, 1)
    assert len(after(it, TokenTree.chain([110, 120]), [1, 2], (0, 1), [110, 120, 130])) == 0
    assert len(after(it, TokenTree.empty(), [], (), [110])) == 0
    assert len(Jacobi().drafter(None).propose(DraftContext(None, it.space, None, [110]))) == 0


def test_never_deeper_than_what_a_draft_can_save(lab):
    it = lab(0, 4, 1)
    tree = TokenTree.chain([110, 120, 130])
    assert after(it, tree, [121, 131, 141], (), [111]).tokens.tolist() == [121, 131]
    assert len(after(it, tree, [121, 131, 141], (0,), [110, 121])) == 1
    assert len(after(it, tree, [121, 131, 141], (0, 1), [110, 120, 131])) == 0


@RUNNERS
def test_words_that_are_not_finite_become_tokens_that_have_an_embedding(runner, lab):
    it = lab(0, 5, 1)
    guess = after(it, TokenTree.chain([110, 120, 130, 140]), [-1] * 4, (), [111], runner)
    assert guess.tokens.tolist() == [it.space.tokenizer.first_id] * 3


def test_alone_it_starts_from_the_last_action_or_the_middle(lab):
    it = lab(0, 3, 1)
    context = DraftContext(Target(it.model), it.space, None, [])
    middle = it.space.tokenizer.encode(np.zeros(2)).tolist()
    last, constant = (Jacobi(start).drafter(None) for start in ('last', 'middle'))
    for drafter in (last, constant):
        assert drafter.guess(context).tokens.tolist() == middle
        drafter.remember([290, 291, 292])
    assert last.guess(context).tokens.tolist() == [290, 291]
    assert constant.guess(context).tokens.tolist() == middle
    last.reset()
    assert last.guess(context).tokens.tolist() == middle


@pytest.mark.parametrize(('executed', 'expected'), [
    (None, [290, 291, 292, 293, 294]), (0, [290, 291, 292, 293, 294]),
    (1, [292, 293, 294, 295, 294]), (2, [294, 295, 294, 295, 294]),
    (3, [294, 295, 294, 295, 294])])
def test_of_a_chunk_it_starts_from_what_was_not_executed(lab, executed, expected):
    it, drafter = lab(0, 2, 3), Jacobi().drafter(None)
    drafter.remember([290, 291, 292, 293, 294, 295])
    now = DraftContext(Target(it.model), it.space, None, [], Situation(executed=executed))
    assert drafter.guess(now).tokens.tolist() == expected
    drafter.reset()
    assert len(set(drafter.guess(now).tokens.tolist())) == 1  # the middle


def test_alone_it_is_jacobi_decoding(lab):
    """PD-VLA: one pass says all tokens anew, given the guesses before; what is right stays."""
    for seed in range(4):
        it = lab(seed, 5, 2)
        first_id, length = it.space.tokenizer.first_id, it.space.length
        guess = [int(it.space.tokenizer.encode([0.0])[0])] * length
        prompt, right, passes, known = it.model.embed(*it.prompt), it.ar(), 0, 0
        while known < length:
            sequence = torch.cat((prompt, it.model.embed_tokens(torch.tensor([guess[:-1]]))), 1)
            logits = it.model.logits(it.model(sequence))[0, -length:]
            guess = (logits[:, first_id : first_id + 256].argmax(-1) + first_id).tolist()
            passes += 1
            # The longest start that a pass was given and says again, and one token more.
            known = next((at for at in range(length) if guess[at] != right[at]), length)
        tokens, trace = it.decode(Jacobi('middle').drafter(None), Strict())
        assert tokens == right
        assert trace.target_passes == passes


kinds = {
    'alone': lambda it, seed: Jacobi().drafter(None),
    'middle': lambda it, seed: Jacobi('middle').drafter(None),
    'guesser': lambda it, seed: relay(it.guesser(seed)),
    'history': lambda it, seed: relay(HistoryDrafter(ConstantVelocity()), HistoryDrafter(Held())),
    'glance': lambda it, seed: relay(
        HistoryDrafter(Held()), it.glance(seed, GlanceSettings(within=3, branches=3))),
    'eagle': lambda it, seed: relay(HistoryDrafter(Held()), it.eagle(seed, TreeBudget(2, 3, 8))),
}


def relay(*drafters):
    """Relay of drafters, with the target's own words behind them."""
    return RelayDrafter([*drafters, Jacobi().drafter(None)])


@given(
    seed=st.integers(0, 2**20), layout=st.tuples(st.integers(1, 8), st.integers(1, 3)),
    kind=st.sampled_from(sorted(kinds)), remembered=st.integers(0, 2),
    runner=st.sampled_from(['plain', 'plain', 'graphs']))
@settings(max_examples=60, deadline=None)
def test_strict_is_ar_whatever_was_guessed(seed, layout, kind, remembered, runner, lab):
    it = lab(seed % 4, *layout)
    drafter, right = kinds[kind](it, seed), it.ar()
    random, tokenizer = np.random.default_rng(seed), it.space.tokenizer
    for _ in range(remembered):
        off = random.choice([0, 0, 0, -1, 1, 9], len(right))
        drafter.remember(np.clip(right + off, tokenizer.first_id, tokenizer.last_id).tolist())
    tokens, trace = it.decode(drafter, Strict(), runner)
    assert tokens == right
    assert sum(gained for _, gained in trace.drafts) + trace.target_passes == len(tokens)


@given(seed=st.integers(0, 2**20), kind=st.sampled_from(sorted(kinds)))
@settings(max_examples=12, deadline=None)
def test_graphs_and_their_padding_change_no_guess(seed, kind, lab):
    it = lab(seed % 4, 6, 2)
    plain, graphs = (
        it.decoder(kinds[kind](it, seed), Bins(40), runner) for runner in ('plain', 'graphs'))
    for prompt in (it.prompt, it.longer_prompt, it.prompt):
        tokens, trace = plain.decode(*prompt)
        again, other = graphs.decode(*prompt)
        assert (again, other.drafts, other.sources) == (tokens, trace.drafts, trace.sources)
        for decoder in (plain, graphs):
            decoder.drafter.remember(tokens)


class Once(Drafter):
    """Guesses given tokens in the prefill and nothing later."""

    def __init__(self, tokens):
        self.tokens = tokens

    def guess(self, context):
        return TokenTree.chain(self.tokens[: context.max_depth], 'once')

    def propose(self, context):
        return TokenTree.empty()


def test_a_relay_goes_on_with_own_words_and_says_so(lab):
    it = lab(1, 7, 1)
    right = it.ar()
    wrong = [*right[:2], right[2] ^ 1, *right[3:]]
    tokens, trace = it.decode(relay(Once(wrong)), Strict())
    assert tokens == right
    assert trace.drafts[0] == (6, 2)
    assert trace.sources[:3] == ['once', 'once', 'target']
    assert set(trace.sources[3:]) <= {'jacobi', 'target'}
    assert all(drafted for drafted, _ in trace.drafts[1:-1])


def test_own_words_are_right_where_the_target_is_deaf_to_the_wrong_one(lab):
    it = lab(0, 7, 1)
    it.model = lab.new_model(0)
    with torch.no_grad():
        it.model.language_model.embed_tokens.weight[it.space.tokenizer.first_id :] = 0
    right = it.ar()
    once = Once([right[0] ^ 1, *(right[1:])])
    tokens, trace = it.decode(relay(once), Strict())
    assert tokens == right
    assert trace.drafts == [(6, 0), (5, 5)]
    assert trace.sources == ['target', *['jacobi'] * 5, 'target']


def test_where_nothing_was_drafted_the_one_before_it_proposes(lab):
    it = lab(0, 7, 1)
    eagle = it.eagle(1, TreeBudget(1, 5, 6))
    asked = []
    eagle.propose = lambda context, propose=eagle.propose: (
        asked.append(len(context.tokens)) or propose(context))
    _, trace = it.decode(relay(eagle), Strict())
    assert trace.drafts[0] == (0, 0)  # a relay's prefill has only what the others guess
    assert asked[0] == 1
    assert trace.drafts[1][0] == 5
    assert trace.target_passes > 2


def test_the_preset_needs_no_weights(lab):
    config = load_preset('jacobi')
    drafter = make_drafter(config.drafter.name, config.drafter.settings_on('cpu'), {})
    it = lab(2, 7, 1)
    tokens, trace = it.decode(drafter, Strict())
    assert tokens == it.ar()
    assert trace.drafts[0][0] == 6
    assert set(trace.sources) <= {'jacobi', 'target'}


@pytest.mark.parametrize(('given', 'message'), [
    ({'start': 'first'}, r"start of the drafter jacobi is 'first', must be one of \['last', 'mid"),
    ({'start': 3}, 'start of the drafter jacobi is 3'),
    ({'start': ['last']}, r"start of the drafter jacobi is \['last'\]"),
    ({'depth': 3}, 'drafter jacobi has no setting depth; it has start'),
])
def test_what_it_can_not_be(given, message):
    with pytest.raises(SpecVLAError, match=message):
        make_drafter('jacobi', given, {})
