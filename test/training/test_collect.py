from dataclasses import replace
from pathlib import Path
import struct
import zipfile

import cv2
import numpy as np
import pytest

from specvla_ros.embedded import checkpoint_folder
from specvla_ros.errors import SpecVLAError
from specvla_ros.libero.environment import LiberoEnv
from specvla_ros.training import collect
from specvla_ros.training.collect import CollectArgs
from specvla_ros.training.dataset import Dataset
from specvla_ros.training.disturbance import Disturbance
from specvla_ros.training.lengths import Stuck
from specvla_ros.training.tally import Outcome, Tally
from specvla_ros.workforce.crew import Done
from test.training.test_chunk_play import Expert, World


def test_an_episode_holds_frames_clean_labels_and_where_things_were(tmp_path):
    args = CollectArgs(tasks=(0,), episodes=1, seed=3, out=tmp_path, resolution=96)
    assert collect.run(args) == 0
    path = tmp_path / 'libero_object' / 'task0' / 'seed3.npz'
    with np.load(path, allow_pickle=True) as episode:
        jpeg, action, state = episode['jpeg'], episode['action'], episode['state']
        assert str(episode['instruction']) == (
            'pick up the alphabet soup and place it in the basket')
        assert episode['success'] and len(jpeg) == len(action) == len(state) > 20
        # In the data set's units: robosuite's input, gripper 1 = open at first, 0 = closed.
        assert np.abs(action[:, :6]).max() <= 1 and set(action[:, 6]) == {0.0, 1.0}
        assert action[0, 6] == 1
        frame = cv2.imdecode(np.frombuffer(jpeg[0], np.uint8), cv2.IMREAD_COLOR)
        assert frame.shape == (96, 96, 3)
        # The object ends up where its destination is.
        assert np.abs(state[-1, 3:5] - state[-1, 6:8]).max() < 0.1
        rendered = bool(episode['success']), int(episode['steps'])
    env = LiberoEnv('libero_object', 0, render=False)
    counted = collect._episode(env, CollectArgs(count=True), 3)
    env.close()
    assert (counted['success'], counted['steps']) == rendered and not len(counted['jpeg'])
    before = path.stat().st_mtime_ns
    assert collect.run(args) == 0  # what is there already is kept
    assert path.stat().st_mtime_ns == before
    assert not list(tmp_path.rglob('*.part'))


@pytest.mark.parametrize('chunk', [1, 4])
def test_a_count_plays_the_same_episodes_and_looks_at_none(monkeypatch, chunk):
    # Those that import it first: imported after it was replaced, they would keep the false one.
    for module in ('training.chunk_play', 'training.stills', 'libero.experts.task_expert'):
        monkeypatch.setattr(f'specvla_ros.{module}.TaskExpert', Expert)
    rendered, counted = World(), World()
    counted.render, counted.frame = False, None
    episodes = [collect._episode(env, CollectArgs(chunk=chunk, count=env is counted), 5)
                for env in (rendered, counted)]
    np.testing.assert_array_equal(rendered.done, counted.done)
    assert not np.array_equal(rendered.done, rendered.meant)  # there was noise
    assert [len(episode['jpeg']) > 0 for episode in episodes] == [True, False]
    assert [episode['success'] for episode in episodes] == [True, True]


def test_an_expert_that_drives_alone_and_moves_no_more_has_lost():
    def ends(path, since=10):
        stuck = Stuck(since)
        hands = (np.array([x, 0, 0.9]) for x in path)
        return next((step for step, hand in enumerate(hands) if stuck(step, hand)), None)

    assert ends([0.5] * 200) == 69  # 60 steps after it began to drive alone
    assert ends([0.5] * 200, since=240) is None
    assert ends(0.5 + 0.0001 * np.arange(200)) == 69  # it creeps, 6 mm in these
    assert ends(0.5 + 0.0002 * np.arange(200)) is None
    assert ends([*np.arange(100), *[100.0] * 100]) == 159


def test_a_count_says_which_placements_were_not_solved_and_writes_nothing(
        tmp_path, monkeypatch, capsys):
    class Crew:
        def __init__(self, *_, **__):
            pass

        def run(self, jobs):
            yield from (Done(job, (b'', Outcome(job.seed < 12))) for job in jobs)

    monkeypatch.setattr(collect, 'Crew', Crew)
    monkeypatch.setenv('COLUMNS', '120')
    monkeypatch.chdir(tmp_path)
    args = CollectArgs(tasks=(1, 2), episodes=4, seed=10, count=True)
    monkeypatch.setattr(collect, '_path', None)  # what is on disk isn't looked at
    assert collect.run(args) == 0
    out = capsys.readouterr().out
    assert 'counted: libero_object' in out and out.count('2 of 4') == 2 and '4 of 8' in out
    assert out.count('12 13') == 2 and 'alone' not in out  # there is no policy
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('of_policy', [False, True])
def test_a_tally_tells_what_the_policy_solved_from_what_the_expert_brought_to_its_end(of_policy):
    tally = Tally(of_policy)
    for seed, outcome in enumerate([Outcome(True, alone=True), Outcome(True), Outcome(False)]):
        tally.add(4, seed, outcome)
    tally.add(7, 0, Outcome(False, alone=True))  # driven by the policy throughout, and lost
    alone = [['1 of 3'], ['0 of 1'], ['1 of 4']] if of_policy else [[], [], []]
    assert tally.rows() == [('4', '2 of 3', *alone[0], '2'), ('7', '0 of 1', *alone[1], '0'),
                            ('all', '2 of 4', *alone[2], '')]
    assert tally.summary == '4 episodes, 2 solved' + ', 1 by the policy alone' * of_policy


@pytest.mark.parametrize('steps, is_alone', [
    ({'steps': 30, 'policy_steps': 30}, True), ({'steps': 31, 'policy_steps': 30}, False),
    ({'steps': 30}, False), ({}, False)])
def test_an_episode_on_disk_tells_whether_the_policy_drove_throughout(tmp_path, steps, is_alone):
    args = CollectArgs(out=tmp_path)
    path = collect._path(args, 0, 0)
    path.parent.mkdir(parents=True)
    np.savez(path, success=True, **steps)
    job = collect.Demonstration(0, 0, 0)
    assert collect._outcome(args, job) == Outcome(True, is_alone)


@pytest.mark.parametrize('name, value', [
    ('checkpoint', 'libero_object'), ('out', 'data'), ('keep', 1.0), ('resolution', 64),
    ('decoder', 'relaxed'), ('policy_share', 0.5), ('execute_steps', 2)])
def test_what_a_count_would_not_heed_is_refused(name, value):
    option = '--' + name.replace('_', '-')
    with pytest.raises(SpecVLAError, match=f'^{option} .* has no effect: --count renders and'):
        collect.run(CollectArgs(count=True, **{name: value}))


@pytest.mark.parametrize('options, reason', [
    ({'decoder': 'relaxed'}, 'only the expert drives without --checkpoint'),
    ({'policy_share': 0.5}, 'only the expert drives without --checkpoint'),
    ({'execute_steps': 2, 'chunk': 8}, 'only the expert drives without --checkpoint'),
    ({'execute_steps': 2, 'checkpoint': 'libero_object'}, 'without --chunk each answer is')])
def test_options_of_a_policy_that_does_not_drive_are_refused(tmp_path, options, reason):
    with pytest.raises(SpecVLAError, match=f'has no effect: {reason}'):
        collect.run(CollectArgs(out=tmp_path, **options))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('checkpoint, steps, reason', [
    ('libero_object', 2, r'^--execute-steps 2 has no effect: each answer of --checkpoint .*libero_'
     'object is one step; leave it out'),
    ('libero_object', 0, '^--execute-steps 0 has no effect'),
    ('libero_object_chunk', 9, 'execute_steps is 9, must be from 1 to 8'),
    ('libero_object_chunk', 0, 'execute_steps is 0, must be from 1 to 8'),
    ('libero_object_chunk', 64, 'execute_steps is 64, must be from 1 to 8')])
def test_steps_that_an_answer_of_the_policy_does_not_have_are_refused(
        tmp_path, checkpoint, steps, reason):
    with pytest.raises(SpecVLAError, match=reason):
        collect.run(CollectArgs(out=tmp_path, chunk=8, checkpoint=Path(checkpoint),
                                execute_steps=steps))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('checkpoint, given, steps', [
    ('libero_object', None, 1), ('libero_object_chunk', None, 4), ('libero_object_chunk', 8, 8)])
def test_how_many_steps_of_an_answer_are_executed(checkpoint, given, steps):
    folder = checkpoint_folder(Path(checkpoint))
    args = CollectArgs(chunk=8, checkpoint=folder, execute_steps=given)
    assert collect._execute_steps(args, folder) == steps


@pytest.mark.parametrize('wrong', [
    {'episodes': 0}, {'workers': 0}, {'keep': 0.0}, {'suite': 'libero'}, {'tasks': (10,)}])
def test_bad_arguments_are_refused_before_anything_starts(tmp_path, wrong):
    with pytest.raises(ValueError, match=r'got|unknown suite|has no task'):
        collect.run(CollectArgs(out=tmp_path, **wrong))
    assert not list(tmp_path.iterdir())


def test_a_damaged_episode_is_named_and_what_to_do(tmp_path):
    args = CollectArgs(out=tmp_path)
    path = collect._path(args, 0, 0)
    path.parent.mkdir(parents=True)
    np.savez_compressed(path, success=True)
    with zipfile.ZipFile(path) as file:
        start = file.infolist()[0].header_offset
    content = bytearray(path.read_bytes())
    names = sum(struct.unpack('<HH', content[start + 26:start + 30]))
    content[start + 30 + names] = 0xff  # no kind of a compressed block
    path.write_bytes(content)
    with pytest.raises(SpecVLAError, match='seed0.npz is no episode .*delete it and collect'):
        collect._outcome(args, collect.Demonstration(0, 0, 0))


def test_the_disturbance_moves_the_action_but_stays_in_range():
    random = np.random.default_rng(0)
    disturb = Disturbance(random, 1.0)
    clean = np.array([1.0, -1, 0, 0, 0, 0, 1])
    executed = np.array([disturb(clean) for _ in range(400)])
    assert np.abs(executed[:, :6]).max() <= 1
    # Open fingers close at times, and open again; closed ones would drop what they hold.
    assert set(executed[:, 6]) == {0.0, 1.0} and executed[:, 6].mean() > 0.6
    grasping = clean * [1, 1, 1, 1, 1, 1, 0]
    assert not any(disturb(grasping)[6] for _ in range(400))
    assert executed[:, 2].std() > 0.05
    still = Disturbance(random, 0.0)
    np.testing.assert_array_equal(still(clean), clean)


@pytest.fixture(scope='module')
def with_stills(tmp_path_factory):
    """A data folder with one episode, solved without noise, and stills of three placements."""
    folder = tmp_path_factory.mktemp('stills')
    assert collect.run(CollectArgs(tasks=(2,), episodes=1, seed=5, out=folder, resolution=64,
                                   noise=0.0, keep=0.01, stills=3)) == 0
    return folder


def test_stills_show_other_placements_and_what_the_expert_would_do(with_stills):
    with np.load(with_stills / 'libero_object' / 'task2' / 'seed5.npz', allow_pickle=True) as file:
        jpegs, action, state = (file[f'still_{name}'] for name in ('jpeg', 'action', 'state'))
        own = file['state']
    assert len(jpegs) == len(action) == len(state) == 18
    assert cv2.imdecode(np.frombuffer(jpegs[7], np.uint8), cv2.IMREAD_COLOR).shape == (64, 64, 3)
    assert len({bytes(jpeg) for jpeg in jpegs}) == 18
    # Six poses of each placement: the basket's place says which.
    places = state[:, 6:8].round(4)
    assert len({tuple(place) for place in places}) == 3
    assert (places[:6] == places[0]).all() and tuple(places[0]) != tuple(own[0, 6:8].round(4))
    # The labels lead to the object, or with it to the basket: never away where it is far.
    hand, thing, basket = state[:, :3], state[:, 3:6], state[:, 6:8]
    carried = thing[:, 2] > own[0, 5] + 0.03
    assert carried.sum() > 2 and (np.linalg.norm(thing - hand, axis=1)[carried] < 0.1).all()
    way = np.where(carried[:, None], basket, thing[:, :2]) - hand[:, :2]
    far = np.linalg.norm(way, axis=1) > 0.05
    assert all((far & which).sum() > 2 for which in (carried, ~carried))
    assert (np.einsum('ij,ij->i', way, action[:, :2])[far] > 0).all()
    assert np.abs(action[:, :6]).max() <= 1


def test_stills_show_every_step_of_a_task(tmp_path):
    """The stove is turned on, then a pot is put on it, wherever it stands."""
    assert collect.run(CollectArgs(suite='libero_10', tasks=(2,), episodes=1, seed=5, noise=0.0,
                                   out=tmp_path, resolution=96, keep=0.01, stills=4)) == 0
    with np.load(tmp_path / 'libero_10' / 'task2' / 'seed5.npz', allow_pickle=True) as file:
        state, stove = file['still_state'], file['state'][-1, 6:9]
        pictures = [cv2.imdecode(np.frombuffer(it, np.uint8), cv2.IMREAD_COLOR).astype(int)
                    for it in file['still_jpeg']]
    pot = (np.abs(state[:, 6:8] - stove[:2]) < 0.03).all(axis=1)  # what goes to the burner
    beside = np.linalg.norm(state[:, 3:6] - state[:, :3], axis=1) < 0.1
    carried = pot & beside & (state[:, 9] < 0.06)
    assert len(state) == 24 and all(it.sum() >= 3 for it in (~pot, pot & ~carried, carried))
    # Only where the stove is on its burner glows.
    red = np.array([(it[..., 2] - it[..., :2].max(axis=-1) > 60).sum() for it in pictures])
    assert red[~pot].max() < 5 < red[pot & ~carried].min()


def test_stills_teach_a_target_and_no_drafter(with_stills):
    frames = [len(episode) for episode in _data(with_stills, stills=True).episodes]
    assert frames[1:] == [18] and frames[:1] == [
        len(episode) for episode in _data(with_stills, stills=False).episodes]
    again = _data(with_stills, stills=True, only=['task2/seed5', 'task2/seed5'])
    assert [len(episode) for episode in again.episodes] == frames  # as a resumed training asks


def test_a_failed_episode_still_shows_further_placements(tmp_path, monkeypatch):
    lengths = replace(collect.LENGTHS['libero_object'], most=25)  # too short to solve anything
    monkeypatch.setattr(collect, 'LENGTHS', {'libero_object': lengths})
    env = LiberoEnv('libero_object', 2, resolution=32)
    episode = collect._episode(env, CollectArgs(keep=0.01, stills=1), 5)
    env.close()
    assert not episode['success']
    path = tmp_path / 'libero_object' / 'task2' / 'seed5.npz'
    path.parent.mkdir(parents=True)
    np.savez(path, **episode)
    [stills] = _data(tmp_path, stills=True).episodes  # and none of the episode's own frames
    assert len(stills) == 6 and not _data(tmp_path, stills=False).episodes


def _data(folder, stills, only=None, suite='libero_object'):
    dataset = Dataset(folder, suite, 32, stills=stills)
    dataset.refresh(only=only)
    return dataset


def test_stills_are_labelled_for_every_task_in_the_scene(tmp_path):
    assert collect.run(CollectArgs(suite='libero_goal', tasks=(8,), episodes=1, seed=5, noise=0.0,
                                   out=tmp_path, resolution=32, keep=0.01, stills=1)) == 0
    with np.load(tmp_path / 'libero_goal' / 'task8' / 'seed5.npz', allow_pickle=True) as file:
        said = file['other_instruction'].tolist()
        own, other = (file[f'{whose}_state'] for whose in ('still', 'other'))
        action = file['other_action']
    assert len(said) == 9 and 'put the bowl on the plate' not in said
    assert other.shape == (6, 9, 10) and action.shape == (6, 9, 7) and np.abs(action).max() <= 1
    # Each sees the same hand, and what its own instruction is about.
    assert (other[:, :, :3] == own[:, None, :3]).all()
    bowl, bottle = (said.index(f'put the {thing} on top of the cabinet')
                    for thing in ('bowl', 'wine bottle'))
    assert (other[:, bowl, 3:6] == own[:, 3:6]).all()
    assert (np.abs(other[:, bottle, 3:5] - own[:, 3:5]).max(axis=1) > 0.04).all()
    assert (other[:, bowl, 6:9] == other[:, bottle, 6:9]).all()
    [episode, stills] = _data(tmp_path, stills=True, suite='libero_goal').episodes
    assert stills.others.instructions == tuple(said) and not episode.others.instructions


def test_stills_are_of_single_steps(tmp_path):
    with pytest.raises(SpecVLAError, match='--stills 3 has no effect: with --chunk a label'):
        collect.run(CollectArgs(out=tmp_path, chunk=4, stills=3))
    with pytest.raises(SpecVLAError, match='--stills 3 has no effect: --count renders'):
        collect.run(CollectArgs(count=True, stills=3))
    with pytest.raises(ValueError, match='stills is -1, must be 0 to 1000'):
        collect.run(CollectArgs(out=tmp_path, stills=-1))
