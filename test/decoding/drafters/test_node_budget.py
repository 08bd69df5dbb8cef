"""Guesses as one tree within a budget: what is shared, who stays, and what is learned."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from specvla_ros.decoding.drafters import DraftContext, Drafter, make_drafter, RelayDrafter
from specvla_ros.decoding.drafters.branch_rates import Branch
from specvla_ros.decoding.drafters.node_budget import MergedGuesses
from specvla_ros.decoding.tree import TokenTree
from specvla_ros.errors import SpecVLAError

paths = st.lists(st.integers(0, 2), min_size=1, max_size=4)


def kept(tree):
    """Nodes of a tree as the tokens on the way to them, with their sources."""
    ways, found = {-1: ()}, {}
    nodes = zip(tree.tokens.tolist(), tree.parents.tolist(), tree.sources, strict=True)
    for node, (token, parent, source) in enumerate(nodes):
        ways[node] = (*ways[parent], token)
        found[ways[node]] = source
    return found


def taught(most, right, wrong, actions=30):
    """Guesses of which one source was always right and another one never."""
    guesses = MergedGuesses(most)
    for _ in range(actions):
        guesses.merge([TokenTree.chain(wrong, 'wrong'), TokenTree.chain(right, 'right')], 5)
        guesses.judge([*right, 0], judged=5)
    return guesses


def test_what_is_common_at_the_start_is_one_node_of_the_earlier_source():
    tree = MergedGuesses().merge(
        [TokenTree.chain([1, 2, 3], 'first'), TokenTree.chain([1, 2, 4], 'second')], 4)
    assert kept(tree) == {(1,): 'first', (1, 2): 'first', (1, 2, 3): 'first', (1, 2, 4): 'second'}


def test_who_was_right_gets_the_nodes():
    guesses = taught(4, right=[1, 2, 3, 4], wrong=[5, 6, 7, 8])
    tree = guesses.merge(
        [TokenTree.chain([9, 9, 9, 9], 'wrong'), TokenTree.chain([1, 1, 1, 1], 'right')], 5)
    assert set(kept(tree).values()) == {'right'} and len(tree) == 4


def test_a_source_that_was_left_out_is_measured_and_comes_back_when_it_is_right():
    guesses = taught(4, right=[1, 2, 3, 4], wrong=[5, 6, 7, 8])
    for _ in range(60):
        guesses.merge(
            [TokenTree.chain([1, 2, 3, 4], 'wrong'), TokenTree.chain([5, 6, 7, 8], 'right')], 5)
        guesses.judge([1, 2, 3, 4, 0], judged=5)
    tree = guesses.merge(
        [TokenTree.chain([1, 2, 3, 4], 'wrong'), TokenTree.chain([5, 6, 7, 8], 'right')], 5)
    assert set(kept(tree).values()) == {'wrong'}


def test_a_drafters_choices_are_measured_apart():
    guesses = MergedGuesses(2)
    for _ in range(30):
        guesses.merge([TokenTree.from_paths([[1, 2], [3, 4]], 'glance')], 3)
        guesses.judge([3, 4, 0], judged=3)
    assert kept(guesses.merge([TokenTree.from_paths([[1, 2], [3, 4]], 'glance')], 3)) == {
        (3,): 'glance', (3, 4): 'glance'}
    assert guesses.rates.rates(Branch('glance', 1))[0] > 0.9 > 0.1 > guesses.rates.rates(
        Branch('glance', 0))[0]


@given(st.lists(st.lists(paths, max_size=4), max_size=4), st.integers(1, 9), st.integers(0, 5))
def test_the_tree_is_within_its_budget_and_a_part_of_all_guesses(sources, most, actions):
    trees = [TokenTree.from_paths(found, f'source{n}') for n, found in enumerate(sources)]
    guesses, again = MergedGuesses(most), MergedGuesses(most)
    for _ in range(actions):
        for each in (guesses, again):
            each.merge(trees, 5)
            each.judge([0, 1, 2, 0, 1], judged=3)
    tree, everything = guesses.merge(trees, 5), MergedGuesses().merge(trees, 5)
    assert len(tree) == min(most, len(everything))
    assert kept(tree).items() <= kept(everything).items()  # with their parents, or no such way
    assert kept(again.merge(trees, 5)) == kept(tree)  # the same history, the same tree


def test_a_branch_is_worth_what_it_adds_to_those_taken():
    guesses = MergedGuesses(6)
    for _ in range(60):
        guesses.merge([
            TokenTree.chain([1, 2, 3, 9], 'often'), TokenTree.chain([1, 2, 3, 8], 'as often'),
            TokenTree.chain([7, 7, 7, 7], 'seldom')], 5)
        guesses.judge([1, 2, 3, 4, 0], judged=5)
        guesses.merge([TokenTree.chain([7, 8], 'seldom')], 5)
        guesses.judge([7, 1, 3, 4, 0], judged=5)
    tree = guesses.merge([
        TokenTree.chain([5, 5, 5, 5], 'often'), TokenTree.chain([5, 5, 5, 6], 'as often'),
        TokenTree.chain([7, 7, 7, 7], 'seldom')], 5)
    # What the second would add stands behind a token that was never right: the third adds more.
    assert kept(tree) == {
        (5,): 'often', (5, 5): 'often', (5, 5, 5): 'often', (5, 5, 5, 5): 'often',
        (7,): 'seldom', (7, 7): 'seldom'}


class Fixed(Drafter):
    """Guesses the same, from the start and after."""

    def __init__(self, tokens, source):
        self.tokens, self.source = tokens, source

    def guess(self, context):
        return TokenTree.chain(self.tokens, self.source)

    def propose(self, context):
        return TokenTree.empty()


def test_a_relay_judges_by_what_the_prefill_decided(lab):
    it = lab(0, 4, 1)
    relay = RelayDrafter([Fixed([110, 120, 130], 'fixed')], nodes=8)
    context = DraftContext(None, it.space, None, [])
    for _ in range(20):
        relay.guess(context)
        relay.propose(DraftContext(None, it.space, None, [110, 121]))  # one was accepted
        relay.propose(DraftContext(None, it.space, None, [110, 121, 130]))
        relay.remember([110, 121, 130, 140])
    first, second, third, _ = relay.guesses.rates.rates(Branch('fixed'))
    assert first > 0.9 and second < 0.1
    assert third == relay.guesses.rates.rates(Branch('fixed'))[3]  # never judged
    relay.reset()
    assert relay.guesses.rates.rates(Branch('fixed')) == [0.5] * 4


def test_an_action_of_one_pass_is_judged_to_its_end(lab):
    it = lab(0, 4, 1)
    relay = RelayDrafter([Fixed([110, 120, 130], 'fixed')], nodes=8)
    for _ in range(20):
        relay.guess(DraftContext(None, it.space, None, []))
        relay.remember([110, 120, 130, 140])
    assert min(relay.guesses.rates.rates(Branch('fixed'))[:3]) > 0.9


@pytest.mark.parametrize('nodes', [0, -1, 2.0, True, '8', 513])
def test_a_budget_that_cannot_be_is_refused(nodes):
    with pytest.raises(SpecVLAError, match='nodes of a relay of drafters is'):
        make_drafter('history+velocity', {'nodes': nodes}, {})


def test_a_budget_is_a_setting_of_a_relay_only():
    assert make_drafter('history+velocity', {'nodes': 8}, {}).guesses.nodes == 8
    with pytest.raises(SpecVLAError, match='no setting nodes'):
        make_drafter('history', {'nodes': 8}, {})
