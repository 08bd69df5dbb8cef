"""Replayed acceptance: its table, its distribution, and decoders on random weights."""

from collections import Counter

import numpy as np
import pytest
import torch

from specvla_ros.benchmark.observations import made_up, MADE_UP_INSTRUCTION
from specvla_ros.benchmark.projection import check_memory, read_acceptance, read_shape
from specvla_ros.benchmark.replay import DeepDrafter, random_checkpoint, ReplayedRule
from specvla_ros.configuration import load_preset
from specvla_ros.decoding.drafters import Drafter
from specvla_ros.decoding.target import Verified
from specvla_ros.decoding.tree import TokenTree
from specvla_ros.policy import Policy

GOAL_RELAXED = (23.01, 18.98, 39.99, 15.41, 2.53, 0.08)


def said(*tokens):
    """What a target says after the root and after each node."""
    return Verified(torch.tensor(tokens), torch.empty(0))


@pytest.fixture(scope='module')
def checkpoint(tiny_checkpoint):
    return random_checkpoint(
        read_shape(str(tiny_checkpoint)), read_acceptance('libero_goal'), MADE_UP_INSTRUCTION,
        torch.device('cpu'), torch.float32, 'none', seed=0)


def test_the_table_is_the_papers():
    shares = read_acceptance('libero_goal:relaxed').of(load_preset('strict'))
    assert shares == pytest.approx(np.array(GOAL_RELAXED) / 100, abs=1e-4)
    assert sum(shares) == pytest.approx(1)


def test_without_a_rule_each_decoder_has_its_own_row():
    acceptance = read_acceptance('libero_object')
    assert acceptance.of(load_preset('strict'))[0] == pytest.approx(0.4793, abs=1e-4)
    assert acceptance.of(load_preset('relaxed'))[0] == pytest.approx(0.2823, abs=1e-4)


@pytest.mark.parametrize('name', ['libero_goals', 'libero_goal:lax', ''])
def test_a_row_that_is_not_there_is_answered_with_those_that_are(name):
    with pytest.raises(ValueError, match='must be one of libero_goal, .*:strict or :relaxed'):
        read_acceptance(name)


def test_the_rule_reproduces_its_distribution():
    shares = read_acceptance('libero_goal:relaxed').of(load_preset('relaxed'))
    rule, n = ReplayedRule(shares, seed=0), 20_000
    tree = TokenTree.from_paths([[1, 2, 3, 4, 5], [1, 9], [7]])
    verified = said(*range(100, 101 + len(tree)))
    counts = Counter(len(rule.accept(tree, verified, 1, None).nodes) for _ in range(n))
    # Three standard deviations of a share of 40 % in 20,000 draws.
    assert [counts[k] / n for k in range(6)] == pytest.approx(shares, abs=0.0105)


def test_the_accepted_path_is_one_of_the_tree_and_the_bonus_follows_it():
    rule = ReplayedRule((0, 0, 1.0), seed=0)  # always two
    tree = TokenTree.from_paths([[1], [7, 8, 9]])
    verified = said(100, 101, 102, 103, 104)
    path = rule.accept(tree, verified, 1, None)
    assert path.nodes == (1, 2) and path.tokens == (7, 8) and path.bonus == 103


def test_no_more_is_accepted_than_the_tree_is_deep():
    rule = ReplayedRule((0, 0, 0, 1.0), seed=0)
    verified = said(100, 101)
    assert len(rule.accept(TokenTree.chain([5]), verified, 1, None).nodes) == 1
    assert rule.accept(TokenTree.empty(), said(100), 1, None).bonus == 100


def test_a_deep_tree_has_the_nodes_of_the_flat_one():
    class Flat(Drafter):
        def propose(self, context):
            return TokenTree.from_paths([[token] for token in range(9)], 'flat')

    class Context:
        max_depth = 4

    tree = DeepDrafter(Flat(), longest=5).propose(Context())
    assert tree.depth.max() == 4 and len(tree) == 9
    assert tree.tokens.tolist() == list(range(9)) and set(tree.sources) == {'flat'}


def test_decoders_on_random_weights_gain_what_the_table_says(checkpoint):
    frame, instruction = made_up(1).frames[0], MADE_UP_INSTRUCTION
    gained = {}
    for name in ('ar', 'relaxed'):
        policy = Policy(checkpoint, load_preset(name))
        lengths = [n for _ in range(60)
                   for n in policy.act(frame, instruction).trace.acceptance_lengths]
        gained[name] = np.mean(lengths)
    table = np.dot(read_acceptance('libero_goal:relaxed').shares['relaxed'], range(6)) + 1
    assert gained['ar'] == 1
    # An action's end cuts some draws short, so it is a little below the table.
    assert 0.75 * table < gained['relaxed'] <= table


def test_drafters_of_which_nothing_is_published_are_refused(checkpoint):
    with pytest.raises(ValueError, match=r'hybrid drafts with velocity\+history\+eagle'):
        Policy(checkpoint, load_preset('hybrid'))


def test_too_little_memory_is_one_line_with_both_numbers(monkeypatch):
    monkeypatch.setattr('specvla_ros.benchmark.projection._free_bytes', lambda device: 8e9)
    with pytest.raises(ValueError, match=r'need 15.0 GB, cpu has 8.0 GB free; give a smaller'):
        check_memory(15e9, torch.device('cpu'))


def test_free_memory_is_between_a_megabyte_and_all_there_is():
    check_memory(1 << 20, torch.device('cpu'))
    with pytest.raises(ValueError, match='GB free'):
        check_memory(1 << 60, torch.device('cpu'))


def test_an_unknown_shape_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match='--shape 8b: must be 7b or embedded'):
        read_shape('8b')
