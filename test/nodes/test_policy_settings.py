"""The self-check of a policy that has just been loaded."""
from types import SimpleNamespace

import numpy as np
import pytest

from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes.policy_settings import self_check


class Policy:

    def __init__(self, si):
        self.si, self.calls = si, []

    def act(self, image, instruction, stamp=None):
        assert (image.dtype, image.shape[2]) == (np.uint8, 3)
        self.calls.append('act')
        return SimpleNamespace(si=self.si)

    def reset(self):
        self.calls.append('reset')


def test_a_policy_that_acts_passes_and_remembers_nothing():
    policy = Policy(np.zeros((1, 7)))
    self_check(policy)
    assert policy.calls == ['act', 'act', 'reset']


@pytest.mark.parametrize('si', [
    np.full((1, 7), np.nan), np.full((1, 7), np.inf), np.zeros((1, 6)), np.zeros(7)])
def test_one_that_does_not_is_refused(si):
    with pytest.raises(SpecVLAError, match='the self-check of the checkpoint failed'):
        self_check(Policy(si))
