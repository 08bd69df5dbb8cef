"""How late an action is: a number, a large model's passes, or what this machine took."""
from types import SimpleNamespace

import pytest

from specvla_ros.benchmark.episodes.latency import Latency
from specvla_ros.errors import SpecVLAError


def took(passes, ms=30.0):
    return SimpleNamespace(target_passes=passes, stage_ms={'vision': 5.0, 'total': ms})


@pytest.mark.parametrize('text, passes, seconds, fixed, said', [
    (0.0, 7, 0.0, 0.0, None), ('0', 7, 0.0, 0.0, None), (0.25, 7, 0.25, 0.25, 0.25),
    ('0.25', 1, 0.25, 0.25, 0.25), ('0.05+0.02', 7, 0.17, None, '0.05+0.02'),
    ('0.05+0.02', 1, 0.05, None, '0.05+0.02'), ('0.05+0', 7, 0.05, 0.05, 0.05),
    ('measured', 7, 0.03, None, 'measured'), (0.25, 0, 0.25, 0.25, 0.25),
    ('0.05+0.02', 0, 0.0, None, '0.05+0.02')])
def test_seconds_of_an_action(text, passes, seconds, fixed, said):
    latency = Latency.read(text)
    assert latency.seconds(took(passes)) == pytest.approx(seconds)
    assert latency.fixed_s == fixed
    assert latency.said == said
    assert Latency.read(latency.said or 0.0) == latency


@pytest.mark.parametrize('text, message', [
    (-0.1, 'latency_s is -0.1, must be 0 s or more'), ('nan', 'latency_s is nan, must be 0 s'),
    ('0.1+inf', 'latency_s is inf'), ('0.1+', r"latency_s is '0.1\+', must be seconds"),
    ('soon', "latency_s is 'soon', must be seconds .*, or measured"), ('', "latency_s is ''"),
    ('1+2+3', r"'1\+2\+3', must be seconds \(0.25\), seconds of the first")])
def test_what_is_no_time_is_refused(text, message):
    with pytest.raises(SpecVLAError, match=message):
        Latency.read(text)
