"""A camera is asked for what it offers, also when it comes late or back with another offer."""
import array
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from rclpy.duration import Duration
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from specvla_ros.msg import ActionDelta
from std_msgs.msg import String

from specvla_ros.nodes import qos
from specvla_ros.nodes.camera_subscription import CameraSubscription

ROOT = Path(__file__).parents[2]
BEST_EFFORT, RELIABLE = ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE


class Node:
    """Sees the publishers it is told to see, and keeps its log."""

    def __init__(self):
        self.log, self.offers, self.kind = [], [], 'sensor_msgs/msg/Image'

    def get_logger(self):
        return SimpleNamespace(info=self.log.append)

    def get_publishers_info_by_topic(self, topic):
        assert topic == '/image'
        return [SimpleNamespace(topic_type=self.kind, qos_profile=QoSProfile(
            depth=1, reliability=offer)) for offer in self.offers]


class Topics:
    """Keeps what is subscribed; `order` is what was done, with all siblings."""

    def __init__(self, order=None):
        self.order = [] if order is None else order
        self.timers, self.ends, self.siblings, self.subscribed = [], [], [], []

    def sibling(self):
        self.siblings.append(Topics(self.order))
        return self.siblings[-1]

    def add(self, end):
        self.ends.append(end)

    def every(self, period, callback):
        assert period <= 1
        self.timers.append(callback)

    def subscribe(self, kind, topic, callback, profile, way_out):
        self.subscribed.append(profile.reliability)
        self.callback, self.way_out = callback, way_out
        self.order.append(profile.reliability)

    def destroy(self):
        if self.subscribed:
            self.order.append('gone')
        self.subscribed.clear()

    def look(self):
        for timer in self.timers:
            timer()


@pytest.fixture
def made():
    """Give a function that makes a subscription: its node, topics, and where it subscribes."""
    def make(*offers, reliability='auto', kind=Image):
        node, topics = Node(), Topics()
        node.offers = list(offers)
        CameraSubscription(node, topics, kind, '/image', print, reliability)
        camera, = topics.siblings
        assert topics.ends == [camera]  # ends with all others
        return node, topics, camera
    return make


@pytest.mark.parametrize('offers, asked', [
    ([], RELIABLE), ([RELIABLE], RELIABLE), ([BEST_EFFORT], BEST_EFFORT),
    ([RELIABLE, RELIABLE], RELIABLE), ([RELIABLE, BEST_EFFORT], BEST_EFFORT),
    ([ReliabilityPolicy.UNKNOWN], BEST_EFFORT)])
def test_what_all_cameras_offer_is_asked(made, offers, asked):
    node, _, camera = made(*offers)
    assert camera.subscribed == [asked] and camera.callback == print
    name = asked.name.lower()
    assert node.log == ([f'/image: listening with reliability {name}, as the camera offers']
                        if offers else [])


@pytest.mark.parametrize('reliability', ['best_effort', 'reliable'])
def test_what_the_user_asks_for_is_asked_whatever_is_offered(made, reliability):
    _, topics, camera = made(RELIABLE, BEST_EFFORT, reliability=reliability)
    assert camera.subscribed == [ReliabilityPolicy[reliability.upper()]]
    assert 'camera_reliability' in camera.way_out and not topics.timers


def test_what_another_type_offers_is_nothing_to_us(made):
    _, _, camera = made(BEST_EFFORT, kind=CompressedImage)
    assert camera.subscribed == [RELIABLE]


def test_a_camera_that_comes_late_or_back_with_another_offer_is_asked_anew(made):
    node, topics, camera = made()
    for offers in ([], [RELIABLE], [RELIABLE], [RELIABLE, BEST_EFFORT], [BEST_EFFORT],
                   [BEST_EFFORT], [], [RELIABLE]):
        node.offers = offers
        topics.look()
    # Never two at a time: a frame sent again to the second would come twice.
    assert topics.order == [RELIABLE, 'gone', BEST_EFFORT, 'gone', RELIABLE]
    assert [line.split()[4] for line in node.log] == ['reliable,', 'best_effort,', 'reliable,']


def test_large_frames_come_through_and_a_change_of_camera_is_noticed(probe, start, until):
    """Of 25 such frames 4 came before, with best effort at this end."""
    node = start('fake_policy_node.py')
    boss = probe.node.create_publisher(String, 'instruction', qos.LATCHED)
    boss.publish(String(data='pick up'))
    probe.hear(ActionDelta, 'action', qos.STREAM)
    frame = Image(height=480, width=640, encoding='rgb8', step=1920,
                  data=array.array('B', bytes(480 * 1920)))

    def answered(camera):
        """Send a frame once, and wait for its action."""
        frame.header.stamp = probe.node.get_clock().now().to_msg()
        camera.publish(frame)
        until(lambda: any(action.image_stamp == frame.header.stamp
                          for action in probe.heard['action']), 'the answer to a frame sent once')

    camera = probe.node.create_publisher(Image, 'image', qos.CAMERA_PUBLISHER)
    node.says('/image: listening with reliability reliable, as the camera offers')
    probe.wait_for_subscribers(camera, boss)
    until(lambda: probe.node.count_publishers('action'), 'the policy')
    assert boss.wait_for_all_acked(Duration(seconds=60))
    for _ in range(25):
        answered(camera)

    probe.node.destroy_publisher(camera)
    camera = probe.node.create_publisher(Image, 'image', QoSProfile(
        depth=1, reliability=BEST_EFFORT))
    node.says('/image: listening with reliability best_effort, as the camera offers')
    frame.height, frame.data = 8, array.array('B', bytes(8 * 1920))
    probe.wait_for_subscribers(camera)
    answered(camera)


def test_a_frame_of_4k_is_one_message_and_several_fit_the_segment():
    name = '{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}'
    root = ElementTree.parse(ROOT / 'config' / 'fastdds_large_images.xml').getroot()
    segment, message = (int(root.find(f'.//{name}{tag}').text)
                        for tag in ('segment_size', 'maxMessageSize'))
    assert message > 3840 * 2160 * 3 and segment >= 4 * message
    made = [element.text for element in root.iter(f'{name}transport_id')]
    assert made[:2] == made[2:] and len(made) == 4
