"""LeRobot data sets: what was written comes out, of v2.1 and v3.0 alike."""
from itertools import pairwise
import json

import numpy as np
import pytest

from specvla_ros.errors import SpecVLAError
from specvla_ros.recordings.episode import Selection
from specvla_ros.recordings.find import open_recordings
from test.recordings.makers import (
    CAMERA,
    LeRobotMaker,
    MODULES,
    numbers,
    pictures,
    png,
    write_parquet,
)

pytest.importorskip('pyarrow', reason=f'pyarrow: {MODULES}')
pytest.importorskip('av', reason=f'av: {MODULES}')

CODEC_ERROR = 2.0  # mean of the absolute differences, of 255: H.264 at crf 8, 4:2:0


def episodes():
    """Three of two tasks; the frames of each have other brightnesses than its neighbours'."""
    return [(task, pictures(count, first), numbers(count, 7, first), numbers(count, 6, -first))
            for task, count, first in (('open the drawer', 7, 0), ('close it', 5, 10),
                                       ('open the drawer', 6, 20))]


@pytest.fixture(params=['v2.1', 'v3.0'])
def version(request):
    return request.param


def only(path, **selection):
    recording, = open_recordings([path], Selection(**selection))
    return recording


def test_a_video_data_set_gives_its_frames_and_the_numbers_to_the_bit(tmp_path, version):
    written = episodes()
    LeRobotMaker(tmp_path / 'set', version, written)
    recording = only(tmp_path / 'set')
    assert recording.kind == f'LeRobot data set {version}, 48 x 32 from {CAMERA}'
    assert [len(episode) for episode in recording.episodes] == [7, 5, 6]
    for episode, (task, images, actions, states) in zip(recording.episodes, written):
        assert episode.instruction == task
        assert np.array_equal(episode.actions, actions)
        assert np.array_equal(episode.poses, states)
        assert episode.stamps == pytest.approx(np.arange(len(images)) / 10, abs=1e-6)
        read = list(recording.images(episode))
        assert len(read) == len(images)
        for image, there in zip(read, images):
            assert np.abs(image.astype(int) - there).mean() < CODEC_ERROR
        assert all(a.mean() + 4 < b.mean() for a, b in pairwise(read))  # none twice, none left out


def test_a_stretch_of_an_episode_begins_where_it_is_asked_for(tmp_path, version):
    written = episodes()
    LeRobotMaker(tmp_path / 'set', version, written)
    recording = only(tmp_path / 'set')
    part = list(recording.images(recording.episodes[1], 2, 4))
    assert [np.abs(a.astype(int) - b).mean() < CODEC_ERROR
            for a, b in zip(part, written[1][1][2:4], strict=True)] == [True, True]


def test_pictures_in_the_rows_come_out_to_the_bit(tmp_path, version):
    written = episodes()
    LeRobotMaker(tmp_path / 'set', version, written, video=False)
    recording = only(tmp_path / 'set')
    for episode, (_, images, *_) in zip(recording.episodes, written):
        assert np.array_equal(np.stack(list(recording.images(episode))), np.stack(images))


def test_mirrored_frames_are_turned_back(tmp_path):
    written = episodes()
    LeRobotMaker(tmp_path / 'set', 'v3.0', written, video=False)
    recording = only(tmp_path / 'set', mirrored=True)
    first = next(recording.images(recording.episodes[0]))
    assert np.array_equal(first, written[0][1][0][:, ::-1])


def test_an_episode_in_which_the_task_changes_is_two(tmp_path):
    import pyarrow
    from pyarrow import parquet
    written = episodes()
    maker = LeRobotMaker(tmp_path / 'set', 'v3.0', written, video=False)
    path = maker.root / 'data' / 'chunk-000' / 'file-000.parquet'
    table = parquet.read_table(path)
    tasks = table['task_index'].to_numpy().copy()
    tasks[3:7] = 1  # of the first episode's seven
    parquet.write_table(table.set_column(table.schema.get_field_index('task_index'), 'task_index',
                                         pyarrow.array(tasks)), path)
    recording = only(maker.root)
    assert [(e.name, e.instruction, len(e)) for e in recording.episodes[:2]] == [
        ('episode_000000', 'open the drawer', 3), ('episode_000000_from_3', 'close it', 4)]
    second = list(recording.images(recording.episodes[1]))
    assert np.array_equal(np.stack(second), np.stack(written[0][1][3:]))


def damage(maker, what):
    root, v3 = maker.root, maker.version == 'v3.0'
    video = sorted((root / 'videos').rglob('*.mp4'))[0]
    rows = sorted((root / 'data').rglob('*.parquet'))[0]
    if what in ('video cut off', 'rows cut off'):
        path = video if what == 'video cut off' else rows
        path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    elif what == 'video missing':
        video.unlink()
    elif what == 'rows missing':
        rows.unlink()
    elif what == 'tasks missing':
        (root / 'meta' / ('tasks.parquet' if v3 else 'tasks.jsonl')).unlink()
    else:
        changes = {'version': {'codebase_version': 'v1.6'}, 'fps': {'fps': 0},
                   'no camera': {'features': {}}, 'counted': {'total_frames': 99},
                   'outside': {'video_path': '../../{video_key}.mp4'},
                   'no rate': {'fps': float('nan')}, 'endless rate': {'fps': float('inf')},
                   'newer': {'codebase_version': 'v4.0'}, 'nowhere': {'video_path': None},
                   'no chunks': {'chunks_size': 0, 'video_path': '{episode_chunk}/{video_key}'}}
        maker.info |= changes[what]
        maker.save_info()


@pytest.mark.parametrize('what, message', [
    ('video cut off', r"mp4 (can't be decoded|ends at|has no frame)"),
    ('rows cut off', r"parquet can't be read"),
    ('video missing', r'mp4 is missing: the video of episode 0'),
    ('rows missing', r'rows are missing|18'),
    ('tasks missing', r'tasks\.\w+ is missing'),
    ('version', r"codebase_version is 'v1.6', must be one of v2.1, v3.0: convert it"),
    ('fps', r'fps is missing or of another type'),
    ('no camera', r'has the cameras none, and one is needed: --camera'),
    ('counted', r'18 rows can be read, meta/info.json counts 99'),
    ('outside', r'is missing: the video of episode 0'),
    ('no rate', r'fps is missing or of another type'),
    ('endless rate', r'fps is missing or of another type'),
    ('newer', r"codebase_version is 'v4.0', must be one of v2.1, v3.0"),
    ('nowhere', r'video_path is None, must say where the videos are'),
    ('no chunks', r'nothing says where the video .*front of episode 0 is'),
])
def test_damage_is_one_clear_line(tmp_path, version, what, message):
    maker = LeRobotMaker(tmp_path / 'set', version, episodes())
    damage(maker, what)
    with pytest.raises(SpecVLAError, match=message) as error:
        recording = only(maker.root)
        for episode in recording.episodes:
            list(recording.images(episode))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('column, values, message', [
    ('timestamp', ['x'] * 18, 'timestamp must hold numbers'),
    ('action', [['x'] * 7] * 18, 'action must hold numbers'),
    ('action', [[1.0] * 7] * 17 + [[1.0] * 6], 'action has rows of several lengths'),
    ('action', [[float('nan')] * 7] * 18, 'action holds what is no finite number'),
    ('task_index', [None] * 18, 'task_index lacks a number in 18 rows'),
    ('task_index', [9] * 18, 'task 9 has no text in meta/tasks; give it with --instruction'),
    ('timestamp', [0.5] * 18, 'its times do not rise from frame to frame'),
    ('timestamp', [0.0, float('nan')] * 9, 'its times do not rise from frame to frame'),
    *((name, [value] * 18, f'{name} is missing, or holds what is no whole number')
      for name in ('episode_index', 'frame_index', 'task_index')
      for value in (0.5, float('nan'), float('inf'))),
    ('frame_index', list(range(18, 0, -1)), 'episode 0: its frame_index does not rise from row'),
    # Alternating, the episodes would get each other's words.
    ('episode_index', [0, 1] * 9, 'its frame_index does not rise from row to row'),
])
def test_rows_that_make_no_sense_are_one_clear_line(tmp_path, column, values, message):
    import pyarrow
    from pyarrow import parquet
    maker = LeRobotMaker(tmp_path / 'set', 'v3.0', episodes(), video=False)
    path = maker.root / 'data' / 'chunk-000' / 'file-000.parquet'
    table = parquet.read_table(path)
    if values[0] is None:
        values = pyarrow.array(values, pyarrow.int64())
    parquet.write_table(table.set_column(
        table.schema.get_field_index(column), column, [values]), path)
    with pytest.raises(SpecVLAError, match=message) as error:
        only(maker.root)
    assert '\n' not in str(error.value)


def test_actions_may_be_whole_numbers(tmp_path):
    from pyarrow import parquet
    maker = LeRobotMaker(tmp_path / 'set', 'v3.0', episodes(), video=False)
    path = maker.root / 'data' / 'chunk-000' / 'file-000.parquet'
    write_parquet(path, parquet.read_table(path).to_pydict() | {'action': [[1, 2, 3]] * 18})
    assert np.array_equal(only(maker.root).episodes[0].actions, [[1, 2, 3]] * 7)


def test_of_a_file_with_many_episodes_only_the_wanted_rows_are_read(tmp_path):
    """Else each episode of a file of 100 MB reads all of it."""
    from pyarrow import parquet
    maker = LeRobotMaker(tmp_path / 'set', 'v3.0', episodes(), video=False)
    path = maker.root / 'data' / 'chunk-000' / 'file-000.parquet'
    table = parquet.read_table(path)
    parquet.write_table(table, path, row_group_size=5, compression='none')  # not the episodes'
    recording = only(maker.root)
    whole = [list(recording.images(episode)) for episode in recording.episodes]
    for images, (_, written, _, _) in zip(whole, episodes(), strict=True):
        assert np.array_equal(images, written)
    metadata = parquet.read_metadata(path)
    last = metadata.row_group(metadata.num_row_groups - 1)
    column = next(last.column(number) for number in range(metadata.num_columns)
                  if CAMERA in last.column(number).path_in_schema)
    content = bytearray(path.read_bytes())
    begin = column.dictionary_page_offset or column.data_page_offset
    content[begin:begin + 8] = b'\xff' * 8
    path.write_bytes(content)
    assert np.array_equal(list(recording.images(recording.episodes[0])), whole[0])
    with pytest.raises(SpecVLAError, match="can't be read"):
        list(recording.images(recording.episodes[-1]))


@pytest.mark.parametrize('text', [None, ['close it'], 7, '  '])
def test_a_task_that_is_no_text_is_none(tmp_path, text):
    maker = LeRobotMaker(tmp_path / 'set', 'v2.1', episodes(), video=False)
    lines = [{'task_index': 0, 'task': 'open it'}, {'task_index': 1, 'task': text}]
    (maker.root / 'meta' / 'tasks.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    with pytest.raises(SpecVLAError, match='episode 1: task 1 has no text in meta/tasks'):
        only(maker.root)


@pytest.mark.parametrize('begins', [float('nan'), 1e18, -1.0])
def test_a_video_that_begins_at_no_time_is_refused(tmp_path, begins):
    from pyarrow import parquet
    maker = LeRobotMaker(tmp_path / 'set', 'v3.0', episodes())
    path = maker.root / 'meta' / 'episodes' / 'chunk-000' / 'file-000.parquet'
    rows = parquet.read_table(path).to_pydict()
    rows[f'videos/{CAMERA}/from_timestamp'][1] = begins
    write_parquet(path, rows)
    with pytest.raises(SpecVLAError, match=r'of episode 1 is \(it begins at .* s\): its meta'):
        only(maker.root)


def test_of_several_cameras_one_has_to_be_chosen(tmp_path):
    maker = LeRobotMaker(tmp_path / 'set', 'v2.1', episodes())
    maker.info['features']['observation.images.wrist'] = {'dtype': 'video', 'shape': [8, 8, 3]}
    maker.save_info()
    with pytest.raises(SpecVLAError, match='front, observation.images.wrist, and one has to be'):
        only(maker.root)
    with pytest.raises(SpecVLAError, match='top is none of them'):
        only(maker.root, camera='top')
    assert only(maker.root, camera='front').frames == 18
    for shape in ([32, 48, 1], ['a', 'b', 3], [0, 48, 3], [32.5, 48, 3], None):
        maker.info['features'][CAMERA]['shape'] = shape
        maker.save_info()
        with pytest.raises(SpecVLAError, match=r'front has the shape .*, must be that of colour'):
            only(maker.root, camera='front')


def test_a_camera_that_changes_its_size_is_refused(tmp_path):
    from pyarrow import parquet
    maker = LeRobotMaker(tmp_path / 'set', 'v2.1', episodes(), video=False)
    path = sorted((maker.root / 'data').rglob('*.parquet'))[0]
    rows = parquet.read_table(path).to_pydict()
    rows[CAMERA][3]['bytes'] = png(pictures(1, height=16)[0])
    write_parquet(path, rows)
    recording = only(maker.root)
    with pytest.raises(SpecVLAError, match=r'frame 3 is 48 x 16, the first was 48 x 32'):
        list(recording.images(recording.episodes[0]))
