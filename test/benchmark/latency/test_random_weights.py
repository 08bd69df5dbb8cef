"""Drawn acceptance: its table, its distribution, and decoders on random weights."""

from collections import Counter

import numpy as np
import pytest
import torch

from specvla_ros.action_space import ActionSpace
from specvla_ros.benchmark.latency.projection import check_memory, read_acceptance, read_shape
from specvla_ros.benchmark.latency.random_weights import (
    DeepDrafter,
    DrawnRule,
    random_checkpoint,
)
from specvla_ros.benchmark.observations import made_up, MADE_UP_INSTRUCTION
from specvla_ros.configuration import load_preset
from specvla_ros.decoding.acceptance import Acceptance
from specvla_ros.decoding.drafters import Drafter
from specvla_ros.decoding.target import Verification
from specvla_ros.decoding.tree import TokenTree
from specvla_ros.graphs import Runner
from specvla_ros.openvla.action_tokenizer import ActionTokenizer
from specvla_ros.policy import Policy
from specvla_ros.situation import UNKNOWN

GOAL_RELAXED = (23.01, 18.98, 39.99, 15.41, 2.53, 0.08)


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


def drafts_kept(rule, tree, n=1):
    """Count of drafts kept by each pass after a prefill, of n actions that are long enough."""
    kept, space = [], ActionSpace(ActionTokenizer(1000), 7, 9)
    own = torch.full((len(tree) + 1,), 900)
    verified = Verification(own, torch.empty(0), Runner(), torch.zeros_like(own))
    acceptance = Acceptance(rule, None, space, Here())
    for _ in range(n):
        terms, tokens = acceptance.terms(UNKNOWN), [900]
        while len(tokens) + int(tree.depth.max()) < space.length:
            accepted = acceptance.accept(tree, verified, tokens, terms)
            tokens += [*accepted.tokens, accepted.bonus]
            kept.append(len(accepted.nodes))
    return kept


class Here:
    """All that acceptance asks of a target."""

    device = torch.device('cpu')


def test_the_rule_reproduces_its_distribution():
    shares = read_acceptance('libero_goal:relaxed').of(load_preset('relaxed'))
    tree = TokenTree.from_paths([[900, 800, 760, 990, 750], [999, 900], [744]])
    kept = drafts_kept(DrawnRule(shares, seed=0), tree, 700)
    counts, n = Counter(kept), len(kept)
    assert n > 15_000
    # Three standard deviations of a share of 40 % in 15,000 draws.
    assert [counts[k] / n for k in range(6)] == pytest.approx(shares, abs=0.012)


def test_any_draft_is_kept_and_none_where_none_was_drawn():
    far, right = TokenTree.chain([999, 744]), TokenTree.chain([900, 900])
    for tree in (far, right):
        assert set(drafts_kept(DrawnRule((0, 0, 1.0), seed=0), tree)) == {2}
        assert set(drafts_kept(DrawnRule((1.0,), seed=0), tree)) == {0}


def test_a_deep_tree_has_the_nodes_of_the_flat_one():
    class Flat(Drafter):
        def propose(self, context):
            return TokenTree.from_paths([[token] for token in range(9)], 'flat')

    class Context:
        max_depth = 4

    tree = DeepDrafter(Flat(), longest=5).propose(Context())
    assert tree.depth.tolist() == [1, 2, 3, 4, 4, 4, 4, 4, 4] and len(tree) == 9
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
    monkeypatch.setattr('specvla_ros.benchmark.latency.projection._free_bytes', lambda device: 8e9)
    with pytest.raises(ValueError, match=r'need 15.0 GB, cpu has 8.0 GB free; give a smaller'):
        check_memory(15e9, torch.device('cpu'))


def test_free_memory_is_between_a_megabyte_and_all_there_is():
    check_memory(1 << 20, torch.device('cpu'))
    with pytest.raises(ValueError, match='GB free'):
        check_memory(1 << 60, torch.device('cpu'))


def test_an_unknown_shape_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match='--shape 8b: must be 7b or embedded'):
        read_shape('8b')
