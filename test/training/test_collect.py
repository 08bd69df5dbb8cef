import struct
import zipfile

import cv2
import numpy as np
import pytest

from specvla_ros.errors import SpecVLAError
from specvla_ros.training import collect
from specvla_ros.training.collect import CollectArgs
from specvla_ros.training.disturbance import Disturbance


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
    before = path.stat().st_mtime_ns
    assert collect.run(args) == 0  # what is there already is kept
    assert path.stat().st_mtime_ns == before
    assert not list(tmp_path.rglob('*.part'))


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
        collect._is_solved(args, collect.Demonstration(0, 0, 0))


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
