"""
Bags as people have them: played, or refused in one line, and never changed by being read.

Whatever a test reads goes through `look`, which compares names, bytes and times of all files.
"""
import hashlib
import sqlite3

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
import yaml

from specvla_ros.bags.frames import EPISODE, FrameReader, IMAGE, only_camera, STRING
from specvla_ros.bags.reader import Bag
from specvla_ros.bags.types import MessageTypes
from specvla_ros.bags.writer import offered_qos
from specvla_ros.errors import SpecVLAError

N = 6
TYPES = MessageTypes()
SERVICE_EVENT = 'std_srvs/srv/SetBool_Event'
# As rosbag2 stores them: of the .srv file, and of the event type itself.
SERVICE_TEXTS = [
    'bool data\n---\nbool success\nstring message\n',
    'service_msgs/ServiceEventInfo info\nstd_srvs/srv/SetBool_Request[<=1] request\n'
    'std_srvs/srv/SetBool_Response[<=1] response\n']


def header(nanoseconds):
    stamp = TYPES.make('builtin_interfaces/msg/Time', sec=0, nanosec=nanoseconds)
    return TYPES.make('std_msgs/msg/Header', stamp=stamp, frame_id='')


def image(number, size=64):
    return TYPES.serialize(TYPES.make(
        IMAGE, header=header(number), height=size, width=size, encoding='rgb8', is_bigendian=0,
        step=3 * size, data=np.full(3 * size * size, number, np.uint8)))


def text(words):
    return TYPES.serialize(TYPES.make(STRING, data=words))


def episode(number):
    return TYPES.serialize(TYPES.make(
        EPISODE, header=header(1), suite='s', task=0, instruction='x', episode=number,
        initial_state=0, step=0, max_steps=9, success=False, done=False, crashed=False))


class Recording:
    """A bag by rosbags' own writer: an instruction at 0, then images 1 … N."""

    def __init__(self, path, storage='mcap', compression=CompressionMode.NONE, first=1):
        self.path, self.first = path, first
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()])
        self._writer.set_compression(compression, CompressionFormat.ZSTD)
        self._writer.open()
        self._topics = {}

    def add(self, topic, kind, definition=None, encoding='cdr', **qos):
        known, digest = ('', 'RIHS01_0') if definition is not None else TYPES.description(kind)
        self._topics[topic, kind] = self._writer.add_connection(
            topic, kind, msgdef=known if definition is None else definition, rihs01=digest,
            serialization_format=encoding, offered_qos_profiles=[offered_qos(**qos)])
        return self

    def write(self, topic, kind, received, data):
        if (topic, kind) not in self._topics:
            self.add(topic, kind)
        self._writer.write(self._topics[topic, kind], received, data)
        return self

    def finish(self, n=N):
        self.write('/instruction', STRING, self.first - 1, text('push'))
        for number in range(self.first, self.first + n):
            self.write('/image', IMAGE, number, image(number))
        self._writer.close()
        return self.path

    def flush(self):
        """End a chunk: what damage of an MCAP file costs."""
        if self._writer.storage.chunk.msgs:
            self._writer.storage.close_chunk()


@pytest.fixture
def record(tmp_path):
    """Give a function that begins a bag."""
    def record(name='bag', **settings):
        return Recording(tmp_path / name, **settings)
    return record


def snapshot(path):
    """Names, contents and times of all files in a folder, or of those beside a file."""
    folder = path if path.is_dir() else path.parent
    return {str(file.relative_to(folder)): (
        file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in (folder, *folder.rglob('*'))}


@pytest.fixture
def look():
    """Give a function that plays a bag: numbers of its images, its instructions, what it says."""
    def look(path, **settings):
        before = snapshot(path)
        try:
            with Bag(path) as bag:
                reader = FrameReader(bag, only_camera(bag), '/instruction', **settings)
                frames = list(reader)
                look.missing, look.skipped, look.counts = bag.missing, reader.skipped, bag.counts
                look.segments = [frame.segment for frame in frames]
                assert '\n' not in bag.missing
        finally:
            assert snapshot(path) == before
        return [int(frame.image[0, 0, 0]) for frame in frames]
    return look


def refused(look, path, reason):
    with pytest.raises(SpecVLAError, match=reason) as error:
        look(path)
    assert '\n' not in str(error.value)


def stored(folder):
    return next(path for path in folder.iterdir() if path.name != 'metadata.yaml')


def rows(n=N, first=1):
    return list(range(first, first + n))


@pytest.mark.parametrize('definition', SERVICE_TEXTS)
def test_a_service_event_beside_the_camera(record, look, storage, definition):
    recording = record(storage=storage).add('/set/_service_event', SERVICE_EVENT, definition)
    path = recording.write('/set/_service_event', SERVICE_EVENT, 0, b'\0\1\0\0junk').finish()
    assert look(path) == rows() and not look.missing


@pytest.mark.parametrize('kind, definition, data', [
    ('my_msgs/msg/Odd', '', b''), ('my_msgs/msg/Odd', 'no definition !', b'\0'),
    ('no type at all', '', b'\0'), ('', '', b'')])
def test_a_topic_of_a_type_nobody_knows(record, look, storage, kind, definition, data):
    recording = record(storage=storage).add('/odd', kind, definition)
    assert look(recording.write('/odd', kind, 1, data).finish()) == rows()


def test_a_topic_that_is_not_cdr_is_no_camera(record, look, storage):
    path = record(storage=storage).add('/eye', IMAGE, encoding='json').write(
        '/eye', IMAGE, 1, b'{}').finish()
    assert look(path) == rows()
    with Bag(path) as bag:
        with pytest.raises(SpecVLAError, match='/eye as sensor_msgs/msg/Image encoded as json'):
            FrameReader(bag, '/eye', '/instruction')


@pytest.mark.parametrize('definition', ['', 'uint32 episode', None])
def test_episodes_with_the_bags_definition_ours_or_none(record, look, storage, definition):
    """Without one ours is taken; by another one they can't be read or are, but images are."""
    recording = record(storage=storage).add('/episode', EPISODE, definition)
    for received, number in ((1, 7), (3, 7), (4, 8)):
        recording.write('/episode', EPISODE, received, episode(number))
    path = recording.finish()
    assert look(path) == rows()
    if definition:  # the bag's own word holds for its messages, which here is wrong
        assert look.skipped.words == 3 and 'EpisodeStatus' in look.skipped.words_reason
    else:
        assert look.segments == [0, 0, 0, 1, 1, 1]


def test_a_definition_in_idl(record, look):
    kind = 'my_msgs/msg/Number'
    path = record(storage='sqlite3').add('/my', kind, '').write(
        '/my', kind, 1, b'\0\1\0\0\x2a\0\0\0').finish()
    with sqlite3.connect(stored(path)) as database:
        database.execute(
            "UPDATE message_definitions SET encoding = 'ros2idl', encoded_message_definition = ?"
            " WHERE topic_type = 'my_msgs/msg/Number'", ['=' * 80 + """
IDL: my_msgs/msg/Number
module my_msgs { module msg { struct Number { uint32 value; }; }; };
"""])
    database.close()
    assert look(path) == rows()
    with Bag(path) as bag:
        message, = bag.messages({'/my'})
        assert bag.read(message).value == 42


def test_a_database_in_wal_mode_without_metadata(record, look):
    path = record(storage='sqlite3').finish()
    with sqlite3.connect(stored(path)) as database:
        assert database.execute('PRAGMA journal_mode=WAL').fetchone() == ('wal',)
    database.close()
    (path / 'metadata.yaml').unlink()
    assert [file.name for file in path.iterdir()] == ['bag.db3']
    assert look(path) == rows()
    assert look.missing == 'metadata.yaml is missing'


@pytest.mark.parametrize('with_metadata', [True, False])
def test_a_database_whose_last_messages_are_still_in_the_log(
        record, look, tmp_path, with_metadata):
    path = record(storage='sqlite3').finish()
    database = sqlite3.connect(stored(path))
    database.execute('PRAGMA journal_mode=WAL')
    database.execute('PRAGMA wal_autocheckpoint=0')
    database.execute('INSERT INTO messages (topic_id, timestamp, data) SELECT topic_id, 99, data '
                     'FROM messages WHERE timestamp = 3')
    database.commit()
    left = tmp_path / 'left'  # as a power cut leaves it
    left.mkdir()
    for file in path.iterdir():
        if not file.name.endswith('-shm') and (with_metadata or file.suffix != '.yaml'):
            (left / file.name).write_bytes(file.read_bytes())
    database.close()
    assert look(left) == [*rows(), 3]
    assert 'bag.db3 was left in the middle of writing' in look.missing


@pytest.mark.parametrize('first', [1, 1001, 10**6, 2**40])
def test_a_database_whose_ids_begin_anywhere(record, look, first):
    """As after `ros2 bag convert`, or with rows deleted."""
    path = record(storage='sqlite3').finish()
    with sqlite3.connect(stored(path)) as database:
        database.execute(f'UPDATE messages SET id = id * 5000 + {first}')
    database.close()
    assert look(path) == rows() and not look.missing
    (path / 'metadata.yaml').unlink()
    assert look(path) == rows()


def test_a_torn_database_with_gaps_in_its_ids(record, look):
    path = record(storage='sqlite3').finish(n=20)
    with sqlite3.connect(stored(path)) as database:
        database.execute('UPDATE messages SET id = id * 3000 + 5000')
    database.close()
    with open(stored(path), 'r+b') as file:
        file.truncate(int(stored(path).stat().st_size * 0.8))
    found = look(path)
    assert found == sorted(found) and 10 < len(found) < 20
    assert 'bag.db3 breaks off after byte' in look.missing
    assert f'{len(found) + 1} messages can be read' in look.missing


@pytest.mark.parametrize('version', range(1, 10))
def test_metadata_of_every_version(record, look, storage, version):
    path = record(storage=storage).finish()
    metadata = path / 'metadata.yaml'
    content = yaml.safe_load(metadata.read_text())
    information = content['rosbag2_bagfile_information']
    information['version'] = version
    for least, key in ((5, 'files'), (6, 'custom_data'), (8, 'ros_distro'),
                       (3, 'compression_format'), (3, 'compression_mode')):
        if version < least:
            del information[key]
    for entry in information['topics_with_message_count']:
        topic = entry['topic_metadata']
        if version < 9:  # text until then, and numbers in it
            topic['offered_qos_profiles'] = '- history: 3\n  depth: 0\n  reliability: 1\n'
        if version < 7:
            del topic['type_description_hash']
        if version < 4:
            del topic['offered_qos_profiles']
    if version < 4:
        information['relative_file_paths'] = [f'bag/{stored(path).name}']
    metadata.write_text(yaml.safe_dump(content))
    if storage == 'sqlite3' and version < 8:
        with sqlite3.connect(stored(path)) as database:
            for table in ('schema', 'metadata', 'message_definitions'):
                database.execute(f'DROP TABLE {table}')
            database.execute('ALTER TABLE topics DROP COLUMN type_description_hash')
            if version < 4:
                database.execute('ALTER TABLE topics DROP COLUMN offered_qos_profiles')
        database.close()
    assert look(path) == rows() and not look.missing


def change(path, **values):
    metadata = path / 'metadata.yaml'
    content = yaml.safe_load(metadata.read_text())
    content['rosbag2_bagfile_information'].update(values)
    metadata.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize('values, said', [
    (dict(version=99), ''), (dict(storage_identifier='tape'), ''), (dict(duration=None), ''),
    (dict(topics_with_message_count=[]), ''),
    (dict(message_count=99), 'metadata.yaml counts 99 messages, there are 7'),
    (dict(message_count=0), 'metadata.yaml counts 0 messages, there are 7'),
    (dict(relative_file_paths=['gone.mcap']), 'gone.mcap of metadata.yaml is missing, read '
                                              'instead: bag.'),
    (dict(relative_file_paths=[]), 'metadata.yaml is damaged (relative_file_paths is []'),
    (dict(relative_file_paths='bag.mcap'), 'metadata.yaml is damaged'),
    (dict(relative_file_paths=[7]), 'metadata.yaml is damaged'),
])
def test_wrong_metadata_is_said_and_the_files_are_believed(record, look, storage, values, said):
    path = record(storage=storage).finish()
    change(path, **values)
    assert look(path) == rows()
    assert look.missing.startswith(said) and bool(look.missing) == bool(said)


@pytest.mark.parametrize('content', [
    '', '- a\n- b\n', 'a: [', '\0', 'rosbag2_bagfile_information: 3'])
def test_metadata_that_is_none(record, look, content):
    path = record().finish()
    (path / 'metadata.yaml').write_text(content)
    assert look(path) == rows()
    assert look.missing.startswith('metadata.yaml is damaged (')


def test_one_file_of_a_split_bag_is_missing(record, look, tmp_path):
    path = split(record, tmp_path)
    (path / 'bag_1.mcap').unlink()
    assert look(path) == [*rows(), *rows(first=201)]
    assert 'bag_1.mcap of metadata.yaml is missing' in look.missing


def split(record, tmp_path):
    """Make a bag of three files."""
    path = record().finish()
    stored(path).rename(path / 'bag_0.mcap')
    for part in (1, 2):
        stored(record(f'part{part}', first=100 * part + 1).finish()).rename(
            path / f'bag_{part}.mcap')
    change(path, relative_file_paths=[f'bag_{part}.mcap' for part in range(3)],
           message_count=3 * (N + 1))
    return path


def test_a_split_bag_with_and_without_metadata(record, look, tmp_path):
    path = split(record, tmp_path)
    assert look(path) == [*rows(), *rows(first=101), *rows(first=201)] and not look.missing
    assert look(path / 'metadata.yaml') == look(path)
    (path / 'metadata.yaml').unlink()
    assert len(look(path)) == 3 * N


def test_a_folder_of_two_bags_is_not_one(record, look, tmp_path):
    record('both/one').finish()
    record('both/two', storage='sqlite3').finish()
    refused(look, tmp_path / 'both', 'holds 2 bags: one, two; give one of them')
    stored(tmp_path / 'both' / 'one').rename(tmp_path / 'both' / 'bag.mcap')
    (tmp_path / 'both' / 'one' / 'metadata.yaml').unlink()
    refused(look, tmp_path / 'both', r'holds 2 bags: \., two; give one of them')


@pytest.mark.parametrize('names', [
    ('one.mcap', 'two.mcap'), ('one_0.mcap', 'two_0.mcap'), ('one_0.mcap', 'one_0.db3'),
    ('bag.mcap', 'bag_1.mcap')])
def test_the_files_of_two_bags_in_one_folder_are_not_one(record, look, tmp_path, names):
    folder = tmp_path / 'both'
    folder.mkdir()
    for number, name in enumerate(names):
        storage = 'mcap' if name.endswith('mcap') else 'sqlite3'
        stored(record(f'bag{number}', storage=storage).finish()).rename(folder / name)
    refused(look, folder, f'files of several bags: .*{names[1]}.*; give one of them')
    assert look(folder / names[0]) == rows()


def test_a_folder_with_one_bag_in_it_is_that_bag(record, look, tmp_path):
    record('drive.part/drive').finish()
    assert look(tmp_path / 'drive.part') == rows()


@pytest.mark.parametrize('storage, mode', [
    ('mcap', 'STORAGE'), ('mcap', 'FILE'), ('mcap', 'MESSAGE'), ('sqlite3', 'FILE'),
    ('sqlite3', 'MESSAGE')])
@pytest.mark.parametrize('with_metadata', [True, False])
def test_zstd_with_and_without_metadata(record, look, storage, mode, with_metadata):
    path = record(storage=storage, compression=CompressionMode[mode]).finish()
    if not with_metadata:
        (path / 'metadata.yaml').unlink()
    assert look(path) == rows()
    assert look.missing == ('' if with_metadata else 'metadata.yaml is missing')
    assert look(stored(path)) == rows()


def test_a_compressed_file_that_breaks_off(record, look):
    path = record(compression=CompressionMode.FILE).finish(n=40)
    with open(stored(path), 'r+b') as file:
        file.truncate(stored(path).stat().st_size // 2)
    before = snapshot(path)
    try:
        look(path)
        assert 'bag.mcap.zstd breaks off' in look.missing
    except SpecVLAError as error:  # the pictures pack so well that all are in the last bytes
        assert 'no message can be read' in str(error) and 'bag.mcap.zstd breaks off' in str(error)
    assert snapshot(path) == before


def test_one_damaged_message_costs_itself(record, look, storage):
    recording = record(storage=storage)
    for received in (2, 4):  # half a picture, and none at all
        recording.write('/image', IMAGE, received, image(99)[:200 * (received == 2)])
    assert look(recording.finish()) == rows()
    assert look.skipped.unreadable == 2 and look.skipped.reason.startswith('not a sensor_msgs')


def test_after_a_damaged_instruction_nobody_knows_what_was_told(record, look):
    recording = record()
    recording.write('/instruction', STRING, 2, b'\0\1\0\0\xff')
    recording.write('/instruction', STRING, 4, text('pull'))
    assert look(recording.finish()) == [1, 4, 5, 6]
    assert look.skipped.words == 1 and look.skipped.uninstructed == 2
    assert 'not a std_msgs/msg/String' in look.skipped.words_reason


def test_a_topic_that_changes_its_type(record, look, storage):
    recording = record(storage=storage).write('/image', IMAGE, 1, image(77))
    recording.write('/image', STRING, 3, text('a picture, honestly'))
    assert look(recording.finish()) == [77, *rows()]
    assert look.skipped.reason == ('/image holds a std_msgs/msg/String, must be '
                                   'sensor_msgs/msg/Image or sensor_msgs/msg/CompressedImage')


@pytest.mark.parametrize('with_index', [True, False])
def test_a_damaged_chunk_costs_itself(tmp_path, look, with_index):
    recording = Recording(tmp_path / 'bag', compression=CompressionMode.STORAGE)
    for number in range(1, 10):
        recording.write('/image', IMAGE, number, image(number))
        recording.flush()
    path = recording.finish(n=0)
    content = bytearray(stored(path).read_bytes())
    places = [place for place in range(len(content)) if content.startswith(b'zstd', place)]
    content[places[4] + 20:places[4] + 30] = b'\xff' * 10
    stored(path).write_bytes(content if with_index else content[:-40])
    assert look(path, instruction='push') == [1, 2, 3, 4, 6, 7, 8, 9]
    assert 'bag.mcap is damaged at byte ' in look.missing


@pytest.mark.parametrize('compression', ['NONE', 'STORAGE', 'FILE'])
def test_bytes_changed_anywhere_never_end_in_a_traceback(tmp_path, look, storage, compression):
    if storage == 'sqlite3':
        compression = 'NONE'
    recording = Recording(tmp_path / 'bag', storage, CompressionMode[compression])
    path = recording.write('/episode', EPISODE, 1, episode(1)).finish()
    content = stored(path).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(25):
        damaged = np.frombuffer(content, np.uint8).copy()
        place = int(random.integers(len(content)))
        size = int(random.integers(1, 40))
        damaged[place:place + size] = random.integers(0, 256, len(damaged[place:place + size]))
        cut = int(random.integers(len(content))) if random.random() < 0.3 else len(content)
        stored(path).write_bytes(damaged.tobytes()[:cut])
        try:
            look(path)
        except SpecVLAError as error:
            assert '\n' not in str(error)


@pytest.mark.parametrize('place', ['start', 'end'])
def test_an_mcap_file_without_its_first_or_last_bytes(record, look, place):
    path = record().finish()
    content = stored(path).read_bytes()
    stored(path).write_bytes(b'\0' * 8 + content[8:] if place == 'start' else content[:-8])
    assert look(path) == rows()


def test_messages_of_all_chunks_are_in_the_order_of_time(record, look):
    recording = record()
    for number in (30, 10, 20, 12):  # as clocks and caches have it
        recording.write('/image', IMAGE, number, image(number))
        recording.flush()
    assert look(recording.finish()) == [*rows(), 10, 12, 20, 30]


@pytest.mark.parametrize('name', ['a#b', '50%', '%41', 'what?', 'a b', 'ü', '-x', "it's"])
def test_folders_may_have_any_name(record, tmp_path, look, storage, name):
    path = record(storage=storage).finish().rename(tmp_path / name)
    assert look(path) == rows()


@pytest.mark.parametrize('content, reason', [
    (b'#ROSBAG V2.0\n', 'is a bag of ROS 1; convert it first'),
    (b'version https://git-lfs.github.com/spec/v1\n', 'is a Git LFS pointer'),
    (b'hello', 'is neither an MCAP file nor an SQLite one'), (b'', 'is neither')])
def test_files_of_another_kind(tmp_path, look, content, reason):
    path = tmp_path / 'bag.bag'
    path.write_bytes(content)
    refused(look, path, reason)


def test_a_bag_without_any_message(record, look, storage):
    recording = record(storage=storage).add('/image', IMAGE)
    recording._writer.min_timestamp = 0
    recording._writer.close()
    refused(look, recording.path, 'no message can be read from .*bag: it is empty')


def test_a_bag_that_may_not_be_read(record, look, monkeypatch):
    path = record().finish()

    def forbidden(*_):
        raise PermissionError(13, 'Permission denied', str(stored(path)))

    monkeypatch.setattr('specvla_ros.bags.reader.open_storage', forbidden)
    refused(look, path, r'cannot read .*bag\.mcap: Permission denied')


def test_no_room_for_a_copy(record, look, monkeypatch):
    path = record(compression=CompressionMode.FILE).finish()

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('specvla_ros.bags.open_storage._unpack', full)
    refused(look, path, 'No space left on device; make room in .*TMPDIR')
