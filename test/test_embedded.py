"""Checkpoints by name, wherever one is asked for."""

from pathlib import Path

import numpy as np
import pytest

from specvla_ros.benchmark import machine
from specvla_ros.benchmark.observations import made_up
from specvla_ros.configuration import load_preset
from specvla_ros.embedded import checkpoint_folder, DEFAULT_CHECKPOINT, embedded_names
from specvla_ros.errors import SpecVLAError
from specvla_ros.libero.environment import LiberoEnv
from specvla_ros.libero.experts.task_expert import TaskExpert
from specvla_ros.policy import Policy
from specvla_ros.policy_source import PolicySource


def test_a_name_is_the_embedded_checkpoint_in_whatever_folder_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert 'libero_object' in embedded_names()
    for name in embedded_names():
        assert checkpoint_folder(Path(name)) == DEFAULT_CHECKPOINT.parent / name
        assert machine.checkpoint_folders(Path(name), None)[0].name == name
        # The node runs somewhere else: it is given the folder.
        said = PolicySource(checkpoint=Path(name)).parameters['checkpoint']
        assert said == str(DEFAULT_CHECKPOINT.parent / name)
    assert checkpoint_folder(None) == DEFAULT_CHECKPOINT
    assert checkpoint_folder('runs/target') == Path('runs/target')


def test_a_policy_is_loaded_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy = Policy.load('libero_object', decoder='ar', device='cpu')
    assert policy.dataset.unnorm_key == 'libero_object' and policy.action_length == 7


def test_the_embedded_chunks_are_small_say_what_they_are_and_are_lossless_in_fewer_passes():
    folder = checkpoint_folder('libero_object_chunk')
    assert sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) < 15e6
    ar = Policy.load('libero_object_chunk', decoder='ar', device='cpu')
    assert (ar.chunk, ar.execute_steps, ar.action_length) == (8, 4, 56)
    lossless = ar.with_decoder(load_preset('glance_jacobi'))
    footage = made_up(2)
    for frame in footage.frames:
        said, guessed = (policy.act(frame, footage.instruction) for policy in (ar, lossless))
        assert (said.trace.target_passes, len(said.tokens)) == (56, 56)
        assert guessed.tokens == said.tokens and guessed.trace.target_passes < 28


@pytest.mark.parametrize('suite, task', [
    ('libero_spatial', 0), ('libero_goal', 8), ('libero_10', 7)])
def test_each_suites_own_is_small_and_lossless_in_fewer_passes_with_its_own_drafters(suite, task):
    folder = checkpoint_folder(suite)
    assert sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) < 15e6
    ar = Policy.load(suite, decoder='ar', device='cpu')
    assert ar.dataset.unnorm_key == suite and ar.action_length == 7
    env = LiberoEnv(suite, task)
    env.reset(0)
    expert, frames, said = TaskExpert(env), [], []
    before = _way(expert)
    for _ in range(8):
        frames.append(env.frame())
        action = ar.act(frames[-1], env.instruction)
        said.append(action.tokens)
        env.step(action.si[0], render=False)
    after = _way(expert)
    env.close()
    assert after < before - 0.05 and len(set(said)) > 1  # m: the hand goes to the thing
    for name in ('strict', 'glance', 'auto'):
        lossless = ar.with_decoder(load_preset(name))
        guessed = [lossless.act(frame, env.instruction) for frame in frames]
        assert [action.tokens for action in guessed] == said
        if name != 'auto':  # it chooses by time
            assert sum(action.trace.target_passes for action in guessed) < 0.7 * 7 * len(frames)


def _way(expert: TaskExpert) -> float:
    """Return how far the hand is from what it is to take, in m."""
    state = expert.state()
    return float(np.linalg.norm(state[3:6] - state[:3]))


def test_a_folder_of_an_embedded_checkpoints_name_is_never_taken_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('libero_object').mkdir()
    with pytest.raises(SpecVLAError, match=f'and a folder here as well: .*give {tmp_path}'):
        checkpoint_folder('libero_object')
    assert checkpoint_folder(tmp_path / 'libero_object') == tmp_path / 'libero_object'
    monkeypatch.chdir(DEFAULT_CHECKPOINT.parent)
    assert checkpoint_folder('libero_object') == DEFAULT_CHECKPOINT


def test_a_name_that_is_none_is_answered_with_those_there_are():
    with pytest.raises(FileNotFoundError, match='or the name of an embedded one: .*libero_object'):
        machine.checkpoint_folders(Path('libero_objekt'), None)
