"""What goes into our messages comes out again, in SI units and checked."""
import math
from types import SimpleNamespace

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Vector3
import numpy as np
import pytest
from specvla_ros.msg import ActionDelta, DecodeReport

from specvla_ros.configuration import load_preset
from specvla_ros.data_sets import load_dataset
from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes.messages import (
    acceptance_lengths_of,
    action_message,
    deltas_of,
    report_message,
    stage_ms_of,
)

STAMP = Time(sec=5, nanosec=6)


def make_action(chunk=1, **changes):
    si = np.arange(chunk * 7, dtype=np.float32).reshape(chunk, 7) / 8
    tokens = tuple(range(31744, 31744 + chunk * 7))
    trace = SimpleNamespace(bins_off=[0] * len(tokens))
    return SimpleNamespace(
        **{'si': si, 'normalized': si / 2, 'tokens': tokens, 'trace': trace, **changes})


def test_an_action_says_of_its_own_steps_whether_the_target_verified_them():
    action = make_action(3, trace=SimpleNamespace(bins_off=[0, 1] * 8 + [None] * 5))
    data = load_dataset('libero_object')
    said = [action_message(action, data, STAMP, 4, None, slice(step, step + 1)).unverified
            for step in range(3)]
    assert said == [False, False, True]
    assert action_message(action, data, STAMP, 4).unverified
    assert not action_message(make_action(3), data, STAMP, 4).unverified


@pytest.mark.parametrize('chunk', [1, 3])
def test_an_action_goes_there_and_back(chunk):
    action = make_action(chunk)
    message = action_message(action, load_dataset('libero_object'), STAMP, 4)
    np.testing.assert_array_equal(deltas_of(message), action.si)
    assert (message.image_stamp, message.sequence, message.limited) == (STAMP, 4, False)
    assert message.step_period == 0.05
    assert list(message.normalized) == (action.si / 2).ravel().tolist()
    assert tuple(message.token_ids) == action.tokens


def test_a_single_step_of_a_chunk_is_an_action_of_its_own():
    action, limited = make_action(3), np.full((1, 7), 0.5)
    message = action_message(action, load_dataset('libero_object'), STAMP, 4, None, slice(1, 2))
    np.testing.assert_array_equal(deltas_of(message), action.si[1:2])
    assert list(message.normalized) == (action.si[1] / 2).tolist()
    assert tuple(message.token_ids) == action.tokens[7:14]
    message = action_message(action, load_dataset('libero_object'), STAMP, 4, limited, slice(1, 2))
    np.testing.assert_array_equal(deltas_of(message), limited)


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_an_action_that_is_not_finite_is_refused_at_both_ends(value):
    action = make_action()
    action.si[0, 3] = value
    with pytest.raises(SpecVLAError, match='not finite'):
        action_message(action, load_dataset('libero_object'), STAMP, 0)
    message = ActionDelta(
        translation=[Vector3(x=value)], rotation=[Vector3()], gripper=[0.0])
    with pytest.raises(SpecVLAError, match='not finite'):
        deltas_of(message)


@pytest.mark.parametrize('message', [
    ActionDelta(),
    ActionDelta(translation=[Vector3()], rotation=[Vector3()]),
    ActionDelta(translation=[Vector3()] * 2, rotation=[Vector3()], gripper=[0.0]),
])
def test_an_action_of_uneven_lengths_is_refused(message):
    with pytest.raises(SpecVLAError, match='as many translations as rotations'):
        deltas_of(message)


def make_trace(**changes):
    return SimpleNamespace(**{
        'target_passes': 3, 'drafted': 8, 'accepted': 4, 'acceptance_lengths': [4, 2],
        'sources': ['target', 'eagle'], 'stage_ms': {'vision': 2.0, 'draft': 0.0},
        'origins': ['chosen', 'accepted', 'unverified'], 'bins_off': [0, 3, None],
        'si_off': [0.0, 0.0012, math.nan], 'risk': 0.25, 'forbidden': 1, 'decoder': '',
        'reason': 'cheaper', **changes})


def test_a_report_goes_there_and_back():
    action = ActionDelta(image_stamp=STAMP, sequence=4)
    report = report_message(make_trace(), load_preset('relaxed'), action)
    assert (report.image_stamp, report.sequence) == (STAMP, 4)
    assert (report.decoder, report.drafter, report.rule) == ('relaxed', 'eagle', 'bins')
    assert acceptance_lengths_of(report) == [2, 4]
    assert report.acceptance_length == 3
    report.total_time = 0.5
    stages = stage_ms_of(report)
    assert stages['vision'] == pytest.approx(2)
    assert stages['draft'] == 0
    assert stages['total'] == pytest.approx(500)
    assert not {'prefill', 'verify', 'preprocess'} & set(stages)


def test_a_report_names_the_candidate_that_decoded_and_why():
    trace, config = make_trace(decoder='ar', reason='ar 20.0'), load_preset('auto_relaxed')
    report = report_message(trace, config, ActionDelta())
    assert (report.decoder, report.drafter, report.rule) == ('auto_relaxed', 'none', 'strict')
    assert (report.reason, report.threshold) == ('ar 20.0', DecodeReport.NO_THRESHOLD)
    report = report_message(make_trace(decoder='history_relaxed'), config, ActionDelta())
    assert (report.drafter, report.threshold) == ('velocity+history+jacobi', 9)


def test_a_report_says_of_each_token_what_it_is_and_how_far_off():
    report = report_message(make_trace(), load_preset('relaxed'), ActionDelta())
    assert list(report.token_origins) == [
        DecodeReport.CHOSEN, DecodeReport.ACCEPTED, DecodeReport.UNVERIFIED]
    for field, expected in ((report.bins_off, [0, 3, math.nan]),
                            (report.si_off, [0, 0.0012, math.nan])):
        assert list(field) == pytest.approx(expected, nan_ok=True)
    assert (report.risk, report.forbidden, report.reason) == (0.25, 1, 'cheaper')
    assert math.isnan(report_message(
        make_trace(risk=math.nan), load_preset('ar'), ActionDelta()).risk)


@pytest.mark.parametrize(('preset', 'threshold'), [
    ('relaxed', 9), ('confidence', 15), ('tolerance', DecodeReport.NO_THRESHOLD),
    ('sequence', DecodeReport.NO_THRESHOLD)])
def test_a_rule_of_several_settings_has_no_threshold(preset, threshold):
    report = report_message(make_trace(), load_preset(preset), ActionDelta())
    assert report.threshold == threshold


def test_a_strict_report_has_no_threshold_and_one_without_passes_no_length():
    report = report_message(make_trace(acceptance_lengths=[]), load_preset('ar'), ActionDelta())
    assert report.threshold == DecodeReport.NO_THRESHOLD
    assert list(report.acceptance_histogram) == []
    assert math.isnan(report.acceptance_length)
