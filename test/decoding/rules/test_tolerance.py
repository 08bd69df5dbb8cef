"""A tolerance in mm and degrees bounds each axis, whatever a bin is worth there."""

from dataclasses import replace
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from specvla_ros.action_space import ActionSpace
from specvla_ros.decoding.acceptance import Acceptance
from specvla_ros.decoding.rules import make_rule
from specvla_ros.decoding.rules.tolerance import Tolerance
from specvla_ros.decoding.target import Verification
from specvla_ros.decoding.tree import TokenTree
from specvla_ros.graphs import Runner
from specvla_ros.openvla.action_tokenizer import ActionTokenizer
from specvla_ros.situation import UNKNOWN

TOKENIZER = ActionTokenizer(32000)
# mm: 0.4, 0.25, 2; degrees: 0.02, 0.1, 1; the gripper.
SI = (4e-4, 2.5e-4, 2e-3, *map(math.radians, (0.02, 0.1, 1.0)), 2 / 255)
SPACE = ActionSpace(TOKENIZER, 7, 2, SI)


class Here:
    device = torch.device('cpu')


def test_each_dimension_has_its_own_bins_and_each_step_of_a_chunk_the_same():
    step = (5, 8, 1, 25, 5, 0, 0)
    assert Tolerance(mm=2, deg=0.5).reach(SPACE, UNKNOWN) == 2 * step
    assert Tolerance(mm=0, deg=0.1).reach(SPACE, UNKNOWN) == 2 * (0, 0, 0, 5, 1, 0, 0)
    assert Tolerance(mm=0, deg=0, gripper=0.05).reach(SPACE, UNKNOWN) == 2 * (*[0] * 6, 6)


def test_a_tolerance_of_whole_bins_is_these_bins():
    for bins in range(1, 100):
        rule = Tolerance(mm=bins * 0.05 / 127.5 * 1e3, deg=0)
        space = replace(SPACE, bin_si=(0.05 / 127.5,) * 7)
        assert rule.reach(space, UNKNOWN)[:4] == (bins, bins, bins, 0)


def test_without_an_end_all_tokens_may_stay_and_nothing_off_is_exact_even_where_nothing_moves():
    space = replace(SPACE, bin_si=(0.0, *SI[1:]))
    assert Tolerance(math.inf, math.inf, 1.0).reach(space, UNKNOWN) == 2 * (*[255] * 6, 127)
    assert Tolerance(1e300, 0.0).reach(space, UNKNOWN)[:4] == (255, 255, 255, 0)
    assert Tolerance(1e-9, 0.0).reach(space, UNKNOWN)[:4] == (255, 0, 0, 0)
    assert Tolerance(0, 0).reach(space, UNKNOWN) == (0,) * 14


@pytest.mark.parametrize(('action_dim', 'step'), [
    (1, (0,)), (3, (5, 5, 0)), (5, (5, 5, 5, 28, 0)), (8, (*[5] * 3, *[28] * 4, 0))])
def test_the_last_dimension_is_the_gripper_and_the_first_three_are_translations(action_dim, step):
    space = ActionSpace(TOKENIZER, action_dim, 1, (4e-4,) * action_dim)
    assert Tolerance(2, math.degrees(28.5 * 4e-4)).reach(space, UNKNOWN) == step


@given(
    drafts=st.lists(st.tuples(st.integers(31744, 31999), st.integers(-40, 40)), min_size=14,
                    max_size=14),
    mm=st.floats(0, 20), deg=st.floats(0, 5), gripper=st.floats(0, 1),
    worth=st.lists(st.floats(1e-5, 1e-2), min_size=7, max_size=7),
)
@settings(max_examples=200, deadline=None)
def test_what_stays_is_within_the_tolerance_and_what_is_within_stays(
    drafts, mm, deg, gripper, worth
):
    space = replace(SPACE, bin_si=tuple(worth))
    own = [token for token, _ in drafts]
    tree = TokenTree.chain([min(max(token + off, 31744), 31999) for token, off in drafts][:-1])
    acceptance = Acceptance(Tolerance(mm, deg, gripper), None, space, Here())
    verified = Verification(
        torch.tensor(own), torch.zeros(14, 256), Runner(), torch.zeros(14, dtype=torch.int64))
    kept = acceptance.accept(tree, verified, [], acceptance.terms(UNKNOWN)).nodes
    limits = [mm / 1e3] * 3 + [math.radians(deg)] * 3 + [gripper]

    def off(node):
        apart = abs(int(tree.tokens[node]) - own[node])
        return apart * worth[node % 7], apart

    for node in kept:
        assert off(node)[0] <= limits[node % 7] * (1 + 1e-6) + 1e-9 * worth[node % 7]
    if len(kept) < len(tree):  # the first that did not stay is too far off
        distance, apart = off(len(kept))
        assert apart > 0 and distance > limits[len(kept) % 7] * (1 - 1e-6)


def test_the_vector_is_off_by_at_most_the_root_of_three_and_a_chunk_by_all_its_steps():
    """What the docstring says of vectors and chunks is what the reach allows at most."""
    worst = [bins * worth for bins, worth in zip(
        Tolerance(mm=3).reach(SPACE, UNKNOWN), 2 * SI, strict=True)]
    for step in (worst[:3], worst[7:10]):
        assert 3e-3 * 0.9 < max(step) and math.hypot(*step) <= math.sqrt(3) * 3e-3
    assert all(a + b <= 2 * 3e-3 for a, b in zip(worst[:3], worst[7:10], strict=True))


def test_without_the_worth_of_a_bin_there_is_one_clear_line():
    with pytest.raises(ValueError, match='needs to know what a bin is worth.*take the rule bins'):
        Tolerance().reach(replace(SPACE, bin_si=()), UNKNOWN)


@pytest.mark.parametrize(('settings', 'message'), [
    ({'mm': -1}, 'mm of the rule tolerance is -1, must be a number from 0 to inf'),
    ({'mm': float('nan')}, 'mm of the rule tolerance is nan'),
    ({'deg': '1'}, "deg of the rule tolerance is '1'"),
    ({'deg': True}, 'deg of the rule tolerance is True'),
    ({'gripper': 1.5}, 'gripper of the rule tolerance is 1.5, must be a number from 0 to 1'),
    ({'mm': None}, 'mm of the rule tolerance is None'),
    ({'m': 1}, 'no setting m; it has mm, deg, gripper'),
])
def test_what_a_tolerance_can_not_be(settings, message):
    with pytest.raises(ValueError, match=message):
        make_rule('tolerance', settings)
