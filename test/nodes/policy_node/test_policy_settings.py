"""Loading a policy, and the self-check of one that has just been loaded."""
import importlib.abc
import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from specvla_ros.embedded import DEFAULT_CHECKPOINT
from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes.policy_node.settings import (
    fixed_while_configured,
    load_policy,
    MODEL_PARAMETERS,
    pick,
    PolicySettings,
    self_check,
)


class Policy:

    def __init__(self, si):
        self.si, self.calls = si, []

    def act(self, image, instruction, stamp=None, eef_position=None, limits=None):
        assert (image.dtype, image.shape[2]) == (np.uint8, 3)
        self.calls.append('act')
        return SimpleNamespace(si=self.si)

    def reset(self):
        self.calls.append('reset')


def test_a_policy_that_acts_passes_and_remembers_nothing():
    policy = Policy(np.zeros((1, 7)))
    self_check(policy)
    assert policy.calls == ['act', 'act', 'reset']


def test_what_the_steps_of_an_answer_depend_on_is_fixed_while_one_may_be_under_way():
    changes = ('checkpoint', 'chunk', 'execute_steps', 'latency_s', 'max_image_age', 'pacing',
               'decoder', 'safety', 'threshold')
    assert fixed_while_configured(changes) == [
        'checkpoint', 'chunk', 'execute_steps', 'latency_s', 'max_image_age', 'pacing']


@pytest.mark.parametrize('si', [
    np.full((1, 7), np.nan), np.full((1, 7), np.inf), np.zeros((1, 6)), np.zeros(7)])
def test_one_that_does_not_is_refused(si):
    with pytest.raises(SpecVLAError, match='the self-check of the checkpoint failed'):
        self_check(Policy(si))


def test_a_risk_that_is_given_is_the_decoders():
    defaults = {parameter.name: parameter.default for parameter in MODEL_PARAMETERS}
    for given, found in ((0.0, 1.0), (0.25, 0.25), (1.0, 1.0)):
        settings = pick(PolicySettings, defaults | {'strict_above_risk': given})
        assert settings.decoder_config.strict_above_risk == found


def test_a_calibrated_preset_keeps_its_own_threshold(tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text('drafter: {name: none}\nrule: {name: bins, r: 4}\n'
                    'calibrated: {target: abc}\n')
    defaults = {parameter.name: parameter.default for parameter in MODEL_PARAMETERS}
    given = defaults | {'decoder': str(path)}
    assert pick(PolicySettings, given).decoder_config.threshold == 4
    with pytest.raises(SpecVLAError, match='threshold is 9, but the decoder mine is calibrated'):
        pick(PolicySettings, given | {'threshold': 9}).decoder_config  # noqa: B018


def test_a_library_that_cannot_be_loaded_is_one_line(monkeypatch):
    """OpenCV was built for another numpy, say."""
    class Broken(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == 'specvla_ros.policy':
                raise ImportError('numpy.core.multiarray failed to import')

    monkeypatch.delitem(sys.modules, 'specvla_ros.policy', raising=False)
    monkeypatch.setattr(sys, 'meta_path', [Broken(), *sys.meta_path])
    defaults = {parameter.name: parameter.default for parameter in MODEL_PARAMETERS}
    settings = pick(PolicySettings, defaults | {'decoder': 'ar'})
    with pytest.raises(SpecVLAError, match='multiarray failed to import.*specvla doctor'):
        load_policy(settings)


def test_the_chunk_is_what_the_folder_says_and_no_other(tmp_path):
    shutil.copytree(DEFAULT_CHECKPOINT, tmp_path / 'chunks')
    path = tmp_path / 'chunks' / 'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'chunk': 3}))
    defaults = {parameter.name: parameter.default for parameter in MODEL_PARAMETERS}
    given = {**defaults, 'checkpoint': str(tmp_path / 'chunks'), 'decoder': 'ar', 'device': 'cpu'}
    assert load_policy(pick(PolicySettings, given)).action_length == 21
    with pytest.raises(SpecVLAError, match='chunk is 2, but this checkpoint says actions of 3'):
        load_policy(pick(PolicySettings, {**given, 'chunk': 2}))


def test_the_risk_holds_for_all_candidates():
    defaults = {parameter.name: parameter.default for parameter in MODEL_PARAMETERS}
    config = pick(PolicySettings, defaults | {'strict_above_risk': 0.4}).decoder_config
    assert {it.strict_above_risk for it in (config, *config.members)} == {0.4}


def test_a_threshold_holds_for_the_candidates_that_have_one():
    defaults = {parameter.name: parameter.default for parameter in MODEL_PARAMETERS}
    assert defaults['decoder'] == 'auto_relaxed'
    config = pick(PolicySettings, defaults | {'threshold': 4}).decoder_config
    assert {it.name: it.threshold for it in config.members} == {
        'ar': 0, 'glance_jacobi_relaxed': 4, 'history_relaxed': 4, 'hybrid_relaxed': 4}
    settings = pick(PolicySettings, defaults | {'decoder': 'auto', 'threshold': 4})
    with pytest.raises(SpecVLAError, match='rule strict of the decoder auto has none'):
        settings.decoder_config  # noqa: B018
