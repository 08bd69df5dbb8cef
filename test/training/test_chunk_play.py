"""Episodes that teach chunks: labels are what was executed, and only the expert's."""

from types import SimpleNamespace

import numpy as np
import pytest

from specvla_ros.errors import SpecVLAError
from specvla_ros.libero.environment import LiberoEnv
from specvla_ros.libero.experts.task_expert import TaskExpert
from specvla_ros.training import chunk_play, collect
from specvla_ros.training.chunk_play import SCALE, Stretches
from specvla_ros.training.collect import CollectArgs
from specvla_ros.training.dataset import Dataset
from specvla_ros.training.lengths import Lengths
from test.training.conftest import SUITE

CHUNK, LENGTHS = 4, Lengths(disturbed=110, most=200)


class World:
    """A stand-in for the simulator whose frames show the number of the step, and its expert."""

    instruction, task_id, render = 'go', 0, True

    def __init__(self, solved_after=60, stands_after=10_000):
        self.solved_after, self.done, self.meant = solved_after, [], []
        self.stands_after = stands_after

    def reset_random(self, seed, render):
        assert not render
        return SimpleNamespace(success=False)

    def frame(self):
        return np.full((16, 16, 3), len(self.done), np.uint8)

    def step(self, action, render):
        assert not render
        self.done.append(action / SCALE)
        return SimpleNamespace(success=len(self.done) >= self.solved_after,
                               eef_position=np.full(3, min(len(self.done), self.stands_after)))


class Expert:
    """Says another action at every step."""

    def __init__(self, env):
        self.env = env

    def act(self):
        self.env.meant.append(np.array([*np.sin(len(self.env.done) + np.arange(6)) * 0.9, 1.0]))
        return self.env.meant[-1] * SCALE

    def state(self):
        return np.full(10, len(self.env.done), np.float32)


class Lost:
    """A policy that always goes the same way; remembers how much was executed."""

    def __init__(self):
        self.executed, self.resets = [], 0

    def reset(self):
        self.resets += 1

    def act(self, image, instruction, executed):
        self.executed.append(executed)
        return SimpleNamespace(si=np.tile(0.5 * SCALE, (CHUNK, 1)).astype(np.float32))


@pytest.fixture(autouse=True)
def expert(monkeypatch):
    monkeypatch.setattr(chunk_play, 'TaskExpert', Expert)


def play(env, seed=0, policy=None, share=0.5, keep=1.0):
    return chunk_play.play(
        env, policy, np.random.default_rng(seed), chunk=CHUNK, execute=2, policy_share=share,
        strength=1.0, keep=keep, start_seed=0,
        lengths=LENGTHS)


@pytest.mark.parametrize('seed', range(8))
def test_a_frame_counts_only_where_the_expert_was_alone_for_a_whole_chunk(seed):
    env = World()
    episode = play(env, seed, Lost())
    np.testing.assert_allclose(episode['executed'], env.done, atol=1e-6)
    alone = np.array([np.allclose(a, b) for a, b in zip(env.done, env.meant, strict=True)])
    assert not alone.all() and episode['clean'].tolist() == alone.tolist()
    whole = [step for step in range(len(alone) - CHUNK + 1) if alone[step:step + CHUNK].all()]
    # All of them, the first one behind the goal too, but those of which nothing said in time that
    # the expert would stay alone: it does from the goal on.
    missed = {*whole} - {*episode['frame'].tolist()}
    assert {*episode['frame'].tolist()} <= {*whole} and env.solved_after in episode['frame']
    assert all(env.solved_after - CHUNK < step < env.solved_after for step in missed)
    np.testing.assert_allclose(
        episode['action'], np.array(env.meant)[episode['frame']], atol=1e-6)


def test_an_episode_whose_hand_stands_still_is_lost_and_ends():
    env = World(solved_after=10_000, stands_after=LENGTHS.disturbed + 5)
    assert not play(env)['success']
    assert len(env.done) == LENGTHS.disturbed + 5 + 59  # 60 places that are the same


def test_after_success_the_expert_goes_on_for_a_chunk_and_no_longer():
    env = World(solved_after=9)
    episode = play(env, policy=Lost(), share=1.0)
    assert episode['success'] and len(env.done) == episode['steps'] == 9 + CHUNK
    assert episode['clean'][9:].all()


def test_an_episode_that_never_ends_is_left_by_the_policy_and_then_given_up():
    env = World(solved_after=10_000)
    episode = play(env, policy=Lost(), share=1.0)
    assert not episode['success'] and len(env.done) == LENGTHS.most
    clean = episode['clean']
    assert clean[LENGTHS.disturbed:].all() and not clean[:LENGTHS.disturbed].all()


def test_the_policy_executes_some_steps_of_each_answer_and_forgets_between_bursts():
    env, policy = World(solved_after=10_000), Lost()
    episode = play(env, policy=policy, share=1.0)
    driven = np.isclose(episode['executed'], 0.5).all(1)
    assert episode['policy_steps'] == driven.sum() > 20
    bursts = policy.executed.count(None)
    assert policy.resets == bursts > 2 and set(policy.executed) == {None, 2}
    assert len(policy.executed) < driven.sum()  # an answer holds for two steps


def test_stretches_are_never_shorter_than_a_chunk_but_where_the_bursts_end():
    stretches, clean, lengths = Stretches(np.random.default_rng(3), 8, 0.5, 1.0, 1000), 0, []
    for step in range(1000):
        if stretches.advance(step) is None:
            clean += 1
        elif clean:
            lengths.append(clean)
            clean = 0
    assert min(lengths) >= 8 and len(set(lengths)) > 10


def test_labels_are_what_a_real_arm_did(tmp_path, monkeypatch):
    monkeypatch.setattr(chunk_play, 'TaskExpert', TaskExpert)
    done, step = [], LiberoEnv.step

    def watched(self, action, render=True):
        done.append(np.array(action))
        return step(self, action, render)

    monkeypatch.setattr(LiberoEnv, 'step', watched)
    args = CollectArgs(tasks=(0,), seed=3, chunk=8, out=tmp_path, resolution=96, keep=1.0)
    content, outcome = collect.Collector(args).do(collect.Demonstration(0, 3, 3), lambda _: None)
    path = tmp_path / SUITE / 'task0' / 'seed3.npz'
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert outcome.solved and not outcome.alone
    collect._open.pop('env').close()
    collect._open.clear()
    dataset = Dataset(tmp_path, SUITE, size=32, chunk=8)
    dataset.refresh()
    episode, = dataset.episodes
    assert episode.labels.shape == (len(episode), 8, 7) and len(episode) > 10
    with np.load(path, allow_pickle=True) as file:
        frames = file['frame']
    for labels, frame in zip(episode.labels, frames, strict=True):
        np.testing.assert_allclose(labels * SCALE, done[frame:frame + 8], atol=1e-6)


def test_data_without_what_was_executed_teach_no_chunks(data):
    with pytest.raises(SpecVLAError, match='collected without --chunk: nothing says'):
        Dataset(data, SUITE, size=32, chunk=8).refresh()


@pytest.mark.parametrize('left', [None, b'PK', b''])
def test_collecting_chunks_stops_before_it_would_mix_them_with_others(data, left):
    path = data / SUITE / 'task1' / 'seed2.npz'
    if left is not None:
        for other in (data / SUITE).rglob('*.npz'):
            other.unlink()
        path.write_bytes(left)
    with pytest.raises(SpecVLAError, match=f'{path} was collected without --chunk' if left is None
                       else f'{path} is no episode'):
        collect.run(CollectArgs(out=data, tasks=(1,), seed=2, episodes=3, chunk=8))


def test_a_longer_chunk_takes_fewer_frames_and_one_step_takes_all(tmp_path):
    folder = tmp_path / SUITE / 'task0'
    folder.mkdir(parents=True)
    np.savez(folder / 'seed0.npz', **play(World()))
    sizes = []
    for chunk in (1, CHUNK, 2 * CHUNK):
        dataset = Dataset(tmp_path, SUITE, size=32, chunk=chunk)
        dataset.refresh()
        episode, = dataset.episodes
        assert episode.labels.shape[1] == chunk
        np.testing.assert_array_equal(episode.labels[:, 0], episode.action)
        sizes.append(len(episode))
    assert sizes[0] == sizes[1] > sizes[2] > 0


@pytest.mark.parametrize('wrong', [{'clean': np.ones(3, bool)}, {'frame': np.array([10**6])}])
def test_an_episode_whose_parts_do_not_belong_is_refused(tmp_path, wrong):
    folder = tmp_path / SUITE / 'task0'
    folder.mkdir(parents=True)
    np.savez(folder / 'seed0.npz', **(play(World()) | wrong))
    with pytest.raises(SpecVLAError, match='is no episode .*must be'):
        Dataset(tmp_path, SUITE, size=32, chunk=CHUNK).refresh()
