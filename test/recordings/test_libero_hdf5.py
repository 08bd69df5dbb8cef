"""LIBERO's demonstrations: pictures of after the action, upside down; and those made anew."""
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from specvla_ros.cli import main
from specvla_ros.errors import SpecVLAError
from specvla_ros.recordings.episode import Selection
from specvla_ros.recordings.find import open_recordings
from test.recordings.makers import (
    MODULES,
    numbers,
    original_attributes,
    pictures,
    write_demonstrations,
)

pytest.importorskip('h5py', reason=f'h5py: {MODULES}')


def episodes():
    return [(pictures(6), numbers(6, 7)), (pictures(4, 9), numbers(4, 7, 50))]


def only(path, **selection):
    recording, = open_recordings([path], Selection(**selection))
    return recording


def test_a_picture_of_after_an_action_goes_with_the_next_one(tmp_path):
    written = episodes()
    path = write_demonstrations(tmp_path / 'x_demo.hdf5', written, original_attributes())
    recording = only(path)
    assert recording.kind == 'demonstrations of LIBERO, 48 x 32 from agentview_rgb'
    assert 'after the action' in recording.remarks[0] and 'bottom row' in recording.remarks[0]
    for number, (episode, (images, actions)) in enumerate(zip(recording.episodes, written)):
        assert (episode.name, episode.instruction) == (f'demo_{number}', 'pick up the milk')
        assert np.array_equal(episode.actions, actions[1:])
        assert np.array_equal(np.stack(list(recording.images(episode))), np.stack(images[:-1]))
        assert np.array_equal(episode.poses[:, 3], np.full(len(images) - 1, number + 0.5))


def test_libero_itself_reads_a_file_of_this_layout(tmp_path, capsys):
    """No original is at hand, so LIBERO's own reader says what one looks like."""
    package = find_spec('libero')
    if package is None:
        pytest.skip('LIBERO is not installed')
    place = Path(package.submodule_search_locations[0]) / 'libero' / 'utils' / 'dataset_utils.py'
    theirs = module_from_spec(spec := spec_from_file_location('dataset_utils', place))
    spec.loader.exec_module(theirs)
    path = write_demonstrations(
        tmp_path / 'x_demo.hdf5',
        [(images, actions / 100) for images, actions in episodes()], original_attributes())
    theirs.get_dataset_info(path)
    said = capsys.readouterr().out
    recording = only(path)
    assert f'language instruction: {recording.episodes[0].instruction}\n' in said
    assert 'total transitions: 10\n' in said and recording.frames == 10 - 2  # see above
    assert f'total trajectories: {len(recording.episodes)}\n' in said


def test_made_anew_without_still_steps_a_picture_goes_with_its_own(tmp_path):
    written = episodes()
    path = write_demonstrations(
        tmp_path / 'KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5', written)
    recording = only(path)
    assert 'before the action' in recording.remarks[0]
    for episode, (images, actions) in zip(recording.episodes, written):
        assert episode.instruction == 'turn on the stove'
        assert np.array_equal(episode.actions, actions)
        assert np.array_equal(np.stack(list(recording.images(episode))), np.stack(images))


def test_the_top_row_may_come_first_and_the_camera_be_another(tmp_path):
    images, actions = episodes()[0]
    path = write_demonstrations(tmp_path / 'x.hdf5', [(images, actions)],
                                original_attributes(convention='opencv'))
    recording = only(path, camera='eye_in_hand_rgb')
    first = next(recording.images(recording.episodes[0], 1, 2))
    assert np.array_equal(first, images[1][::-1] // 2)


def test_a_folder_has_a_recording_for_each_task(tmp_path):
    for number, task in enumerate(('push_the_plate', 'open_the_drawer')):
        write_demonstrations(tmp_path / f'{task}_demo.hdf5', episodes()[number:])
    recordings = open_recordings([tmp_path], Selection())
    assert [it.episodes[0].instruction for it in recordings] == [
        'open the drawer', 'push the plate']


def test_ten_demonstrations_are_in_the_order_of_their_numbers(tmp_path):
    written = [(pictures(2, n), numbers(2, 7)) for n in range(12)]
    path = write_demonstrations(tmp_path / 'a_b_demo.hdf5', written)
    assert [episode.name for episode in only(path).episodes] == [
        f'demo_{number}' for number in range(12)]


@pytest.mark.parametrize('attributes, name, selection, message', [
    (original_attributes(convention='left'), 'x.hdf5', {}, "'left', must be one of opengl, open"),
    (original_attributes(''), 'x.hdf5', {}, 'neither its attributes nor its name'),
    ({'problem_info': 'not JSON'}, 'x.hdf5', {}, 'neither its attributes nor its name'),
    (None, 'a_b_demo.hdf5', {'camera': 'top'}, 'agentview_rgb, eye_in_hand_rgb, top is none'),
])
def test_what_is_not_clear_is_asked_for(tmp_path, attributes, name, selection, message):
    path = write_demonstrations(tmp_path / name, episodes(), attributes)
    with pytest.raises(SpecVLAError, match=message):
        only(path, **selection)


@pytest.mark.parametrize('kept', [0.0, 0.2, 0.6, 0.95])
def test_a_file_that_is_cut_off_is_one_clear_line(tmp_path, kept):
    path = write_demonstrations(tmp_path / 'a_b_demo.hdf5', episodes(), original_attributes())
    whole = path.read_bytes()
    path.write_bytes(whole[:int(kept * len(whole))])
    with pytest.raises(SpecVLAError, match="can't be read as demonstrations of LIBERO") as error:
        recording = only(path)
        for episode in recording.episodes:
            list(recording.images(episode))
    assert '\n' not in str(error.value)


def test_other_hdf5_files_are_refused(tmp_path):
    import h5py
    with h5py.File(tmp_path / 'empty.hdf5', 'w') as file:
        file.create_group('data')
    with pytest.raises(SpecVLAError, match='holds no demonstration data/demo_0'):
        only(tmp_path / 'empty.hdf5')
    images, actions = episodes()[0]
    write_demonstrations(tmp_path / 'a_b.hdf5', [(images, actions[:3])])
    with pytest.raises(SpecVLAError, match=r'actions \[3, 7\] and pictures \[6, 32, 48, 3\]'):
        only(tmp_path / 'a_b.hdf5')
    write_demonstrations(tmp_path / 'c_d.hdf5', [(images, actions * np.nan)])
    with pytest.raises(SpecVLAError, match='an action is not a finite number'):
        only(tmp_path / 'c_d.hdf5')


def put(name, value):
    def change(file):
        if name in file:
            del file[name]
        file[name] = value
    return change


@pytest.mark.parametrize('change, message', [
    (lambda file: file.pop('data'), 'holds no demonstration data/demo_0'),
    (put('data', np.zeros(3)), 'holds no demonstration data/demo_0'),
    (put('data/demo_1', np.zeros(3)), 'data/demo_1 is no demonstration of LIBERO'),
    (lambda file: file['data'].move('demo_1', 'demo_x'), 'data/demo_x is no demonstration'),
    (lambda file: file.pop('data/demo_1/obs'), 'data/demo_1 is no demonstration'),
    (lambda file: file.pop('data/demo_1/actions'), 'data/demo_1 is no demonstration'),
    (lambda file: file.pop('data/demo_1/obs/agentview_rgb'),
     'demo_1: there is no camera agentview_rgb as in the first demonstration'),
    (put('data/demo_1/actions', 3.0), r'demo_1: actions \[\] and pictures'),
    (put('data/demo_1/actions', np.zeros((4, 0))), r'demo_1: actions \[4, 0\] and pictures'),
    (put('data/demo_1/obs/ee_pos', np.zeros((3, 3))),
     r'demo_1: ee_pos \[3, 3\] and ee_ori \[4, 3\] must be \[4, 3\]'),
    (put('data/demo_1/obs/ee_pos', 1.0), r'demo_1: ee_pos \[\] and ee_ori'),
    (put('data/demo_1/obs/agentview_rgb', np.zeros((4, 32, 48, 4), np.uint8)),
     r'demo_1: frame 0 is uint8 \[32, 48, 4\], must be uint8 \[height, width, 3\]'),
    (put('data/demo_1/obs/agentview_rgb', np.zeros((4, 32, 48, 3), np.float32)),
     r'demo_1: frame 0 is float32'),
])
def test_what_a_demonstration_lacks_is_named(tmp_path, change, message):
    import h5py
    path = write_demonstrations(tmp_path / 'a_b_demo.hdf5', episodes())
    with h5py.File(path, 'r+') as file:
        change(file)
    with pytest.raises(SpecVLAError, match=message) as error:
        recording = only(path)
        for episode in recording.episodes:
            list(recording.images(episode))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('said, told', [
    ('{"language_instruction": null}', None), ('{"language_instruction": 5}', None),
    ('{"language_instruction": [1]}', None), ('[1]', None),
    ('{"language_instruction": ["p", "u", "s", "h"]}', 'push'),
    (b'{"language_instruction": "push"}', 'push')])
def test_only_a_text_is_an_instruction(tmp_path, said, told):
    attributes = {'problem_info': np.bytes_(said) if isinstance(said, bytes) else said,
                  'macros_image_convention': np.bytes_(b'opengl')}
    path = write_demonstrations(tmp_path / 'x.HDF5', episodes(), attributes)
    if told:
        assert only(path).episodes[0].instruction == told
    else:
        with pytest.raises(SpecVLAError, match='neither its attributes nor its name say'):
            only(path)


def test_a_pose_that_is_no_number_is_refused_and_nothing_is_written(tmp_path, capsys):
    """It would be one in `meta/stats.json`, which is then no JSON, and in what is taught."""
    import h5py
    path = write_demonstrations(tmp_path / 'a_b_demo.hdf5', episodes())
    with h5py.File(path, 'r+') as file:
        file['data/demo_1/obs/ee_pos'][2, 1] = np.nan
    assert main(['convert', str(path), '--out', str(tmp_path / 'set'), '--fps', '20']) == 2
    assert capsys.readouterr().err == f'error: {path}, demo_1: a pose is not a finite number\n'
    assert not (tmp_path / 'set').exists()
