"""Frames with the instruction in force, as the policy would have got them."""
import pytest

from specvla_ros.bags.frames import FrameReader, live_actions, LiveAction, only_camera, Skipped
from specvla_ros.bags.reader import Bag
from specvla_ros.errors import SpecVLAError


@pytest.fixture
def read(make_bag):
    """Give a function that fills a bag and returns its frames and what was skipped."""
    def read(fill, **settings):
        maker = make_bag()
        fill(maker)
        maker.writer.finish()
        with Bag(maker.path) as bag:
            reader = FrameReader(bag, **{
                'image_topic': '/image', 'instruction_topic': '/instruction', **settings})
            return list(reader), reader.skipped
    return read


def summary(frames):
    return [(int(frame.image[0, 0, 0]), frame.instruction, frame.segment) for frame in frames]


def test_a_frame_gets_the_instruction_in_force(read):
    def fill(maker):
        maker.image(1, value=1)
        maker.instruct(2, 'pick up ')
        maker.image(3, value=3)
        maker.instruct(4, 'place')
        maker.image(5, value=5)
        maker.instruct(6, 'place')
        maker.image(7, value=7)
        maker.instruct(8, '')
        maker.image(9, value=9)

    frames, skipped = read(fill)
    assert summary(frames) == [(3, 'pick up', 0), (5, 'place', 1), (7, 'place', 1)]
    assert [frame.number for frame in frames] == [0, 1, 2]
    assert [frame.received for frame in frames] == [3, 5, 7]
    assert skipped == Skipped(uninstructed=2)


def test_a_text_of_the_users_holds_for_all_frames(read):
    def fill(maker):
        maker.image(1, value=1)
        maker.instruct(2, 'pick up')
        maker.image(3, value=3)

    frames, _ = read(fill, instruction='push')
    assert summary(frames) == [(1, 'push', 0), (3, 'push', 0)]


def test_another_episode_is_another_segment(read):
    def fill(maker):
        maker.instruct(1, 'push')
        for number in (0, 0, 1):
            maker.episode(2 + 2 * number, number)
            maker.image(3 + 2 * number, value=number, stamp=0)

    frames, _ = read(fill)
    assert [frame.segment for frame in frames] == [0, 0, 1]


def test_an_image_sent_again_counts_once(read):
    def fill(maker):
        maker.instruct(1, 'push')
        for received, stamp in ((2, 7), (3, 7), (4, 8)):
            maker.image(received, stamp=stamp)

    frames, skipped = read(fill)
    assert [frame.stamp for frame in frames] == [7, 8]
    assert skipped == Skipped(repeated=1)


def test_what_cannot_be_read_is_skipped_with_a_reason(read):
    def fill(maker):
        maker.instruct(1, 'push')
        maker.image(2, encoding='32FC1')
        maker.image(3, value=3)
        maker.image(4, encoding='rgba8')  # too little data for it

    frames, skipped = read(fill)
    assert summary(frames) == [(3, 'push', 0)]
    assert skipped.unreadable == 2
    assert "'32FC1' cannot be turned into RGB" in skipped.reason


@pytest.mark.parametrize('encoding', ['mono8', 'mono16', '16UC1', '8UC3', 'nv24'])
def test_a_recorded_camera_without_colour_is_skipped_with_the_same_reason(read, encoding):
    def fill(maker):
        maker.instruct(1, 'push')
        maker.image(2, encoding=encoding)

    frames, skipped = read(fill)
    assert not frames and skipped.unreadable == 1
    assert f"image encoding '{encoding}'" in skipped.reason and '\n' not in skipped.reason


@pytest.mark.parametrize('encoding, first', [('rgb8', 10), ('bgr8', 12)])
def test_colours_are_in_their_order(read, encoding, first):
    def fill(maker):
        maker.instruct(1, 'push')
        maker.image(2, value=[10, 11, 12] * 256, encoding=encoding)

    (frame,), _ = read(fill)
    assert frame.image[0, 0].tolist() == [first, 11, 22 - first]


@pytest.mark.parametrize('settings, reason', [
    (dict(image_topic='/eye'), r'has no topic /eye; .* it has /image \(1 messages\); '
                               'see --image-topic'),
    (dict(image_topic='/instruction'), 'has /instruction as std_msgs/msg/String'),
    (dict(instruction_topic='/said'), r'/instruction \(1 messages\); see --instruction-topic'),
])
def test_a_topic_that_is_not_there_is_named_with_those_that_are(read, settings, reason):
    def fill(maker):
        maker.instruct(1, 'push')
        maker.image(2)

    with pytest.raises(SpecVLAError, match=reason):
        read(fill, **settings)


@pytest.mark.parametrize('topics, chosen', [
    (['/camera'], '/camera'), (['/wrist', '/image'], '/image'), (['/left', '/right'], None)])
def test_the_camera_to_look_through(make_bag, topics, chosen):
    maker = make_bag()
    for received, topic in enumerate(topics):
        maker.image(received, topic=topic)
    maker.writer.finish()
    with Bag(maker.path) as bag:
        if chosen:
            assert only_camera(bag) == chosen
        else:
            with pytest.raises(SpecVLAError, match='/left .*, /right .*see --image-topic'):
                only_camera(bag)


def test_the_recorded_actions_of_the_example():
    from pathlib import Path
    with Bag(Path(__file__).parents[1] / 'data' / 'libero_object_2') as bag:
        frames = list(FrameReader(bag, only_camera(bag), '/instruction'))
        live = live_actions(bag)
    assert len(frames) == bag.counts['/image/compressed'] == len(live)
    assert {frame.stamp for frame in frames} == set(live)
    assert all(isinstance(action, LiveAction) and action.decoder == 'relaxed'
               and len(action.tokens) == 7 for action in live.values())
    assert frames[0].image.shape == (256, 256, 3)
