"""Bags, pictures and collected episodes as recordings, and how their formats are told apart."""
import os
import pickle
import sys
import zipfile

import numpy as np
import pytest

from specvla_ros.bags import frames
from specvla_ros.bags.frames import live_actions
from specvla_ros.bags.reader import Bag
from specvla_ros.errors import SpecVLAError
from specvla_ros.recordings.collected import load
from specvla_ros.recordings.episode import Selection
from specvla_ros.recordings.find import open_recordings
from specvla_ros.training.dataset import Dataset
from test.bags.conftest import BagMaker
from test.recordings.makers import pictures, png
from test.training.conftest import write_episode


def only(path, **selection):
    recording, = open_recordings([path], Selection(**selection))
    return recording


def bag(path, fill):
    maker = BagMaker(path, 'mcap')
    fill(maker)
    maker.writer.finish()
    return path


def two_episodes(maker):
    """Image 2 can't be read, image 3 comes under no instruction; the values count the images."""
    maker.instruct(1, 'push')
    maker.image(10, value=1)
    maker.image(20, value=2, encoding='32FC1')
    maker.instruct(25, '')
    maker.image(30, value=3)
    maker.instruct(35, 'pull')
    for number in range(4, 9):
        maker.image(10 * number, value=number)


def test_the_segments_of_a_bag_are_its_episodes(tmp_path):
    recording = only(bag(tmp_path / 'bag', two_episodes))
    assert [(e.instruction, len(e)) for e in recording.episodes] == [('push', 1), ('pull', 5)]
    assert recording.kind == 'bag, 16 x 16 from /image'
    assert [line.split(':')[0] for line in recording.remarks] == [
        '1 of 8 images came under no instruction', '1 of 8 images could not be read']
    second = recording.episodes[1]
    assert [image[0, 0, 0] for image in recording.images(second)] == [4, 5, 6, 7, 8]
    assert [image[0, 0, 0] for image in recording.images(second, 2, 4)] == [6, 7]
    assert second.stamps == pytest.approx([0, 1e-8, 2e-8, 3e-8, 4e-8])


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_each_stretch_of_a_bag_is_what_the_whole_has_there(tmp_path, storage):
    maker = BagMaker(tmp_path / 'bag', storage)
    two_episodes(maker)
    maker.instruct(85, '')
    maker.image(90, value=9)  # in the midst of the second segment, under no instruction
    maker.instruct(95, 'pull')
    maker.image(100, value=10)
    maker.writer.finish()
    recording = only(maker.path)
    for episode in recording.episodes:
        whole = [image[0, 0, 0] for image in recording.images(episode)]
        assert len(whole) == len(episode) and 9 not in whole
        for start in range(len(whole)):
            for stop in range(start + 1, len(whole) + 1):
                part = recording.images(episode, start, stop)
                assert [image[0, 0, 0] for image in part] == whole[start:stop]


def test_only_images_that_are_asked_for_are_decoded(tmp_path, monkeypatch):
    recording = only(bag(tmp_path / 'bag', two_episodes))
    decoded = []
    to_rgb = frames.to_rgb
    monkeypatch.setattr(frames, 'to_rgb', lambda message: decoded.append(1) or to_rgb(message))
    list(recording.images(recording.episodes[1], 1, 3))
    assert len(decoded) == 2


def report(maker, stamp, **changes):
    fields = dict(
        header=maker.header(stamp), image_stamp=maker.stamp(stamp), sequence=0, decoder='strict',
        drafter='glance', rule='strict', threshold=0.0, target_passes=2, drafted=0, accepted=0,
        acceptance_histogram=np.array([], np.uint32), acceptance_length=0.0,
        token_sources=['target'] * 7, token_origins=np.zeros(7, np.uint8),
        bins_off=np.zeros(7, np.float32), si_off=np.zeros(7, np.float32), forbidden=0, risk=0.0,
        reason='', **{f'{name}_time': 0.0 for name in (
            'preprocess', 'vision', 'prefill', 'draft', 'verify', 'publish', 'total')},
        queue_age=0.0)
    maker.send('/decode_report', frames.REPORT, stamp + 2, **(fields | changes))


def action(maker, stamp, tokens):
    nothing = np.array([], np.float32)
    maker.send('/action', frames.ACTION, stamp + 1, header=maker.header(stamp),
               image_stamp=maker.stamp(stamp), sequence=0, step_period=0.05, translation=[],
               rotation=[], gripper=np.zeros(1, np.float32), normalized=nothing,
               token_ids=np.array(tokens, np.uint32), limited=False, unverified=False,
               first_step=0)


@pytest.mark.parametrize('changes', [
    {'rule': 'bins'}, {'forbidden': 1}, {'token_origins': np.array([0, 2], np.uint8)}, None])
def test_recorded_words_are_own_only_where_nothing_could_change_them(tmp_path, changes):
    def fill(maker):
        maker.instruct(1, 'push')
        for stamp in (10, 20, 30):
            maker.image(stamp)
            action(maker, stamp, range(stamp, stamp + 7))
        report(maker, 10)
        if changes is not None:
            report(maker, 20, **changes)

    recording = only(bag(tmp_path / 'bag', fill))
    assert recording.episodes[0].said == {0: tuple(range(10, 17))}
    assert '3 recorded actions, 1 of them the own words' in recording.remarks[0]
    with Bag(tmp_path / 'bag') as opened:
        assert [it.is_own for it in live_actions(opened).values()] == [True, False, False]


@pytest.mark.parametrize('fill, selection, message', [
    (lambda maker: maker.instruct(1, 'push'), {}, 'has no topic /image'),
    (lambda maker: maker.image(1), {}, 'has no topic /instruction'),
    (lambda maker: (maker.image(1), maker.instruct(2, 'push')), {},
     'all 1 came under no instruction; give --instruction'),
    (lambda maker: (maker.instruct(1, 'push'), maker.image(2), maker.image(3, size=8)), {},
     r'/image changes its size from 16 x 16 to 8 x 8 at image 1'),
    (lambda maker: (maker.instruct(1, 'push'), maker.image(2, encoding='mono8')), {},
     'no frame of .* can be used'),
    (lambda maker: (maker.instruct(1, 'x'), maker.image(2)), {'image_topic': '/wrist'},
     'has no topic /wrist'),
])
def test_a_bag_that_teaches_nothing_is_one_clear_line(tmp_path, fill, selection, message):
    with pytest.raises(SpecVLAError, match=message) as error:
        only(bag(tmp_path / 'bag', fill), **selection)
    assert '\n' not in str(error.value)


def test_a_bag_that_is_cut_off_gives_what_is_left_and_says_so(tmp_path):
    path, = bag(tmp_path / 'bag', two_episodes).glob('*.mcap')
    path.write_bytes(path.read_bytes()[:-200])
    recording = only(path)
    assert recording.frames >= 1 and 'messages can be read' in recording.remarks[-1]


def test_a_folder_of_bags_is_all_of_them(tmp_path):
    for name in 'ab':
        bag(tmp_path / name, two_episodes)
    assert [it.path.name for it in open_recordings([tmp_path], Selection())] == ['a', 'b']


def test_folders_of_pictures_are_episodes_with_the_text_beside_them(tmp_path):
    for name, first in (('one', 0), ('two', 10)):
        for number, image in enumerate(pictures(3, first)):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f'{number}.png').write_bytes(png(image))
    with pytest.raises(SpecVLAError, match='one has no instruction; give it with --instruction'):
        only(tmp_path)
    (tmp_path / 'instruction.txt').write_text('wave\n')
    (tmp_path / 'two' / 'instruction.txt').write_text('push')
    recording = only(tmp_path)
    assert [(e.name, e.instruction) for e in recording.episodes] == [('one', 'wave'),
                                                                     ('two', 'push')]
    assert np.array_equal(np.stack(list(recording.images(recording.episodes[1]))),
                          np.stack(pictures(3, 10)))
    assert only(tmp_path / 'one', instruction='turn').episodes[0].instruction == 'turn'


def test_an_array_of_frames_is_an_episode(tmp_path):
    np.savez(tmp_path / 'x.npz', images=np.stack(pictures(4)), instruction='push')
    recording = only(tmp_path / 'x.npz')
    assert np.array_equal(np.stack(list(recording.images(recording.episodes[0], 1))),
                          np.stack(pictures(4)[1:]))


def test_collected_episodes_are_read_whether_they_failed_or_not(tmp_path):
    write_episode(tmp_path, 0, 3)
    write_episode(tmp_path, 1, 4, success=False)
    for path in (tmp_path, tmp_path / 'libero_object'):
        recording = only(path)
        assert [len(episode) for episode in recording.episodes] == [8, 8]
        assert recording.episodes[0].instruction == 'pick up the milk'
        assert recording.episodes[0].stamps == pytest.approx(0.05 * np.arange(8))
    file = tmp_path / 'libero_object' / 'task0' / 'seed3.npz'
    with np.load(file, allow_pickle=True) as content:
        assert np.array_equal(load(file).actions, content['action'])
        assert list(load(file).jpegs) == list(content['jpeg'])


def test_a_collected_episode_can_run_nothing(tmp_path):
    path = write_episode(tmp_path, 0, 3)
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}

    class Harm:
        def __reduce__(self):
            return sys.exit, (3,)

    head = members['jpeg.npy']
    members['jpeg.npy'] = head[:10 + int.from_bytes(head[8:10], 'little')] + pickle.dumps(Harm())
    with zipfile.ZipFile(path, 'w') as new:
        for name, data in members.items():
            new.writestr(name, data)
    with pytest.raises(SpecVLAError, match="it holds 'sys.exit', must hold bytes"):
        only(path)


@pytest.mark.parametrize('kept', [0, 0.3, 0.9])
def test_a_collected_episode_that_is_cut_off_is_one_clear_line(tmp_path, kept):
    path = write_episode(tmp_path, 0, 3)
    path.write_bytes(path.read_bytes()[:int(kept * path.stat().st_size)])
    with pytest.raises(SpecVLAError, match='no episode of `specvla collect`'):
        only(path)


def test_what_is_no_recording_says_what_can_be_read(tmp_path):
    with pytest.raises(SpecVLAError, match='there is no .*nowhere: give a bag, a data set'):
        only(tmp_path / 'nowhere')
    with pytest.raises(SpecVLAError, match='these are: rosbag2 folders, LeRobot data sets'):
        only(tmp_path)
    (tmp_path / 'x.txt').write_text('x')
    with pytest.raises(SpecVLAError, match=r'x\.txt is no recording'):
        only(tmp_path / 'x.txt')
    (tmp_path / '1.0.0').mkdir()
    (tmp_path / '1.0.0' / 'data-train.tfrecord-00000-of-00001').write_text('')
    with pytest.raises(SpecVLAError, match='an RLDS data set .* convert it to a LeRobot'):
        only(tmp_path)


@pytest.mark.parametrize('given, said', [
    ({'camera': 'front'}, '--camera front has no effect: there is no data set with cameras'),
    ({'instruction_topic': '/told'}, ''), ({'image_topic': '/image'}, '')])
def test_a_choice_that_no_recording_has_is_refused(tmp_path, given, said):
    path = bag(tmp_path / 'bag', two_episodes)
    if said:
        with pytest.raises(SpecVLAError, match=said):
            open_recordings([path], Selection(**given))
    (tmp_path / 'pictures').mkdir()
    (tmp_path / 'pictures' / '0.png').write_bytes(png(pictures(1)[0]))
    (tmp_path / 'pictures' / 'instruction.txt').write_text('push')
    with pytest.raises(SpecVLAError, match='has no effect: there is no .* among the recordings'):
        open_recordings([tmp_path / 'pictures'], Selection(**given))


@pytest.mark.parametrize('blank', [' ', '\t\n'])
def test_an_instruction_of_blanks_is_none(tmp_path, blank):
    path = bag(tmp_path / 'bag', two_episodes)
    with pytest.raises(SpecVLAError, match='--instruction .* is empty: say what the robot was'):
        only(path, instruction=blank)


def test_where_the_stamps_go_back_an_episode_ends(tmp_path):
    def fill(maker):
        maker.instruct(1, 'push')
        for number, stamp in enumerate((10, 20, 30, 20, 40, 0, 5)):
            maker.image(10 * number + 10, value=number, stamp=stamp)

    recording = only(bag(tmp_path / 'bag', fill))
    assert [len(episode) for episode in recording.episodes] == [3, 4]
    assert 'the stamps of the images went back 1 time: an episode ends there' in recording.remarks
    # An image without a stamp says nothing of the clock.
    assert recording.episodes[0].stamps is not None and recording.episodes[1].stamps is None
    for episode, values in zip(recording.episodes, ([0, 1, 2], [3, 4, 5, 6]), strict=True):
        assert [image[0, 0, 0] for image in recording.images(episode)] == values


def test_an_action_whose_stamp_several_images_have_is_of_none(tmp_path, monkeypatch):
    """A simulation that begins anew gives its stamps again: the first frame's action fits one."""
    def fill(maker):
        maker.instruct(1, 'push')
        for time, stamp in ((10, 10), (20, 20), (30, 30), (40, 10), (50, 25)):
            maker.image(time, stamp=stamp)
        for stamp in (10, 20, 25):
            action(maker, stamp, range(stamp, stamp + 7))
            report(maker, stamp)

    monkeypatch.setattr('specvla_ros.recordings.bag.first_steps', lambda bag: {
        stamp: np.full(7, stamp, np.float32) for stamp in (10, 20, 25)})
    recording = only(bag(tmp_path / 'bag', fill))
    before, after = recording.episodes
    assert (dict(before.said), dict(after.said)) == (
        {1: tuple(range(20, 27))}, {1: tuple(range(25, 32))})
    assert np.array_equal(before.actions[:, 0], [np.nan, 20, np.nan], equal_nan=True)
    assert np.array_equal(after.actions[:, 0], [np.nan, 25], equal_nan=True)
    assert '1 recorded action left out: several images have the same stamp' in recording.remarks


def test_pictures_are_in_the_order_of_their_numbers(tmp_path):
    (tmp_path / 'instruction.txt').write_text('push')
    (tmp_path / 'old.png').mkdir()  # a folder is no picture
    for number in (10, 9, 100, 1):
        (tmp_path / f'{number}.png').write_bytes(
            png(np.full((8, 8, 3), (number, 200, 0), np.uint8)))
    recording = only(tmp_path)
    assert [image[0, 0, 0] for image in recording.images(recording.episodes[0])] == [
        1, 9, 10, 100]


@pytest.mark.parametrize('name, value, message', [
    ('frame', np.zeros((8, 2), int), 'must be whole numbers from 0 up that rise'),
    ('frame', np.array([0, 1, 2, 1, 4, 5, 6, 7]), 'must be whole numbers from 0 up that rise'),
    ('frame', np.full(8, np.nan), 'must be whole numbers from 0 up that rise'),
    ('frame', np.array(list('abcdefgh')), 'must be whole numbers from 0 up that rise'),
    ('frame', np.arange(-1, 7), 'must be whole numbers from 0 up that rise'),
    ('instruction', np.array(['push', 'pull']), r'the instruction is <U4 \[2\], must be one text'),
    ('instruction', np.array(7), r'the instruction is int64 \[\], must be one text'),
    ('instruction', '  ', 'the instruction is empty'),
    ('action', np.ones((8, 7), complex), 'an array of complex128, must be one of numbers'),
    ('action', np.ones((8, 0)), r'actions \(8, 0\)'),
    ('action', np.full((8, 7), np.inf), 'an action is not a finite number'),
])
def test_a_collected_episode_that_makes_no_sense_is_one_clear_line(
        tmp_path, name, value, message):
    path = write_episode(tmp_path, 0, 3)
    with np.load(path, allow_pickle=True) as there:
        content = {**there, name: value}
    np.savez(path, **content)
    with pytest.raises(SpecVLAError, match=f'no episode of `specvla collect` .*{message}'):
        only(tmp_path)
    if name != 'frame':  # which a training without chunks does not read
        with pytest.raises(SpecVLAError, match='seed3.npz is no episode'):
            Dataset(tmp_path, 'libero_object', size=16).refresh()


def test_what_is_neither_file_nor_folder_is_no_recording(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(SpecVLAError, match='is neither a file nor a folder'):
        only(tmp_path / 'pipe')
    (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
    with pytest.raises(SpecVLAError, match='there is no .*loop'):
        only(tmp_path / 'loop')


@pytest.mark.parametrize('module, name', [('h5py', 'x.hdf5'), ('pyarrow', 'set')])
def test_a_reader_that_is_missing_says_what_to_install(tmp_path, monkeypatch, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / name
    if module == 'h5py':
        path.write_bytes(b'')
    else:
        (path / 'meta' / 'episodes' / 'chunk-000').mkdir(parents=True)
        (path / 'meta' / 'episodes' / 'chunk-000' / 'file-000.parquet').write_bytes(b'')
        (path / 'meta' / 'info.json').write_text(
            '{"codebase_version": "v3.0", "fps": 10, "features": {}, "total_frames": 1, '
            '"data_path": ""}')
    with pytest.raises(SpecVLAError, match=rf"module {module}.*pip install 'specvla_ros\[rec"):
        only(path)
