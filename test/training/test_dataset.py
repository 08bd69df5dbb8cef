"""Reading collected episodes: incremental, mirrored, with statistics that can't collapse."""

import sys

import numpy as np
import pytest
import simplejpeg

from specvla_ros.data_sets import ImagePreparation
from specvla_ros.errors import SpecVLAError
from specvla_ros.openvla.image_transform import ImageTransform
from specvla_ros.training.dataset import action_statistics, Dataset, Episode, Frames
from specvla_ros.training.holdout import divide
from test.training.conftest import SUITE, write_episode


def episode(action, name: str = 'task0/seed0') -> Episode:
    action = np.asarray(action, np.float32)
    return Episode(name, 'go', action, action[:, :1], np.zeros((len(action), 4, 4, 3), np.uint8))


def test_new_episodes_are_picked_up_and_failed_ones_left_out(data):
    dataset = Dataset(data, SUITE, size=32)
    assert dataset.refresh() == 10
    write_episode(data, task=0, seed=7)
    write_episode(data, task=0, seed=8, success=False)
    assert dataset.refresh() == 2
    assert dataset.refresh() == 0
    assert len(dataset.episodes) == 11
    assert dataset.n_frames == 88


def test_of_a_failed_episode_the_first_steps_are_taken_if_asked_for(data):
    path = write_episode(data, task=0, seed=8, success=False)
    for steps, frames in ((0, 0), (3, 3), (100, 8)):
        dataset = Dataset(data, SUITE, size=32, failed_steps=steps)
        dataset.refresh()
        kept = [episode for episode in dataset.episodes if episode.name == 'task0/seed8']
        assert sum(map(len, kept)) == frames == dataset.n_frames - 80
    with np.load(path, allow_pickle=True) as file:
        arrays = dict(file)
    assert (kept[0].action == arrays['action']).all()
    np.savez(path, **arrays | {'frame': np.arange(10, 18)})  # its first steps were not rendered
    dataset = Dataset(data, SUITE, size=32, failed_steps=10)
    assert dataset.refresh() == 11 and dataset.n_frames == 80
    np.savez(path, **arrays | {'frame': np.arange(7)})
    with pytest.raises(SpecVLAError, match='seed8.npz is no episode .8 frames of 7 steps'):
        Dataset(data, SUITE, size=32, failed_steps=3).refresh()


def test_pixels_are_those_inference_sees(data):
    dataset = Dataset(data, SUITE, size=32)
    dataset.refresh()
    first = dataset.episodes[0]
    with np.load(data / SUITE / f'{first.name}.npz', allow_pickle=True) as file:
        image = simplejpeg.decode_jpeg(file['jpeg'][3], fastdct=True)
    # Inference mirrors the frame, then transforms it; its JPEG round trip is the file's.
    transform = ImageTransform(32)
    expected = transform.pixels_from_jpeg(simplejpeg.encode_jpeg(
        np.ascontiguousarray(image[:, ::-1]), quality=100, colorsubsampling='444')).numpy()
    difference = first.pixels[3].astype(int) - expected
    assert np.abs(difference).mean() < 1


def test_pixels_are_cached(data):
    Dataset(data, SUITE, size=32).refresh()
    files = sorted((data / SUITE).glob('pixels_*/task*/*.npy'))
    assert len(files) == 10
    written = [path.stat().st_mtime_ns for path in files]
    Dataset(data, SUITE, size=32).refresh()
    assert [path.stat().st_mtime_ns for path in files] == written


def test_a_resumed_training_sees_the_same_episodes_in_the_same_order(data):
    names = ['task1/seed2', 'task0/seed4']
    dataset = Dataset(data, SUITE, size=32)
    dataset.refresh(only=names)
    assert [episode.name for episode in dataset.episodes] == names
    with pytest.raises(SpecVLAError, match='is gone'):
        dataset.refresh(only=['task0/seed99'])


def test_a_damaged_episode_is_named(data):
    (data / SUITE / 'task0' / 'seed3.npz').write_bytes(b'no')
    with pytest.raises(SpecVLAError, match='task0/seed3.npz is no episode'):
        Dataset(data, SUITE, size=32).refresh()


def test_frames_are_numbered_over_episodes():
    frames = Frames.of([episode(np.zeros((3, 2))), episode(np.zeros((2, 2)), 'task0/seed1')])
    assert len(frames) == 5
    assert [(e.name, f) for e, f in map(frames.locate, range(5))] == [
        ('task0/seed0', 0), ('task0/seed0', 1), ('task0/seed0', 2),
        ('task0/seed1', 0), ('task0/seed1', 1)]


def test_statistics_golden_numbers():
    action = np.stack((np.linspace(0, 1, 101), np.linspace(-2, 2, 101),
                       np.arange(101) % 2), axis=1)
    statistics = action_statistics([episode(action)])
    np.testing.assert_allclose(statistics.q01, [0.01, -1.96, 0], atol=1e-6)
    np.testing.assert_allclose(statistics.q99, [0.99, 1.96, 1], atol=1e-6)
    assert statistics.mask.tolist() == [True, True, False]


def test_a_dimension_that_hardly_moves_keeps_its_extremes():
    action = np.zeros((1000, 3))
    action[5, 0], action[6, 0] = -0.3, 0.1  # a rotation correction in two frames of a thousand
    statistics = action_statistics([episode(action)])
    np.testing.assert_allclose(statistics.q01[:2], [-0.3, -0.01], atol=1e-6)
    np.testing.assert_allclose(statistics.q99[:2], [0.1, 0.01], atol=1e-6)
    back = statistics.unnormalize(statistics.normalize(action[[5, 6, 7]]))
    np.testing.assert_allclose(back, action[[5, 6, 7]], atol=1e-6)


def test_held_out_episodes_stay_the_same():
    episodes = [episode(np.zeros((1, 2)), f'task{t}/seed{s}')
                for t in range(10) for s in range(100)]
    frames, held_out = divide(episodes, 0.1)
    assert 70 < len(held_out) < 130 and len(frames) == 1000 - len(held_out)
    assert held_out == divide(held_out, 0.1)[1]  # whichever others there are
    assert divide(episodes, 0.0) == (episodes, [])
    assert divide(episodes, 1.0) == ([], episodes)


def test_a_target_that_saw_whole_frames_is_trained_on_them(data):
    whole, cropped = (Dataset(data, SUITE, size=32, image=ImagePreparation(True, area))
                      for area in (1.0, 0.9))
    for dataset in (whole, cropped):
        dataset.refresh()
    with np.load(data / SUITE / f'{whole.episodes[0].name}.npz', allow_pickle=True) as file:
        jpeg = file['jpeg'][0]
    for dataset, area in ((whole, 1.0), (cropped, 0.9)):
        expected = ImageTransform(32, crop_area=area).pixels_from_jpeg(jpeg).numpy()[:, ::-1]
        assert np.array_equal(dataset.episodes[0].pixels[0], expected)
    assert not np.array_equal(whole.episodes[0].pixels[0], cropped.episodes[0].pixels[0])


def test_frames_without_a_jpeg_round_trip_can_t_be_trained_on(data):
    with pytest.raises(SpecVLAError, match='jpeg is false .* must be true to train'):
        Dataset(data, SUITE, size=32, image=ImagePreparation(False, 1.0))


class Harm:
    """What is read of it would run a command."""

    def __reduce__(self):
        return sys.exit, (3,)

    def __repr__(self):
        return 'Harm'  # in the test's name, which must be the same in each process


@pytest.mark.parametrize(('change', 'message'), [
    ({'jpeg': np.array([Harm()] * 8, object)}, "it holds 'sys.exit', must hold bytes"),
    ({'jpeg': np.array(3)}, 'seed3.npz is no episode'),
    ({'jpeg': np.array(['a'] * 8, object)}, 'no bytes of a JPEG'),
    ({'jpeg': np.array([b'no'] * 8, object)}, 'not a readable JPEG'),
    ({'action': np.full((8, 7), np.nan)}, 'not finite'),
    ({'action': np.array([['x'] * 7] * 8)}, 'action is an array of <U1, must be one of numbers'),
    ({'action': np.zeros(8)}, r'actions \(8,\)'),
    ({'state': np.array(1.0)}, 'seed3.npz is no episode'),
    ({'instruction': np.array('')}, 'the instruction is empty'),
    ({'success': np.array([True, False])}, 'seed3.npz is no episode'),
    ({'success': None}, 'success'),
], ids=str)
def test_an_episode_of_another_form_is_named(data, change, message):
    path = data / SUITE / 'task0' / 'seed3.npz'
    with np.load(path, allow_pickle=True) as file:
        content = {name: value for name, value in {**file, **change}.items() if value is not None}
    np.savez(path, **content)
    with pytest.raises(SpecVLAError, match=message) as caught:
        Dataset(data, SUITE, size=32).refresh()
    assert '\n' not in str(caught.value)
