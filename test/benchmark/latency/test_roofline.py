"""The floor of a pass, and that the ceilings are measured at all."""

import pytest
import torch

from specvla_ros.benchmark.latency.cost import Work
from specvla_ros.benchmark.latency.roofline import Ceilings, measure


def test_a_pass_takes_the_longer_of_moving_and_computing():
    device = Ceilings(bandwidth=1e9, rate=1e12)
    moving, computing = Work(n_bytes=2e6, flops=1e6), Work(n_bytes=1e3, flops=3e9)
    assert device.floor_ms([moving]) == pytest.approx(2)
    assert device.floor_ms([computing]) == pytest.approx(3)
    assert device.floor_ms([moving, computing]) == pytest.approx(5)


def test_ceilings_of_this_machine_are_those_of_a_computer(monkeypatch):
    monkeypatch.setattr('specvla_ros.benchmark.latency.roofline._SECONDS', 0.01)
    found = measure(torch.device('cpu'), torch.float32, weights=4_000_000)
    assert 1e8 < found.bandwidth < 1e13
    assert 1e8 < found.rate < 1e14
