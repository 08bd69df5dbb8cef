"""Bags as they are written and read: whole, cut off anywhere, and made by others."""
import shutil

import numpy as np
import pytest
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import Reader
import yaml

from specvla_ros.bags.reader import Bag
from specvla_ros.errors import SpecVLAError

N = 30


def fill(maker, n=N, size=64):
    """Write an instruction and n images of 12 kB, each of its own colour."""
    maker.instruct(1, 'pick up')
    for i in range(n):
        maker.image(10 + i, value=i, size=size)


def values(bag, topic='/image'):
    return [int(bag.read(message).data[0]) for message in bag.messages({topic})]


def storage_file(folder):
    return next(path for path in folder.rglob('*') if path.suffix in ('.mcap', '.db3'))


def cut(path, share):
    size = path.stat().st_size
    with open(path, 'r+b') as file:
        file.truncate(int(size * share))


def test_what_is_written_can_be_read_by_anybody(make_bag, storage):
    maker = make_bag(storage=storage)
    fill(maker)
    assert not maker.path.exists()  # nothing that looks whole before it is
    maker.writer.finish()
    assert not maker.writer.part.exists()
    with Reader(maker.path) as reader:
        assert reader.message_count == N + 1
        by_topic = {connection.topic: connection for connection in reader.connections}
        qos, = by_topic['/instruction'].ext.offered_qos_profiles
        assert qos.durability == QosDurability.TRANSIENT_LOCAL
        assert 'string data' in by_topic['/instruction'].msgdef.data
        received = [stamp for _, stamp, _ in reader.messages()]
    assert received == [1, *range(10, 10 + N)]


@pytest.mark.parametrize('since', [0, 10, 17, 10 + N - 1, 10 + N])
def test_what_came_before_is_left_out_where_there_is_an_index(make_bag, storage, since):
    maker = make_bag(storage=storage)
    fill(maker, size=600)  # chunks of a few images each
    maker.writer.finish()
    with Bag(maker.path) as bag:
        assert bag.is_indexed
        received = [message.received for message in bag.messages({'/image'}, since)]
    assert received == [time for time in range(10, 10 + N) if time >= since]


def test_metadata_is_as_jazzy_writes_it(make_bag, storage):
    maker = make_bag(storage=storage)
    fill(maker)
    maker.writer.finish()
    text = (maker.path / 'metadata.yaml').read_text()
    content = yaml.safe_load(text)['rosbag2_bagfile_information']
    assert (content['version'], content['storage_identifier']) == (9, storage)
    assert content['relative_file_paths'] == [storage_file(maker.path).name]
    assert content['starting_time']['nanoseconds_since_epoch'] == 1
    assert content['duration']['nanoseconds'] == 8 + N
    kinds = {entry['topic_metadata']['name']: entry for entry in
             content['topics_with_message_count']}
    image = kinds['/image']
    assert image['message_count'] == N
    assert image['topic_metadata']['type_description_hash'].startswith('RIHS01_')
    assert image['topic_metadata']['offered_qos_profiles'][0]['reliability'] == 'reliable'


def test_our_own_types_go_with_the_bag(make_bag, storage):
    maker = make_bag(storage=storage)
    maker.episode(5, number=3)
    maker.writer.finish()
    with Reader(maker.path) as reader:
        definition = reader.connections[0].msgdef.data
    assert 'uint32 initial_state' in definition and 'MSG: std_msgs/Header' in definition
    with Bag(maker.path) as bag:
        message, = bag.messages({'/episode'})
        assert bag.read(message).episode == 3


def test_a_type_nobody_defines_is_refused_with_the_places_looked_in(make_bag):
    with pytest.raises(SpecVLAError, match=r'my_msgs/msg/Odd; looked for Odd.msg in .*my_msgs'):
        make_bag().writer.add_topic('/odd', 'my_msgs/msg/Odd', [])


def test_a_whole_bag_lacks_nothing(make_bag, storage):
    maker = make_bag(storage=storage)
    fill(maker)
    maker.writer.finish()
    with Bag(maker.path) as bag:
        assert (bag.missing, bag.counts) == ('', {'/instruction': 1, '/image': N})
        assert values(bag) == list(range(N))


@pytest.mark.parametrize('share', [0.6, 0.8, 0.999])
def test_a_file_cut_off_is_read_as_far_as_it_goes(make_bag, storage, share):
    maker = make_bag(storage=storage)
    for begin in range(0, N, 5):  # several chunks, as time makes them
        for i in range(begin, begin + 5):
            maker.image(10 + i, value=i, size=64)
        maker.writer.flush()
    maker.writer.finish()
    cut(storage_file(maker.path), share)
    with Bag(maker.path) as bag:
        found = values(bag)
        assert 0.5 * share * N <= len(found) <= N
        assert found == list(range(len(found)))
        assert f'{len(found)} messages can be read' in bag.missing
        assert '\n' not in bag.missing


def test_what_was_flushed_survives_a_writer_that_was_killed(make_bag, storage, tmp_path):
    maker = make_bag(storage=storage)
    fill(maker)
    maker.writer.flush()
    maker.image(99, value=200)  # never flushed
    shutil.copytree(maker.writer.part, tmp_path / 'left')  # what a kill -9 leaves on the disk
    maker.writer.abandon()
    with Bag(tmp_path / 'left') as bag:
        assert 'metadata.yaml is missing' in bag.missing
        assert values(bag)[:N] == list(range(N))


def test_a_storage_file_by_itself(make_bag, storage):
    maker = make_bag(storage=storage)
    fill(maker)
    maker.writer.finish()
    with Bag(storage_file(maker.path)) as bag:
        assert values(bag) == list(range(N)) and not bag.missing


def test_damage_in_the_middle_ends_what_is_read_but_not_the_replay(make_bag):
    maker = make_bag()
    fill(maker)
    maker.writer.finish()
    path = storage_file(maker.path)
    content = bytearray(path.read_bytes())
    middle = content.index(b'rgb8', len(content) // 2)
    content[middle - 60:middle - 5] = b'\xff' * 55
    path.write_bytes(content)
    with Bag(maker.path) as bag:
        list(bag.messages({'/image'}))
        assert 'damaged' in bag.missing


@pytest.mark.parametrize('content', [b'', b'junk', b'\x89MCAP0\r\n', b'SQLite format 3\0junk'])
@pytest.mark.parametrize('suffix', ['.mcap', '.db3'])
def test_a_file_without_any_message_is_refused_in_one_line(tmp_path, content, suffix):
    path = tmp_path / f'bag{suffix}'
    path.write_bytes(content)
    with pytest.raises(SpecVLAError, match='no message can be read from') as error:
        Bag(path)
    assert '\n' not in str(error.value)


def test_places_without_a_bag(tmp_path):
    with pytest.raises(SpecVLAError, match='there is no bag'):
        Bag(tmp_path / 'nothing')
    with pytest.raises(SpecVLAError, match='neither metadata.yaml nor'):
        Bag(tmp_path)


def test_a_bag_is_never_written_over(make_bag):
    maker = make_bag()
    fill(maker, n=1)
    maker.writer.flush()
    with pytest.raises(SpecVLAError, match='bag.part exists already'):
        make_bag()
    maker.writer.finish()
    with pytest.raises(SpecVLAError, match='bag exists already'):
        make_bag()


def test_large_images_come_back_to_the_byte(make_bag, storage):
    maker = make_bag(storage=storage)
    for i in range(8):  # more than a chunk of MCAP
        maker.image(i, value=i, size=300)
    maker.writer.finish()
    with Bag(maker.path) as bag:
        for i, message in enumerate(bag.messages({'/image'})):
            np.testing.assert_array_equal(bag.read(message).data, np.full(270_000, i, np.uint8))
