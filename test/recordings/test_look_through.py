"""Every frame is looked at before anything is computed from the first one."""
import numpy as np
import pytest

from specvla_ros.errors import SpecVLAError
from specvla_ros.recordings.episode import Selection
from specvla_ros.recordings.find import open_recordings
from specvla_ros.recordings.look_through import look_through, unread
from test.recordings.makers import pictures, png
from test.recordings.test_others import bag, two_episodes


def folders(root, **sizes):
    for name, height in sizes.items():
        (root / name).mkdir(parents=True)
        for number, picture in enumerate(pictures(3, height=height)):
            (root / name / f'{number}.png').write_bytes(png(picture))
    return open_recordings([root], Selection(instruction='push'))


def test_each_frame_is_read_once(tmp_path):
    recordings, seen = folders(tmp_path, a=16, b=16), []
    look_through(recordings, lambda: seen.append(1))
    assert len(seen) == unread(recordings) == 6


def test_what_was_decoded_when_it_was_opened_is_not_read_again(tmp_path):
    recordings, seen = open_recordings([bag(tmp_path / 'bag', two_episodes)], Selection()), []
    look_through(recordings, lambda: seen.append(1))
    assert unread(recordings) == 0 and not seen


def test_a_camera_that_changes_its_size_between_two_episodes_is_refused(tmp_path):
    with pytest.raises(SpecVLAError, match='b: the frames are 48 x 20, those of a 48 x 16: a cam'):
        look_through(folders(tmp_path, a=16, b=20))


def test_damage_in_the_last_frame_is_found(tmp_path):
    recordings = folders(tmp_path, a=16, b=16)
    last = tmp_path / 'b' / '2.png'
    last.write_bytes(last.read_bytes()[:-20])
    with pytest.raises(SpecVLAError, match=r'2\.png is a PNG that is cut off'):
        look_through(recordings)
    assert np.array_equal(next(recordings[0].images(recordings[0].episodes[1])),
                          pictures(1, height=16)[0])
