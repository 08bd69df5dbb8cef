"""What can't be used together: a recording that comes twice, and those of several cameras."""
import shutil

import numpy as np
import pytest

from specvla_ros.errors import SpecVLAError
from specvla_ros.recordings.episode import Selection
from specvla_ros.recordings.find import open_recordings
from test.recordings.makers import pictures, png
from test.recordings.test_others import bag, two_episodes
from test.training.conftest import write_episode


def opened(*paths, **selection):
    return open_recordings(paths, Selection(**selection))


def test_the_same_folder_by_another_path_is_refused(tmp_path):
    path = bag(tmp_path / 'bag', two_episodes)
    (tmp_path / 'link').symlink_to(path)
    for other in (path, tmp_path / 'x' / '..' / 'bag', tmp_path / 'link'):
        (tmp_path / 'x').mkdir(exist_ok=True)
        with pytest.raises(SpecVLAError, match='is given twice: leave one out'):
            opened(path, other)


def test_a_part_of_what_is_given_as_well_is_refused(tmp_path):
    path = bag(tmp_path / 'bag', two_episodes)
    with pytest.raises(SpecVLAError, match=r'both hold bag\.mcap, which would count twice'):
        opened(path, next(path.glob('*.mcap')))
    file = write_episode(tmp_path / 'data', 0, 3)
    with pytest.raises(SpecVLAError, match=r'both hold seed3\.npz, which would count twice'):
        opened(tmp_path / 'data', file)
    for name in 'ab':
        (tmp_path / 'runs' / name).mkdir(parents=True)
        (tmp_path / 'runs' / name / '0.png').write_bytes(png(pictures(1)[0]))
    with pytest.raises(SpecVLAError, match=r'both hold 0\.png, which would count twice'):
        opened(tmp_path / 'runs', tmp_path / 'runs' / 'a', instruction='push')


@pytest.mark.parametrize('copy', [shutil.copy, shutil.copy2])
def test_a_copy_is_refused_whenever_it_was_made(tmp_path, copy):
    path = bag(tmp_path / 'bag', two_episodes)
    shutil.copytree(path, tmp_path / 'copy', copy_function=copy)
    with pytest.raises(SpecVLAError, match=r'copy is a copy of .*bag, whose frames would count'):
        opened(path, tmp_path / 'copy')
    np.savez(tmp_path / 'a.npz', images=np.stack(pictures(4)), instruction='push')
    copy(tmp_path / 'a.npz', tmp_path / 'b.npz')
    with pytest.raises(SpecVLAError, match=r'b\.npz is a copy of .*a\.npz'):
        opened(tmp_path / 'a.npz', tmp_path / 'b.npz')


def test_others_of_the_same_size_are_no_copies(tmp_path):
    for number, name in enumerate('ab'):
        np.savez(tmp_path / f'{name}.npz', images=np.stack(pictures(4, number)),
                 instruction='push')
    assert len(opened(tmp_path / 'a.npz', tmp_path / 'b.npz')) == 2


def through(topic, value):
    def fill(maker):
        maker.instruct(1, 'push')
        for number in range(3):
            maker.image(10 * number + 10, value=value, topic=topic)
    return fill


def test_bags_of_several_cameras_are_refused(tmp_path):
    wrist = bag(tmp_path / 'wrist', through('/wrist', 1))
    front = bag(tmp_path / 'front', through('/front', 2))
    with pytest.raises(SpecVLAError, match=(
            'wrist is of the camera /wrist, .*front of /front: only recordings of one camera go '
            'together; choose it with --image-topic')):
        opened(wrist, front)
    more = bag(tmp_path / 'more', through('/wrist', 3))
    assert [it.camera for it in opened(wrist, more)] == ['/wrist', '/wrist']
    # Recorded raw one day and compressed the next, it is the same camera.
    packed = bag(tmp_path / 'packed', through('/wrist/compressed', 4))
    assert [it.camera for it in opened(wrist, packed)] == ['/wrist', '/wrist']
