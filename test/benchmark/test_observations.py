"""What a bench looks at: played, read, made up."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
import pytest

from specvla_ros.benchmark.observations import made_up, played, read


@dataclass
class Seen:
    image: np.ndarray


@dataclass
class Acted:
    si: np.ndarray


class Environment:
    """Counts its frames; remembers what was done to it."""

    def __init__(self, task, log):
        self.instruction, self._task, self._log = f'task {task}', task, log

    def reset_random(self, seed):
        self._log.append(('start', self._task, seed))
        self._n = 10 * self._task
        return Seen(np.full((2, 2, 3), self._n, np.uint8))

    def step(self, delta):
        self._n += int(delta[0])
        return Seen(np.full((2, 2, 3), self._n, np.uint8))

    def close(self):
        self._log.append(('close', self._task))


class Policy:
    def reset(self):
        pass

    def act(self, image, instruction):
        return Acted(np.ones((1, 7)))


def test_frames_are_those_the_policy_lives_through_shared_among_tasks():
    log, ticks = [], []
    episodes = list(played(lambda task: Environment(task, log), (0, 3), Policy(), count=5, seed=4,
                           on_frame=lambda: ticks.append(1)))
    assert [episode.instruction for episode in episodes] == ['task 0', 'task 3']
    assert [[frame[0, 0, 0] for frame in e.frames] for e in episodes] == [[0, 1, 2], [30, 31]]
    # Never two rendered environments at once.
    assert log == [('start', 0, 4), ('close', 0), ('start', 3, 4), ('close', 3)]
    assert len(ticks) == 5


def test_frames_are_as_far_apart_as_steps_are_executed(tmp_path):
    class Chunks(Policy):
        def act(self, image, instruction):
            return Acted(np.ones((8, 7)))

    episode, = played(lambda task: Environment(task, []), (0,), Chunks(), count=3, seed=0,
                      execute_steps=4)
    assert [frame[0, 0, 0] for frame in episode.frames] == [0, 4, 8]
    images = np.arange(10, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    np.savez(tmp_path / 'x.npz', images=images, instruction='pick up')
    for path in (tmp_path / 'x.npz', tmp_path):
        if path.is_dir():
            for number, image in enumerate(images):
                Image.fromarray(image).save(path / f'{number}.png')
        frames = read(path, 'pick up', count=3, every=4).frames
        assert [frame[0, 0, 0] for frame in frames] == [0, 4, 8]


def test_fewer_frames_than_tasks_leave_tasks_out():
    episodes = list(played(lambda task: Environment(task, []), (0, 1, 2), Policy(), 2, 0))
    assert len(episodes) == 2


def test_a_folder_is_read_by_name(tmp_path):
    for name, value in (('b.png', 2), ('a.png', 1), ('c.png', 3)):
        Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(tmp_path / name)
    (tmp_path / 'notes.txt').write_text('no image')
    episode = read(tmp_path, 'pick up', count=2)
    assert [frame[0, 0, 0] for frame in episode.frames] == [1, 2]
    assert episode.frames[0].shape == (4, 6, 3) and episode.instruction == 'pick up'


def test_an_npz_file_may_bring_its_instruction(tmp_path):
    path = tmp_path / 'frames.npz'
    images = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
    np.savez(path, images=images, instruction='place it')
    assert read(path, None, 2).instruction == 'place it'
    assert read(path, 'pick up', 2).instruction == 'pick up'
    assert np.array_equal(np.stack(read(path, None, 2).frames), images[:2])


@pytest.mark.parametrize('arrays, message', [
    ({'images': np.zeros((2, 4, 4), np.uint8)}, r'uint8 \[2, 4, 4\], must be uint8 \[N'),
    ({'images': np.zeros((2, 4, 4, 3))}, 'images is float64'),
    ({'frames': np.zeros((2, 4, 4, 3), np.uint8)}, "with an array 'images'"),
    ({'images': np.zeros((0, 4, 4, 3), np.uint8)}, 'no images in it'),
    ({'images': np.zeros((2, 4, 4, 3), np.uint8)}, 'has no instruction; give it with'),
    ({'images': np.uint8(3)}, r'uint8 \[\], must be'),
    ({'images': np.zeros((2, 0, 4, 3), np.uint8)}, r'uint8 \[2, 0, 4, 3\], must be'),
    ({'images': np.zeros((2, 4, 4, 3), np.uint8), 'instruction': ['a', 'b']},
     r'instruction is <U1 \[2\], must be one text'),
    ({'images': np.array([None])}, "with an array 'images'"),
])
def test_what_are_no_frames_is_refused(arrays, message, tmp_path):
    np.savez(tmp_path / 'x.npz', **arrays)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / 'x.npz', None, 5)


def test_a_damaged_image_or_file_is_named(tmp_path):
    (tmp_path / 'a.png').write_text('not a picture')
    with pytest.raises(ValueError, match=r'a\.png, 13 bytes, is neither JPEG nor PNG'):
        read(tmp_path, 'pick up', 5)
    (tmp_path / 'x.npz').write_text('not an archive')
    with pytest.raises(ValueError, match=r'x\.npz can.t be read'):
        read(tmp_path / 'x.npz', 'pick up', 5)
    with pytest.raises(ValueError, match='give a folder of images or an .npz file'):
        read(tmp_path / 'a.png', 'pick up', 5)


@pytest.mark.parametrize('name, pixels, reason', [
    ('a.png', np.full((4, 4), 40_000, np.uint16), 'a grey PNG of 16 bits'),  # came out white
    ('a.png', np.full((4, 4), 90, np.uint8), 'a grey PNG of 8 bits'),
    ('a.jpg', np.full((4, 4), 90, np.uint8), 'grey, a JPEG of one channel'),
])
def test_a_frame_without_colour_is_refused_by_name(tmp_path, name, pixels, reason):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / '0.png')
    Image.fromarray(pixels).save(tmp_path / name)
    with pytest.raises(ValueError, match=f'{name} is {reason}.*trained on colour'):
        read(tmp_path, 'pick up', 5)


def test_what_cannot_be_read_at_all_is_named(tmp_path):
    (tmp_path / 'a.png').mkdir()  # no picture
    with pytest.raises(ValueError, match=r'no images in it; \.png, \.jpg, \.jpeg are read'):
        read(tmp_path, 'pick up', 5)
    np.savez_compressed(tmp_path / 'x.npz', images=np.zeros((2, 4, 4, 3), np.uint8))
    whole = (tmp_path / 'x.npz').read_bytes()
    for damaged in (whole[:-20], whole[:90] + b'!' * 20 + whole[110:], b''):
        (tmp_path / 'x.npz').write_bytes(damaged)
        with pytest.raises(ValueError, match=r'x\.npz can.t be read'):
            read(tmp_path / 'x.npz', 'pick up', 5)


def test_made_up_frames_move_and_are_the_same_each_time():
    first, again = made_up(3), made_up(3)
    assert all(np.array_equal(a, b) for a, b in zip(first.frames, again.frames, strict=True))
    assert not np.array_equal(first.frames[0], first.frames[1])
    assert first.frames[0].dtype == np.uint8 and first.frames[0].shape == (256, 256, 3)
