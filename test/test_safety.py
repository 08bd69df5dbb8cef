"""What the envelope promises, for every action there can be."""
from dataclasses import replace
import math
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import yaml

from specvla_ros.config_folder import config_folder
from specvla_ros.data_sets import load_dataset
from specvla_ros.errors import SpecVLAError
from specvla_ros.safety import fit
from specvla_ros.safety_settings import FALLBACKS, SafetySettings

PERIOD = 0.05
OFF = SafetySettings(
    (-math.inf,) * 3, (math.inf,) * 3, *[math.inf] * 7, fallback='none')
ARM = SafetySettings.read('safety_arm')
PARTS = slice(0, 3), slice(3, 6)

lengths = st.floats(1e-4, 10)
settings = st.builds(
    SafetySettings,
    st.tuples(*[st.floats(-1, -0.1)] * 3), st.tuples(*[st.floats(0.1, 1)] * 3),
    lengths, lengths, lengths, lengths, lengths, lengths,
    deadline_periods=st.just(10), fallback=st.sampled_from(FALLBACKS))


def vectors(size, most):
    return st.lists(st.floats(-most, most), min_size=size, max_size=size)


actions = st.integers(1, 3).flatmap(
    lambda chunk: st.lists(vectors(7, 2.0), min_size=chunk, max_size=chunk)).map(np.array)
places = vectors(3, 0.1).map(np.array)  # inside every box above


def cost(new, old):
    """Distance from `new` to the way from 0 to `old`, by trying many points of it."""
    return min(np.linalg.norm(new - share * old) for share in np.linspace(0, 1, 2001))


@given(actions, settings, places, vectors(7, 0.5).map(np.array))
def test_what_comes_out_is_inside_every_limit(wanted, limits, place, before):
    before[:6] *= 0.1
    safe = fit(wanted, limits, PERIOD, position_m=place, previous=before).deltas
    for step in safe:
        for part, length, speed, acceleration in (
                (PARTS[0], limits.step_translation_m, limits.speed_m_s, limits.acceleration_m_s2),
                (PARTS[1], limits.step_rotation_rad, limits.turn_rate_rad_s,
                 limits.turn_acceleration_rad_s2)):
            norm = np.linalg.norm(step[part])
            assert norm <= length * (1 + 1e-12)
            assert norm <= speed * PERIOD * (1 + 1e-12)
            grid = np.linalg.norm(before[part]) / 2000
            assert cost(step[part], before[part]) <= acceleration * PERIOD**2 + grid + 1e-12
        place = place + step[:3]
        assert (place >= np.array(limits.workspace_min_m) - 1e-12).all()
        assert (place <= np.array(limits.workspace_max_m) + 1e-12).all()
        assert 0 <= step[6] <= 1
        before = step


@given(actions, settings, places, vectors(7, 0.05).map(np.array))
def test_what_is_inside_is_unchanged_bit_for_bit(wanted, limits, place, before):
    inside = fit(wanted, limits, PERIOD, position_m=place, previous=before).deltas
    # Away from the walls: which side of them a sum of floats falls on is rounding.
    again = fit(inside, replace(limits, workspace_min_m=(-9.0,) * 3, workspace_max_m=(9.0,) * 3),
                PERIOD, position_m=place, previous=before)
    assert again.deltas.tobytes() == inside.tobytes()
    assert (again.limited_by, again.refusal) == ((), '')


@given(actions, settings, vectors(7, 0.05).map(np.array))
def test_scaling_keeps_the_direction_and_never_lengthens(wanted, limits, before):
    safe = fit(wanted, limits, PERIOD, previous=before).deltas
    for got, asked in zip(safe, wanted):
        for part in PARTS:
            norm = np.linalg.norm(asked[part])
            share = np.linalg.norm(got[part]) / norm if norm else 1.0
            assert share <= 1 + 1e-12
            np.testing.assert_allclose(got[part], share * asked[part], atol=1e-9)


@given(actions, places, st.sampled_from([math.nan, math.inf, -math.inf]), st.data())
def test_what_is_not_finite_is_refused(wanted, place, value, data):
    broken = data.draw(st.sampled_from([wanted, place]))
    broken[data.draw(st.sampled_from(list(np.ndindex(broken.shape))))] = value
    verdict = fit(wanted, OFF, PERIOD, position_m=place)
    assert verdict.deltas is None
    assert 'is not finite' in verdict.refusal


@pytest.mark.parametrize('shape', [(7,), (0, 7), (1, 6), (1, 1, 7)])
def test_what_is_no_action_is_refused(shape):
    assert 'must be [control steps, 7]' in fit(np.zeros(shape), OFF, PERIOD).refusal


def delta(x=0.0, y=0.0, z=0.0, turn=0.0, gripper=1.0):
    return np.array([[x, y, z, 0.0, 0.0, turn, gripper]])


@pytest.mark.parametrize('change, wanted, got, name', [
    (dict(step_translation_m=0.01), delta(x=0.04), delta(x=0.01), 'step_translation_m'),
    (dict(step_rotation_rad=0.1), delta(turn=-0.4), delta(turn=-0.1), 'step_rotation_rad'),
    (dict(speed_m_s=0.4), delta(y=0.04), delta(y=0.02), 'speed_m_s'),
    (dict(turn_rate_rad_s=2.0), delta(turn=0.4), delta(turn=0.1), 'turn_rate_rad_s'),
    (dict(acceleration_m_s2=4.0), delta(z=0.04), delta(z=0.01), 'acceleration_m_s2'),
    (dict(turn_acceleration_rad_s2=20.0), delta(turn=0.4), delta(turn=0.05),
     'turn_acceleration_rad_s2'),
    ({}, delta(gripper=1.5), delta(gripper=1.0), 'gripper'),
])
def test_each_limit_holds_alone_and_is_named(change, wanted, got, name):
    verdict = fit(wanted, replace(OFF, **change), PERIOD)
    np.testing.assert_allclose(verdict.deltas, got, rtol=1e-12)
    assert verdict.limited_by == (name,)


def test_speeding_up_takes_several_steps_and_stopping_one():
    limits = replace(OFF, acceleration_m_s2=4.0)  # 0.01 m more a step
    speeding = fit(np.repeat(delta(x=0.05), 4, axis=0), limits, PERIOD).deltas
    np.testing.assert_allclose(speeding[:, 0], [0.01, 0.02, 0.03, 0.04])
    stop = fit(delta(), limits, PERIOD, previous=speeding[-1])
    assert (stop.deltas == delta()).all() and not stop.limited_by
    back = fit(delta(x=-0.04), limits, PERIOD, previous=speeding[-1])
    np.testing.assert_allclose(back.deltas, delta(x=-0.01))


def test_walls_let_slide_along_and_the_way_back_is_free():
    limits = replace(OFF, workspace_min_m=(0.0, 0.0, 0.0), workspace_max_m=(1.0, 1.0, 1.0))
    at_the_wall = fit(delta(x=0.05, y=0.05), limits, PERIOD, position_m=[0.98, 0.5, 0.5])
    np.testing.assert_allclose(at_the_wall.deltas, delta(x=0.02, y=0.05))
    assert at_the_wall.limited_by == ('workspace',)
    outside = [1.2, 0.5, -0.1]
    np.testing.assert_array_equal(
        fit(delta(x=0.05, z=-0.05), limits, PERIOD, position_m=outside).deltas, delta())
    back = fit(delta(x=-0.05, z=0.05), limits, PERIOD, position_m=outside)
    assert (back.deltas == delta(x=-0.05, z=0.05)).all()
    assert not fit(delta(x=0.05), limits, PERIOD).limited_by  # nobody knows where it is


def test_the_default_lets_through_whatever_libero_can_be_told():
    dataset, limits = load_dataset('libero_object'), SafetySettings.read()
    ends = np.array(np.meshgrid(*[[-1.0, 1.0]] * 6)).reshape(6, -1).T
    deltas = np.hstack([ends[:, :3] * dataset.translation_scale_m,
                        ends[:, 3:] * dataset.rotation_scale_rad, np.ones((len(ends), 1))])
    for step in deltas:
        alone = fit(step[None], limits, dataset.period_s)
        assert (alone.deltas == step).all() and not alone.limited_by
        turned = fit(-step[None] * [1, 1, 1, 1, 1, 1, -1], limits, dataset.period_s, previous=step)
        assert not turned.limited_by


def test_the_arm_s_preset_is_tighter_than_the_default():
    default = SafetySettings.read()
    for name in ('step_translation_m', 'step_rotation_rad', 'speed_m_s', 'turn_rate_rad_s',
                 'acceleration_m_s2', 'turn_acceleration_rad_s2', 'deadline_periods'):
        assert getattr(ARM, name) < getattr(default, name)


@pytest.mark.parametrize('change, message', [
    (dict(speed_m_s=0), 'speed_m_s is 0, must be a positive number'),
    (dict(speed_m_s=math.nan), 'speed_m_s is nan'),
    (dict(step_rotation_rad='much'), "step_rotation_rad is 'much'"),
    (dict(workspace_min_m=[0, 0]), r'workspace_min_m is \(0, 0\), must be three numbers'),
    (dict(workspace_max_m=5), 'workspace_max_m is 5, must be three numbers'),
    (dict(workspace_min_m=[2, 0, 0]), 'must be less than workspace_max_m'),
    (dict(fallback='pray'), "fallback is 'pray', must be one of none, hold, zero"),
    (dict(deadline_periods=1), 'deadline_periods is 1, must be more than 1'),
    (dict(deadline_periods=math.nan), 'deadline_periods is nan'),
    (dict(deadline_s=0.2), 'deadline_s is 0.2, but deadlines are in control periods of the data '
                           'set: write deadline_periods: 4 in its place'),
    (dict(deadline_s='soon'), "deadline_s is 'soon', but .* write deadline_periods: NUMBER"),
    (dict(speed=1), r"unknown keys \['speed'\]"),
])
def test_a_file_that_cannot_be_is_named_with_what_is_wrong(tmp_path, change, message):
    content = yaml.safe_load(Path(config_folder() / 'safety.yaml').read_text())
    path = tmp_path / 'mine.yaml'
    path.write_text(yaml.safe_dump({**content, **change}))
    with pytest.raises(SpecVLAError, match=f'mine.yaml: .*{message}') as error:
        SafetySettings.read(path)
    assert '\n' not in str(error.value)
