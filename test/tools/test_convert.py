"""`specvla convert`: whatever is read comes out of a LeRobot data set as it was."""
import json
from pathlib import Path

import numpy as np
import pytest

from specvla_ros.bags.frames import first_steps
from specvla_ros.bags.reader import Bag
from specvla_ros.cli import main
from specvla_ros.recordings import lerobot_writer
from specvla_ros.recordings.episode import Selection
from specvla_ros.recordings.find import open_recordings
from test.recordings.makers import (
    LeRobotMaker,
    MODULES,
    numbers,
    pictures,
    write_demonstrations,
)
from test.recordings.test_others import bag
from test.training.conftest import write_episode

pytest.importorskip('pyarrow', reason=f'pyarrow: {MODULES}')
pytest.importorskip('av', reason=f'av: {MODULES}')

BAG = Path(__file__).parents[1] / 'data' / 'libero_object_2'
CODEC_ERROR = 3.0  # mean of the absolute differences, of 255: H.264 at crf 18, 4:2:0


def only(path, **selection):
    recording, = open_recordings([path], Selection(**selection))
    return recording


def same_numbers(a, b):
    return len(a.episodes) == len(b.episodes) and all(
        x.instruction == y.instruction and np.array_equal(x.actions, y.actions)
        and (x.poses is None) == (y.poses is None)
        and (x.poses is None or np.array_equal(x.poses, y.poses))
        for x, y in zip(a.episodes, b.episodes, strict=True))


def test_a_bag_comes_out_with_its_frames_and_its_actions_to_the_bit(tmp_path, capsys):
    assert main(['convert', str(BAG), '--out', str(tmp_path / 'set'), '--images']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith(
        'set: LeRobot v3.0, 1 episode, 68 frames, 20 a second; observation.images.image (PNG, '
        '256 x 256), action [7]'), lines
    bag, made = only(BAG), only(tmp_path / 'set')
    assert same_numbers(bag, made)
    for a, b in zip(bag.images(bag.episodes[0]), made.images(made.episodes[0]), strict=True):
        assert np.array_equal(a, b)
    with Bag(BAG) as content:
        steps = first_steps(content)
    assert np.array_equal(made.episodes[0].actions, np.stack(list(steps.values())))
    assert made.episodes[0].stamps == pytest.approx(np.arange(68) / 20, abs=1e-6)


def test_as_a_video_the_frames_are_within_the_codecs_error(tmp_path, capsys):
    assert main(['convert', str(BAG), '--out', str(tmp_path / 'set')]) == 0
    bag, made = only(BAG), only(tmp_path / 'set')
    assert same_numbers(bag, made)
    read = list(made.images(made.episodes[0]))
    for a, b in zip(bag.images(bag.episodes[0]), read, strict=True):
        assert np.abs(a.astype(int) - b).mean() < CODEC_ERROR


@pytest.mark.parametrize('version', ['v2.1', 'v3.0'])
def test_a_data_set_of_several_tasks_and_states_comes_out_again(tmp_path, version):
    LeRobotMaker(tmp_path / 'old', version, [
        (task, pictures(count, first), numbers(count, 7, first), numbers(count, 6, -first))
        for task, count, first in (('open it', 7, 0), ('close it', 5, 10), ('open it', 6, 20))],
        video=False)
    assert main(['convert', str(tmp_path / 'old'), '--out', str(tmp_path / 'set'),
                 '--images', '--name', 'front']) == 0
    old, made = only(tmp_path / 'old'), only(tmp_path / 'set')
    assert same_numbers(old, made)
    for a, b in zip(old.episodes, made.episodes, strict=True):
        assert np.array_equal(np.stack(list(old.images(a))), np.stack(list(made.images(b))))


def test_statistics_are_of_each_episode_and_of_the_whole_set(tmp_path):
    from pyarrow import parquet
    parts = [numbers(count, 7, first) for count, first in ((7, 0), (12, 10))]
    colors = [np.array((count, 100, 200), np.uint8) for count in (0, 255)]
    LeRobotMaker(tmp_path / 'old', 'v3.0', [
        ('open it', [np.broadcast_to(color, (32, 32, 3)) for _ in part], part, part[:, :6])
        for part, color in zip(parts, colors)], video=False)
    assert main(['convert', str(tmp_path / 'old'), '--out', str(tmp_path / 'set'), '--images',
                 '--name', 'front']) == 0
    rows = parquet.read_table(tmp_path / 'set/meta/episodes').to_pylist()
    for row, actions, color in zip(rows, parts, colors, strict=True):
        stats = {name: np.array(row[f'stats/action/{name}'])
                 for name in ('min', 'max', 'mean', 'std', 'q01', 'q50', 'q99', 'count')}
        assert stats['count'] == [len(actions)]
        for name, value in (('min', actions.min(0)), ('max', actions.max(0)),
                            ('mean', actions.mean(0)), ('std', actions.std(0)),
                            ('q50', np.median(actions, 0)),
                            ('q01', np.quantile(actions, 0.01, axis=0))):
            np.testing.assert_allclose(stats[name], value, rtol=1e-5, atol=1e-6)
        camera = np.array(row['stats/observation.images.front/mean'])
        np.testing.assert_allclose(camera, color[:, None, None] / 255, atol=1e-6)
    whole, both = json.loads((tmp_path / 'set/meta/stats.json').read_text()), np.concatenate(parts)
    for name, value in (('min', both.min(0)), ('max', both.max(0)), ('mean', both.mean(0)),
                        ('std', both.std(0)), ('count', [19])):
        np.testing.assert_allclose(whole['action'][name], value, rtol=1e-5, atol=1e-6)
    # As lerobot puts quantiles together: weighted by frames.
    np.testing.assert_allclose(whole['action']['q90'], np.average(
        [np.quantile(it, 0.9, axis=0) for it in parts], axis=0, weights=[7, 12]), rtol=1e-5)
    assert whole['observation.images.front']['count'] == [1 + 2]  # each tenth frame
    assert set(whole) == {it.split('/')[1] for it in rows[0] if it.startswith('stats/')}


def test_many_rows_go_into_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(lerobot_writer, '_ROWS_MB', 0)
    for seed in range(3):
        write_episode(tmp_path / 'data', 0, seed, frames=5)
    assert main(['convert', str(tmp_path / 'data'), '--out', str(tmp_path / 'set')]) == 0
    assert len(list((tmp_path / 'set' / 'data').rglob('*.parquet'))) == 3
    assert same_numbers(only(tmp_path / 'data'), only(tmp_path / 'set'))


def test_pictures_without_actions_make_a_set_without(tmp_path, capsys):
    np.savez(tmp_path / 'frames.npz', images=np.stack(pictures(4)), instruction='look')
    command = ['convert', str(tmp_path / 'frames.npz'), '--out', str(tmp_path / 'set')]
    assert main(command) == 2
    assert capsys.readouterr().err == (
        'error: nothing says how many frames a second there are: give --fps\n')
    assert main([*command, '--fps', '5']) == 0
    assert capsys.readouterr().out.strip().endswith('; no action was recorded')
    made = only(tmp_path / 'set')
    assert made.episodes[0].actions is None and len(made.episodes[0]) == 4


def test_frames_that_were_not_acted_on_are_left_out_and_counted(tmp_path, capsys, monkeypatch):
    from specvla_ros.recordings import bag as module
    monkeypatch.setattr(module, 'first_steps', lambda bag: dict(
        list(first_steps(bag).items())[::2]))
    assert main(['convert', str(BAG), '--out', str(tmp_path / 'set'), '--images']) == 0
    out = capsys.readouterr().out
    assert 'left out: 34 frames without a recorded action' in out
    assert '34 frames, 10 a second' in out
    bag, made = only(BAG), only(tmp_path / 'set')
    images = list(bag.images(bag.episodes[0]))[::2]
    assert np.array_equal(np.stack(images), np.stack(list(made.images(made.episodes[0]))))
    assert np.array_equal(bag.episodes[0].actions[::2], made.episodes[0].actions)


@pytest.mark.parametrize('options, message', [
    (['--fps', '-1'], '--fps -1: must be 1 to 1000, or 0 for that of the stamps'),
    (['--fps', '1001'], '--fps 1001: must be 1 to 1000'),
    (['--instruction', ' '], "--instruction ' ' is empty"),
    (['--out', 'link'], '--out link exists'),
    (['--name', 'a/b'], "--name 'a/b': must be of letters, digits and _"),
    (['--to', 'rlds'], 'rlds'),
    (['--image-topic', '/wrist'], 'has no topic /wrist'),
    (['--out', 'there'], '--out there exists; give a folder that is not there'),
    (['--out', str(BAG / 'set')], 'is inside of'),
])
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, options,
                                                  message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'there').mkdir()
    (tmp_path / 'link').symlink_to('nowhere')
    before = sorted(tmp_path.rglob('*'))
    out = [] if '--out' in options else ['--out', 'set']
    assert main(['convert', str(BAG), *out, *options]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith('error: ') and complaint.count('\n') == 1, complaint
    assert message in complaint
    assert sorted(tmp_path.rglob('*')) == before


def test_stamps_in_another_unit_are_no_rate(tmp_path, capsys):
    def fill(maker):
        maker.instruct(1, 'push')
        for stamp in range(10, 80, 10):  # ns
            maker.image(stamp)

    path = bag(tmp_path / 'bag', fill)
    assert main(['convert', str(path), '--out', str(tmp_path / 'set')]) == 2
    assert capsys.readouterr().err == (
        'error: by their stamps there are 1e+08 frames a second, must be 1 to 1000: give --fps\n')


def test_poses_that_not_all_episodes_have_are_left_out_aloud(tmp_path, capsys):
    import h5py
    path = write_demonstrations(tmp_path / 'a_b_demo.hdf5', [
        (pictures(4), numbers(4, 7)), (pictures(4, 9), numbers(4, 7))])
    with h5py.File(path, 'r+') as file:
        del file['data/demo_1/obs/ee_pos']
    assert main(['convert', str(path), '--out', str(tmp_path / 'set'), '--fps', '20']) == 0
    out = capsys.readouterr().out
    assert 'left out: the poses: not all episodes have them' in out
    assert only(tmp_path / 'set').episodes[0].poses is None


def test_what_does_not_fit_together_is_refused_and_nothing_is_left(tmp_path, capsys):
    np.savez(tmp_path / 'a.npz', images=np.stack(pictures(3)), instruction='look')
    np.savez(tmp_path / 'b.npz', images=np.stack(pictures(3, height=30)), instruction='look')
    before = sorted(tmp_path.rglob('*'))
    assert main(['convert', str(tmp_path / 'a.npz'), str(tmp_path / 'b.npz'), '--fps', '5',
                 '--out', str(tmp_path / 'set')]) == 2
    assert 'a frame is 48 x 30, the first one was 48 x 32' in capsys.readouterr().err
    assert sorted(tmp_path.rglob('*')) == before


def test_a_video_of_an_odd_size_is_refused(tmp_path, capsys):
    np.savez(tmp_path / 'a.npz', images=np.stack(pictures(3, width=47)), instruction='look')
    command = ['convert', str(tmp_path / 'a.npz'), '--fps', '5', '--out', str(tmp_path / 'set')]
    assert main(command) == 2
    assert 'a video needs even numbers: write them as pictures, --images' in \
        capsys.readouterr().err
    assert main([*command, '--images']) == 0


@pytest.mark.parametrize('when', ['add', 'finish'])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, when):
    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(lerobot_writer.LeRobotWriter, when, full)
    assert main(['convert', str(BAG), '--out', str(tmp_path / 'set')]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith(f'error: cannot write {tmp_path / "set"}: No space left')
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(lerobot_writer.LeRobotWriter, 'finish', interrupt)
    assert main(['convert', str(BAG), '--out', str(tmp_path / 'set')]) == 130
    assert list(tmp_path.iterdir()) == []
