"""`specvla record` as a process, over real DDS: what is sent is what is in the bag."""
import json
import os
from pathlib import Path
import resource
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import Image
from specvla_ros.msg import EpisodeStatus
from std_msgs.msg import String
from std_srvs.srv import SetBool

from specvla_ros.bags.frames import FrameReader
from specvla_ros.bags.reader import Bag
from specvla_ros.nodes import bag_recorder, qos

PATIENCE = 120.0


@pytest.fixture
def record(probe, tmp_path):
    """Give a function that starts `specvla record`; all end."""
    started = []

    def record(*options, limit=None):
        def confine():
            if limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        process = subprocess.Popen(
            [sys.executable, '-m', 'specvla_ros', 'record', '--out', str(tmp_path / 'bag'),
             *options], stdout=open(tmp_path / 'said', 'w'), stderr=subprocess.PIPE, text=True,
            env=dict(os.environ), preexec_fn=confine)
        started.append(process)
        return process

    yield record
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)


@pytest.fixture
def camera(probe):
    """Give a function that says instruction and status, and returns a camera that is heard."""
    def camera():
        latched = [probe.node.create_publisher(kind, topic, qos.LATCHED)
                   for kind, topic in ((String, 'instruction'), (EpisodeStatus, 'episode'))]
        # What a busy machine loses on the way is sent again as long as it is kept.
        images = probe.node.create_publisher(Image, 'image', QoSProfile(depth=100))
        latched[0].publish(String(data='push'))  # before anybody listens
        latched[1].publish(EpisodeStatus(episode=7, suite='libero_object'))
        probe.wait_for_subscribers(*latched, images)
        assert all(publisher.wait_for_all_acked(Duration(seconds=PATIENCE))
                   for publisher in latched)
        return images
    return camera


@pytest.fixture
def cast(camera, make_image):
    """Give a function that sends n images to a recorder; it has them, and what is latched."""
    def cast(n):
        images = camera()
        sent = [make_image((i % 256, 0, 0), size=64) for i in range(n)]
        for image in sent:
            images.publish(image)
            time.sleep(0.005)
        assert images.wait_for_all_acked(Duration(seconds=PATIENCE))
        return sent
    return cast


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_what_is_sent_is_in_the_bag(record, cast, tmp_path, until, storage):
    begun = time.time_ns()
    process = record('--storage', storage, '--json', str(tmp_path / 'report.json'))
    sent = cast(20)
    said = tmp_path / 'said'
    until(lambda: '/episode' in said.read_text(), 'every topic')
    time.sleep(1.0)
    assert not (tmp_path / 'bag').exists()
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0, process.stderr.read()
    assert not (tmp_path / 'bag.part').exists()
    with Reader(tmp_path / 'bag') as reader:
        by_topic = {connection.topic: connection for connection in reader.connections}
        offered = {topic: connection.ext.offered_qos_profiles[0]
                   for topic, connection in by_topic.items()}
        stamps = [stamp for _, stamp, _ in reader.messages()]
    assert offered['/instruction'].durability == QosDurability.TRANSIENT_LOCAL
    assert offered['/image'].durability == QosDurability.VOLATILE
    assert offered['/image'].reliability == QosReliability.RELIABLE
    assert 'uint32 initial_state' in by_topic['/episode'].msgdef.data
    assert stamps == sorted(stamps) and begun < stamps[0] < stamps[-1] < time.time_ns()
    with Bag(tmp_path / 'bag') as bag:
        assert not bag.missing
        assert bag.counts == {'/image': 20, '/instruction': 1, '/episode': 1}
        for message, image in zip(bag.messages({'/image'}), sent):
            read = bag.read(message)
            assert bytes(read.data) == bytes(image.data)
            assert read.header.stamp.nanosec == image.header.stamp.nanosec
        assert len(list(FrameReader(bag, '/image', '/instruction'))) > 0
    report = json.loads((tmp_path / 'report.json').read_text())
    assert report['bag']['messages'] == bag.counts and report['rows'] == []


def test_a_camera_that_comes_back_with_another_qos_and_a_topic_of_no_message(
        record, probe, make_image, tmp_path, until):
    """Every image is there once, in order; the topic that can't be recorded is named."""
    said = tmp_path / 'said'
    process = record('--topics', '/image', '/odd')
    probe.node.create_publisher(SetBool.Event, 'odd', 1)
    offers = [ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT,
              ReliabilityPolicy.RELIABLE]
    for number, reliability in enumerate(offers):
        camera = probe.node.create_publisher(
            Image, 'image', QoSProfile(depth=10, reliability=reliability))
        until(camera.get_subscription_count, 'a recorder')
        time.sleep(0.5)  # a second subscription, if there is to be one
        for i in range(10):
            camera.publish(make_image((10 * number + i, 0, 0), size=8))
            time.sleep(0.02)
        assert camera.wait_for_all_acked(Duration(seconds=PATIENCE))
        time.sleep(0.5)  # best effort is not acknowledged
        probe.node.destroy_publisher(camera)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0, process.stderr.read()
    with Bag(tmp_path / 'bag') as bag:
        assert [bag.read(m).data[0] for m in bag.messages({'/image'})] == list(range(30))
    assert '/odd is not recorded: std_srvs/srv/SetBool_Event is no message type' in \
        said.read_text()
    assert '/image: a publisher with another QoS came (best_effort, volatile); it is recorded ' \
        'too' in said.read_text()


def test_a_limit_in_seconds_and_silence(record, tmp_path):
    process = record('--seconds', '1', '--topics', '/nobody')
    _, complaint = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert complaint.startswith('error: nothing was recorded: no message came on /nobody in 1 s')
    assert complaint.count('\n') == 1
    assert not list(tmp_path.glob('bag*'))


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_full_disk_leaves_what_was_written_under_another_name(
        record, camera, make_image, tmp_path, until, storage):
    process = record('--storage', storage, limit=1_500_000)
    images, image = camera(), make_image(size=128)  # 49 kB: the disk takes 30 of them
    until(lambda: images.publish(image) or process.poll() is not None, 'no room on the disk')
    _, complaint = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert complaint.startswith(f'error: cannot write {tmp_path / "bag.part"}: ')
    assert complaint.count('\n') == 1
    assert not (tmp_path / 'bag').exists()
    with Bag(tmp_path / 'bag.part') as bag:
        assert bag.missing
        assert 0 < bag.counts['/image'] <= 30


def test_a_bag_outlives_the_command_that_began_it(record, cast, tmp_path, until):
    process = record()
    cast(5)
    until(lambda: '/episode' in (tmp_path / 'said').read_text(), 'every topic')
    process.kill()
    until((tmp_path / 'bag' / 'metadata.yaml').exists, 'a complete bag')
    with Bag(tmp_path / 'bag') as bag:
        assert not bag.missing and bag.counts['/instruction'] == 1


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_recorder_that_is_killed_leaves_what_came_until_a_second_before(
        record, cast, tmp_path, until, storage):
    process = record('--storage', storage)
    cast(20)
    until(lambda: '/episode' in (tmp_path / 'said').read_text(), 'every topic')
    time.sleep(2.5)
    recorder, = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    os.kill(int(recorder), signal.SIGKILL)
    _, complaint = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert complaint == (
        'error: the recorder ended with exit code -9; what was written until then is in '
        f'{tmp_path / "bag"}.part and can be replayed\n')
    assert not (tmp_path / 'bag').exists()
    with Bag(tmp_path / 'bag.part') as bag:
        assert bag.missing
        assert bag.counts == {'/image': 20, '/instruction': 1, '/episode': 1}


def test_latched_topics_are_asked_for_before_streams(monkeypatch, tmp_path):
    """Else a camera's images come before the instruction that holds."""
    latched, stream = (
        SimpleNamespace(topic_type='std_msgs/msg/String', qos_profile=profile)
        for profile in (qos.LATCHED, qos.STREAM))
    graph = {'/image': [stream], '/instruction': [latched], '/joints': [stream, latched]}
    asked = []

    class Graph:
        def __init__(self, name):
            pass

        def resolve_topic_name(self, name):
            return name

        def get_publishers_info_by_topic(self, name):
            return graph[name]

        def create_subscription(self, kind, name, hear, profile, raw):
            asked.append((name, profile.durability == DurabilityPolicy.TRANSIENT_LOCAL))

    for name, value in vars(Graph).items():
        if not name.startswith('__') or name == '__init__':
            monkeypatch.setattr(bag_recorder.Node, name, value)
    recorder = bag_recorder.BagRecorder(
        bag_recorder.RecordSpec(tmp_path / 'bag', tuple(graph), 'mcap', None), lambda event: None)
    recorder._look_for_topics()
    assert asked == [('/instruction', True), ('/joints', True), ('/image', False),
                     ('/joints', False)]


@pytest.mark.parametrize('options, reason', [
    (['--storage', 'tape'], 'storage'), (['--seconds', '0'], '--seconds 0'),
    (['--json', '/nowhere/x.json'], 'there is no folder /nowhere'),
    (['--out', '/proc/deep/bag'], '--out /proc/deep/bag: cannot write in /proc'),
    (['--out', '{tmp}/file/bag'], 'file is not a folder'),
    (['--out', '{tmp}/deep/a#b', '--storage', 'sqlite3'], 'has # in it'),
    (['--out', '{tmp}/deep/bag', '--topics', '/image', '/my cam'], "'/my cam' is no topic name"),
])
def test_bad_input_is_one_line_and_code_2(record, tmp_path, options, reason):
    (tmp_path / 'file').touch()
    process = record(*(option.format(tmp=tmp_path) for option in options))
    _, complaint = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    line, = complaint.splitlines()
    assert line.startswith('error: ') and reason in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file', 'said']
