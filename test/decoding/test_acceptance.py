from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from specvla_ros.action_space import ActionSpace
from specvla_ros.decoding.acceptance import Acceptance
from specvla_ros.decoding.rules import make_rule
from specvla_ros.decoding.rules.bins import Bins
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.decoding.target import Verification
from specvla_ros.decoding.tree import Accepted, TokenTree
from specvla_ros.graphs import Runner
from specvla_ros.openvla.action_tokenizer import ActionTokenizer
from specvla_ros.situation import Situation, UNKNOWN

TOKENIZER = ActionTokenizer(32000)
SPACE = ActionSpace(TOKENIZER, action_dim=7, chunk=3)
rules = st.one_of(
    st.just(Strict()), st.builds(Bins, r=st.integers(0, 20), gripper_exact=st.booleans())
)


class Here:
    """All that acceptance asks of a target."""

    device = torch.device('cpu')
    model = SimpleNamespace(dtype=torch.float32)


def accept(rule, tree, own, position=0, guard=None):
    """Let a rule decide on what the target says, one token for each row of the tree."""
    verified = Verification(
        torch.tensor(own[: len(tree) + 1]), torch.zeros(len(tree) + 1, 256), Runner(),
        torch.zeros(len(tree) + 1, dtype=torch.int64))
    acceptance = Acceptance(rule, guard, SPACE, Here())
    known = [TOKENIZER.first_id] * position
    return acceptance.accept(tree, verified, known, acceptance.terms(UNKNOWN))


@st.composite
def verified_trees(draw):
    """Draw a tree and the target's own tokens, near each other; the lowest are no actions."""
    near = st.integers(31738, 31758)
    lists = draw(st.lists(st.lists(near, max_size=4), max_size=2))
    # Enough siblings that paths tie for the longest.
    lists += [[draw(near), *path] for path in lists for _ in range(draw(st.integers(0, 3)))]
    tree = TokenTree.from_paths(lists)
    return tree, draw(st.lists(near, min_size=len(tree) + 1, max_size=len(tree) + 1))


def reference(rule, tree, own, position):
    """Judge every path of the tree by itself."""
    reach = rule.reach(SPACE, UNKNOWN)

    def choice(node):
        return own[int(tree.parents[node]) + 1]

    def stays(node, at):
        draft = int(tree.tokens[node])
        actions = TOKENIZER.is_action(draft) and TOKENIZER.is_action(choice(node))
        return actions and abs(draft - choice(node)) <= reach[at]

    def distance(node):
        return abs(TOKENIZER.bins(int(tree.tokens[node])) - TOKENIZER.bins(choice(node)))

    paths = [()]
    for node in range(len(tree)):
        path = tuple(tree.ancestor_mask[node].nonzero().flatten().tolist())
        if all(stays(n, position + level) for level, n in enumerate(path)):
            paths.append(path)
    return min(paths, key=lambda path: (-len(path), sum(distance(node) for node in path)))


@given(verified_trees(), rules, st.integers(0, 13))
@settings(max_examples=300, deadline=None)
def test_the_longest_then_the_closest_path_and_the_targets_bonus(verified, rule, position):
    tree, own = verified
    accepted = accept(rule, tree, own, position)
    nodes = reference(rule, tree, own, position)
    last = nodes[-1] if nodes else -1
    assert accepted == Accepted(nodes, tuple(tree.tokens[list(nodes)].tolist()), own[last + 1])
    assert all(tree.parents[child] == parent for parent, child in pairwise(accepted.nodes))


def test_strict_keeps_only_the_targets_own():
    tree = TokenTree.from_paths([[31800, 31801], [31800, 31802, 31803]])
    #                 root   31800  31801  31802  31803
    own = [31800, 31802, 31990, 31803, 31777]
    assert accept(Strict(), tree, own) == Accepted((0, 2, 3), (31800, 31802, 31803), 31777)
    assert accept(Strict(), tree, [31801, *own[1:]]) == Accepted((), (), 31801)


def test_of_equally_long_paths_the_closest_stays_and_not_the_first():
    tree = TokenTree.from_paths([[31805], [31798], [31802]])
    assert accept(Bins(9), tree, [31800, 1, 2, 3]) == Accepted((1,), (31798,), 2)
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
    assert accept(Bins(9), tree, own, position).tokens == ()
    assert accept(Bins(9, gripper_exact=False), tree, own, position).tokens == (31801,)
    assert accept(Bins(9), tree, own, position - 1).tokens == (31801,)
    assert accept(Bins(9), tree, [31801, 31777], position).tokens == (31801,)


@pytest.mark.parametrize(
    ('draft', 'own'), [(31744, 31743), (31743, 31744), (31740, 31741), (31743, 31743), (31744, -1)]
)
def test_only_action_tokens_may_stay(draft, own):
    with nullcontext() if own > 0 else pytest.raises(ValueError, match='not finite'):
        assert accept(Bins(31999), TokenTree.chain([draft]), [own, 31777]).tokens == ()


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


@dataclass(frozen=True)
class Reach:
    """A rule that answers what it was made with."""

    answer: tuple

    def reach(self, space, situation):
        return self.answer


def test_a_reach_is_of_each_token_and_none_may_stay_below_zero():
    tree, own = TokenTree.chain([31801, 31802, 31803]), [31800, 31802, 31800, 31777]
    for known, reach in ((0, (1, 0, 3)), (2, (-1, -1, 1, 0, 3))):
        rule = Reach((*reach, *[-1] * (SPACE.length - len(reach))))
        assert accept(rule, tree, own, known).tokens == (31801, 31802, 31803)
    assert accept(Reach((1, -1, *[9] * 19)), tree, own).tokens == (31801,)
    assert accept(Reach((-1,) * 21), TokenTree.chain([31800]), own) == Accepted((), (), 31800)


@pytest.mark.parametrize('answer', [(), (1,) * 20, (1,) * 22, (0.5,) * 21, ('1',) * 21])
def test_a_reach_that_is_none_is_one_clear_line(answer):
    with pytest.raises(ValueError, match='must be 21 whole numbers'):
        accept(Reach(answer), TokenTree.empty(), [31777])


def test_a_rule_may_answer_by_the_situation():
    class Slower:
        def reach(self, space, situation):
            return (9 if situation.steps > 10 else 0,) * space.length

    acceptance = Acceptance(Slower(), None, SPACE, Here())
    verified = Verification(
        torch.tensor([31800, 31777]), torch.zeros(2, 256), Runner(),
        torch.zeros(2, dtype=torch.int64))
    for steps, kept in ((0, 0), (11, 1), (5, 0)):
        terms = acceptance.terms(Situation(steps=steps))
        accepted = acceptance.accept(TokenTree.chain([31805]), verified, [], terms)
        assert len(accepted.nodes) == kept


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'chunk': 0}, 'chunk 0, both must be at least 1, whole numbers'),
        ({'chunk': 1.5}, 'chunk 1.5'), ({'chunk': True}, 'chunk True'),
        ({'action_dim': -1}, 'action_dim is -1'),
        ({'bin_si': (0.1,)}, 'bin_si has 1 numbers, must have one for each of the 7'),
    ],
)
def test_what_an_action_space_can_not_be(settings, message):
    with pytest.raises(ValueError, match=message):
        ActionSpace(**{'tokenizer': TOKENIZER, 'action_dim': 7, **settings})


class Rated(Reach):
    """A rule that rates drafts, and lets all of them stay."""

    def stays(self, drafts, space):
        return torch.ones_like(drafts.bins, dtype=torch.bool)


@pytest.mark.parametrize('tree, own, copies', [
    (TokenTree.empty(), [31800], 0), (TokenTree.chain([31801]), [31800, 31777], 1)])
def test_a_rating_without_drafts_copies_no_tokens_to_the_device(monkeypatch, tree, own, copies):
    """A rating is of drafts: where there are none, nothing asks for the tokens before them."""
    made, copied = torch.tensor, []

    def tensor(data, **more):
        copied.extend(data if isinstance(data, list) and len(data) == 2 else ())
        return made(data, **more)

    monkeypatch.setattr(torch, 'tensor', tensor)
    accepted = accept(Rated((9,) * SPACE.length), tree, own)
    assert (accepted.tokens, accepted.bonus) == (tuple(tree.tokens.tolist()), own[-1])
    assert sum(isinstance(row, list) and len(row) == SPACE.length for row in copied) == 2 * copies
