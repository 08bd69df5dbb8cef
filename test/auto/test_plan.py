"""The plan of `auto`, against what it stands for spelled out."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from specvla_ros.auto.plan import cheapest, Passes

shares = st.floats(0.0, 1.0)


def expected_units(passes, known, depth, left):
    """Return what an action costs from here on if the next guess is so deep, case by case."""
    units, reached = passes.units[depth], 1.0
    for accepted in range(depth):
        hit = passes.hits[known + accepted]
        units += reached * (1 - hit) * left[known + accepted + 1]
        reached *= hit
    return units + reached * left[known + depth + 1]


def spelled_out(prefill, later):
    """Return all that may be chosen with 0, 1, … tokens known: depth → units, the best first."""
    length = len(later.hits)
    left, choices = [0.0] * (length + 1), []
    for known in reversed(range(length)):
        passes = later if known else prefill
        units = {depth: expected_units(passes, known, depth, left)
                 for depth in range(min(len(passes.units), length - known))}
        choices.append(units)
        almost = [depth for depth in units if units[depth] <= 1.05 * min(units.values())]
        left[known] = units[max(almost)]
    return choices[::-1], left[0]


@st.composite
def both_kinds(draw):
    """Return the prefill and later passes of an action; more rows never cost less."""
    length = draw(st.integers(1, 24))
    most = draw(st.sampled_from([1, length]))

    def passes():
        dearer = draw(st.lists(st.floats(0.0, 0.5), min_size=most, max_size=most))
        base = draw(st.floats(0.1, 5.0))
        return Passes(draw(st.lists(shares, min_size=length, max_size=length)),
                      [base + sum(dearer[:depth]) for depth in range(most)])
    return passes(), passes()


@given(both_kinds())
def test_a_plan_is_the_deepest_that_costs_the_least_or_almost(kinds):
    plan = cheapest(*kinds)
    choices, units = spelled_out(*kinds)
    assert plan.units == pytest.approx(units)
    assert len(plan.depths) == len(choices)
    for depth, of_depth in zip(plan.depths, choices, strict=True):
        enough = 1.05 * min(of_depth.values())
        assert of_depth[depth] <= enough * (1 + 1e-9)
        assert all(units > enough * (1 - 1e-9) for other, units in of_depth.items()
                   if other > depth)


@pytest.mark.parametrize(('hit', 'row', 'depths'), [
    (1.0, 0.01, (6, 5, 4, 3, 2, 1, 0)),  # all hold: as deep as there are tokens
    (0.0, 1.0, (0,) * 7),  # none holds, and a row costs as much as a pass
    (0.0, 0.0, (6, 5, 4, 3, 2, 1, 0)),  # none holds, and rows cost nothing
])
def test_how_deep_by_what_a_row_costs_and_gains(hit, row, depths):
    passes = Passes([hit] * 7, [1.0 + row * depth for depth in range(7)])
    plan = cheapest(passes, passes)
    assert plan.depths == depths
    assert plan.units == pytest.approx(1.0 + 6 * row if hit else 7.0)
