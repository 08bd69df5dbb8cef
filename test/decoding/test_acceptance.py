from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from specvla_ros.decoding.acceptance import ActionLayout, Bins, make_rule, Path, Strict
from specvla_ros.decoding.target import Verified
from specvla_ros.decoding.tree import TokenTree
from specvla_ros.openvla.action_tokenizer import ActionTokenizer

TOKENIZER = ActionTokenizer(32000)
LAYOUT = ActionLayout(TOKENIZER, action_dim=7)
rules = st.one_of(
    st.just(Strict()), st.builds(Bins, r=st.integers(0, 20), gripper_exact=st.booleans())
)


def accept(rule, tree, own, position=0, layout=LAYOUT):
    # One word per row of the tree, as the target gives them.
    verified = Verified(torch.tensor(own[: len(tree) + 1]), torch.empty(0))
    return rule.accept(tree, verified, position, layout)


def allows(rule, *draft):
    """Ask a rule about one draft: its token, the target's, its position."""
    return bool(rule.allows(*(torch.tensor([number]) for number in draft), LAYOUT))


@st.composite
def verified_trees(draw):
    """Draw a tree and the target's own tokens, near each other, the lowest of them no actions."""
    near = st.integers(31738, 31758)
    lists = draw(st.lists(st.lists(near, max_size=4), max_size=2))
    # Enough siblings that paths tie for the longest.
    lists += [[draw(near), *path] for path in lists for _ in range(draw(st.integers(0, 3)))]
    tree = TokenTree.from_paths(lists)
    return tree, draw(st.lists(near, min_size=len(tree) + 1, max_size=len(tree) + 1))


def reference(rule, tree, own, position):
    """Judge every path of the tree by itself."""
    def distance(node):
        target = own[int(tree.parents[node]) + 1]
        return abs(TOKENIZER.bins(int(tree.tokens[node])) - TOKENIZER.bins(target))

    paths = [()]
    for node in range(len(tree)):
        path = tree.path_to(node)
        if all(
            allows(rule, int(tree.tokens[n]), own[int(tree.parents[n]) + 1], position + level)
            for level, n in enumerate(path)
        ):
            paths.append(tuple(path))
    return min(paths, key=lambda path: (-len(path), sum(distance(node) for node in path)))


@given(verified_trees(), rules, st.integers(0, 13))
@settings(max_examples=300, deadline=None)
def test_the_longest_then_the_closest_path_and_the_targets_bonus(verified, rule, position):
    tree, own = verified
    path = accept(rule, tree, own, position)
    nodes = reference(rule, tree, own, position)
    last = nodes[-1] if nodes else -1
    assert path == Path(nodes, tuple(tree.tokens[list(nodes)].tolist()), own[last + 1])
    assert all(tree.parents[child] == parent for parent, child in pairwise(path.nodes))


def test_strict_keeps_only_the_targets_own():
    tree = TokenTree.from_paths([[31800, 31801], [31800, 31802, 31803]])
    #                 root   31800  31801  31802  31803
    own = [31800, 31802, 31990, 31803, 31777]
    assert accept(Strict(), tree, own) == Path((0, 2, 3), (31800, 31802, 31803), 31777)
    assert accept(Strict(), tree, [31801, *own[1:]]) == Path((), (), 31801)


def test_of_equally_long_paths_the_closest_stays_and_not_the_first():
    tree = TokenTree.from_paths([[31805], [31798], [31802]])
    assert accept(Bins(9), tree, [31800, 1, 2, 3]) == Path((1,), (31798,), 2)
    # A longer path beats a closer one.
    tree = TokenTree.from_paths([[31800], [31809, 31850]])
    assert accept(Bins(9), tree, [31800, 31900, 31850, 31777]).tokens == (31809, 31850)


def test_the_threshold_is_inclusive():
    tree = TokenTree.chain([31809])
    assert accept(Bins(9), tree, [31800, 31777]).tokens == (31809,)
    assert accept(Bins(8), tree, [31800, 31777]).tokens == ()


@pytest.mark.parametrize('position', [6, 13])
def test_the_gripper_is_exact_unless_told_otherwise(position):
    tree, own = TokenTree.chain([31801]), [31800, 31777]
    chunked = ActionLayout(TOKENIZER, action_dim=7, chunk=2)
    assert accept(Bins(9), tree, own, position, chunked).tokens == ()
    assert accept(Bins(9, gripper_exact=False), tree, own, position, chunked).tokens == (31801,)
    assert accept(Bins(9), tree, own, position - 1, chunked).tokens == (31801,)
    assert accept(Bins(9), tree, [31801, 31777], position, chunked).tokens == (31801,)


@pytest.mark.parametrize(('draft', 'own'), [(31744, 31743), (31743, 31744), (31740, 31741)])
def test_only_action_tokens_are_relaxed(draft, own):
    assert accept(Bins(9), TokenTree.chain([draft]), [own, 31777]).tokens == ()
    assert accept(Bins(9), TokenTree.chain([draft]), [draft, 31777]).tokens == (draft,)


def test_ids_that_share_a_bin_are_still_two_tokens():
    assert TOKENIZER.bins(31744) == TOKENIZER.bins(31745)
    assert accept(Bins(0), TokenTree.chain([31745]), [31744, 31777]).tokens == ()


@pytest.mark.parametrize(
    ('name', 'settings', 'message'),
    [
        ('lenient', {}, "rule is 'lenient', must be one of"),
        ('strict', {'r': 3}, 'rule strict has no setting r; it has none'),
        ('bins', {'radius': 3}, 'no setting radius; it has r, gripper_exact'),
        ('bins', {'r': -1}, 'r of the rule bins is -1, must be a whole number >= 0'),
        ('bins', {'r': 2.5}, 'r of the rule bins is 2.5'),
        ('bins', {'r': True}, 'r of the rule bins is True'),
        ('bins', {'gripper_exact': 'no'}, "gripper_exact of the rule bins is 'no'"),
    ],
)
def test_what_a_rule_can_not_be(name, settings, message):
    with pytest.raises(ValueError, match=message):
        make_rule(name, settings)


def test_an_action_has_at_least_one_token():
    with pytest.raises(ValueError, match='chunk 0'):
        ActionLayout(TOKENIZER, 7, 0)
