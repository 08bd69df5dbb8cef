"""How well risk tells failed episodes from solved ones, on made-up numbers."""

from dataclasses import replace
from itertools import product

from hypothesis import given
from hypothesis import strategies as st
import pytest

from specvla_ros.benchmark.auroc import auroc
from specvla_ros.benchmark.records import EpisodeRecord
from specvla_ros.benchmark.report import rows
from specvla_ros.benchmark.report_tables import figure_lines


@pytest.mark.parametrize(('failed', 'solved', 'area'), [
    ([3], [1, 2], 1.0), ([1], [2, 3], 0.0), ([2], [1, 3], 0.5), ([1, 1], [1, 1, 1], 0.5),
    ([2, 3], [1, 2], 0.875), ([0.4, 0.1], [0.2, 0.3, 0.0], 4 / 6),
    ([], [1], None), ([1], [], None), ([], [], None)])
def test_the_area_by_hand(failed, solved, area):
    assert auroc(failed, solved) == (area if area is None else pytest.approx(area))


numbers = st.lists(st.floats(-5, 5), min_size=1, max_size=12)


@given(failed=numbers, solved=numbers)
def test_it_is_the_share_of_pairs_that_are_told_apart_rightly(failed, solved):
    pairs = [(a > b) + 0.5 * (a == b) for a, b in product(failed, solved)]
    assert auroc(failed, solved) == pytest.approx(sum(pairs) / len(pairs))
    assert auroc(failed, solved) == pytest.approx(1 - auroc(solved, failed))


def episode(make, state, success, risks, **changes):
    actions = [replace(make.action(), risk=risk) for risk in risks]
    return make.episode('relaxed', 0, state, success, actions=tuple(actions), **changes)


def test_an_episodes_risk_is_its_actions_mean_and_is_kept(make):
    played = episode(make, 0, True, [0.1, 0.3, None])
    assert played.risk == pytest.approx(0.2)
    assert EpisodeRecord.from_json(played.to_json()) == played
    assert make.episode().risk is None
    before = make.episode().to_json().replace(',"risk":null', '')  # a file of before
    assert 'risk' not in before and EpisodeRecord.from_json(before) == make.episode()


def test_the_report_says_how_well_risk_tells_failures(make):
    episodes = [
        episode(make, 0, True, [0.125, 0.125]), episode(make, 1, True, [0.375]),
        episode(make, 2, False, [0.25, 0.5]), episode(make, 3, False, [0.25]),
        episode(make, 4, False, [0.9], crash='RuntimeError: "x"')]  # no failure of the policy
    row = rows(episodes, ['relaxed'])[0]
    assert row['risk'] == {
        'failed': 0.3125, 'solved': 0.25, 'failed_episodes': 2,
        'solved_episodes': 2, 'auroc': (1 + 1 + 0.5 + 0) / 4}
    lines = figure_lines(row)
    assert lines['risk of failed / solved episodes'] == '0.312 / 0.250'
    assert lines['  AUROC of it'] == '0.62'
    lines = figure_lines(rows(episodes[:2], ['relaxed'])[0])
    assert lines['risk of failed / solved episodes'] == '– / 0.250' and not lines['  AUROC of it']
    assert 'risk' not in rows([make.episode()], ['ar'])[0]
