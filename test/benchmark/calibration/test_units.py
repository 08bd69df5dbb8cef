"""How far actions are from the target's own, and what an episode loses by it."""
from types import SimpleNamespace

import numpy as np
import pytest

from specvla_ros.benchmark.calibration.family import check_family, scaled, thresholds
from specvla_ros.benchmark.calibration.units import (
    DeviationLimits,
    losses,
    measure_scale,
    Unit,
    UnitLog,
)
from specvla_ros.configuration import load_preset


def action(*steps, passes=2):
    return SimpleNamespace(si=np.array(steps, np.float32),
                           trace=SimpleNamespace(target_passes=passes))


STILL = (0,) * 6 + (1,)


def unit(name, *of_scales):
    """Make a unit whose frames are so many mm off, by scale."""
    return Unit(name, True, tuple(
        measure_scale(float(scale), [action((mm / 1e3, *STILL[1:])) for mm in frames],
                 [action(STILL)] * len(frames)) for scale, frames in enumerate(of_scales)))


def test_the_distance_is_that_of_vectors_and_of_the_farthest_control_step():
    off = action((3e-3, 4e-3, 0, 0, 0, np.radians(2), 1), (0, 0, -1e-3, 0, 0, 0, 0.25), passes=3)
    found = measure_scale(1.5, [off], [action(STILL, STILL)])
    assert (found.scale, found.passes) == (1.5, (3,))
    assert found.mm == pytest.approx([5.0]) and found.deg == pytest.approx([2.0])
    assert found.gripper == pytest.approx([0.75])


@pytest.mark.parametrize('limits, exceeded', [
    (DeviationLimits(5.1, 2.1, 0.8), False), (DeviationLimits(4.9, 2.1, 0.8), True),
    (DeviationLimits(5.1, 1.9, 0.8), True),
    (DeviationLimits(5.1, 2.1, 0.7), True)])
def test_any_limit_may_be_exceeded(limits, exceeded):
    off = action((3e-3, 4e-3, 0, 0, 0, np.radians(2), 0.25))
    assert measure_scale(1.0, [off], [action(STILL)]).exceeds(limits).tolist() == [exceeded]


def test_an_episode_loses_by_one_action_or_by_their_share():
    units = [unit('a', [0, 0, 0, 0], [0, 9, 1, 9]), unit('b', [0, 0], [1, 1])]
    limits = DeviationLimits(5, 5, 0.5)
    assert losses(units, limits, 'episodes').tolist() == [[0, 1], [0, 0]]
    assert losses(units, limits, 'actions').tolist() == [[0, 0.5], [0, 0]]


def test_units_are_kept_as_lines(tmp_path):
    log, units = UnitLog(tmp_path / 'it'), [unit('a', [0], [1]), unit('b', [2], [3])]
    for one in units:
        log.append(one)
    assert UnitLog(tmp_path / 'it').episodes == units


@pytest.mark.parametrize('damage, said', [
    (lambda line: line.replace('"passes":[2]', '"passes":[2,2]', 1), 'not of the same frames'),
    (lambda line: line.replace('"mm":', '"cm":'), 'cm'), (lambda line: line[:-1], 'remove')])
def test_a_damaged_line_is_refused(tmp_path, damage, said):
    path = tmp_path / 'it'
    path.write_text(damage(unit('a', [0], [1]).to_json()) + '\n')
    with pytest.raises(ValueError, match=said):
        UnitLog(path)


@pytest.mark.parametrize('name, at_half, at_nothing', [
    ('tolerance', {'mm': 1.0, 'deg': 0.25, 'gripper': 0.0}, {'mm': 0, 'deg': 0, 'gripper': 0}),
    ('glance_relaxed', {'r': 4}, {'r': 0})])
def test_a_scale_multiplies_thresholds_and_nothing_else(name, at_half, at_nothing):
    base = load_preset(name)
    assert thresholds(scaled(base, 0.5)) == at_half and thresholds(scaled(base, 0)) == at_nothing
    half = scaled(base, 0.5)
    assert half.drafter == base.drafter and half.rule.name == base.rule.name
    assert {**half.rule.settings, **thresholds(base)} == {**base.rule.settings, **thresholds(base)}


@pytest.mark.parametrize('name', ['auto', 'auto_relaxed'])
def test_a_choice_of_decoders_is_refused(name):
    with pytest.raises(ValueError, match='give a preset of one drafter'):
        check_family(load_preset(name))


@pytest.mark.parametrize('name', ['ar', 'dynamic', 'sequence'])
def test_a_rule_without_such_thresholds_is_refused(name):
    with pytest.raises(ValueError, match='must be one of tolerance, bins'):
        check_family(load_preset(name))
