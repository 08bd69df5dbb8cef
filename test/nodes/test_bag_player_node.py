"""`bag_player_node` in its own process, over real DDS, with the test as its policy."""
import numpy as np
import pytest
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from specvla_ros.msg import ActionDelta
from std_msgs.msg import String

from specvla_ros.bags import frames
from specvla_ros.bags.writer import BagWriter, offered_qos
from specvla_ros.nodes import qos
from specvla_ros.nodes.conversions import to_rgb

NODE = 'specvla_ros.nodes.bag_player_node'


@pytest.fixture
def bag(tmp_path):
    """Make a bag of six images, 50 ms apart, under two instructions."""
    writer = BagWriter(tmp_path / 'bag')
    make = writer.types.make
    writer.add_topic('/camera', frames.IMAGE, [offered_qos()])
    writer.add_topic('/instruction', frames.STRING, [offered_qos(latched=True)])
    for i in range(6):
        now = 10**9 + i * 50_000_000
        if i % 3 == 0:
            writer.write('/instruction', now, writer.types.serialize(
                make(frames.STRING, data=f'task {i // 3}')))
        header = make('std_msgs/msg/Header', frame_id='', stamp=make(
            'builtin_interfaces/msg/Time', sec=1, nanosec=now - 10**9))
        writer.write('/camera', now, writer.types.serialize(make(
            frames.IMAGE, header=header, height=4, width=4, encoding='bgr8', is_bigendian=0,
            step=12, data=np.tile(np.array([7, 8, i], np.uint8), 16))))
    writer.finish()
    return tmp_path / 'bag'


@pytest.fixture
def policy(probe):
    """Answer each image; give what was heard: (red of the image, instruction, stamp)."""
    heard, instructions = [], []
    actions = probe.node.create_publisher(ActionDelta, 'action', qos.STREAM)

    def act(image):
        rgb = to_rgb(image)[0, 0].tolist()
        assert rgb[1:] == [8, 7]
        heard.append((rgb[0], instructions[-1], image.header.stamp.sec))
        actions.publish(ActionDelta(image_stamp=image.header.stamp))

    probe.node.create_subscription(
        String, 'instruction', lambda message: instructions.append(message.data), qos.LATCHED)
    # None is lost while this process gets no time: they come 50 ms apart.
    probe.node.create_subscription(Image, 'image', act, QoSProfile(depth=10))
    return heard


@pytest.mark.parametrize('rate', [0.0, 1.0])
def test_every_frame_comes_in_order_under_its_instruction(start, bag, policy, rate):
    process = start(NODE, {'bag': bag, 'rate': rate})
    assert process.wait() == 0, process.output
    assert [(red, instruction) for red, instruction, _ in policy] == [
        (i, f'task {i // 3}') for i in range(6)]
    assert all(seconds > 10**9 for *_, seconds in policy)  # stamped now, not then
    assert 'done: 6 frames' in process.output


def test_lockstep_gives_up_where_nobody_answers(start, bag, probe):
    probe.node.create_publisher(ActionDelta, 'action', qos.STREAM)
    probe.hear(Image, 'image', qos.SENSOR_SUBSCRIBER)
    process = start(NODE, {'bag': bag, 'action_timeout': 3.0})
    assert process.wait() == 1
    assert 'no action answered frame 0 within 3 s' in process.output
    assert len(probe.heard['image']) >= 2  # it was sent again


@pytest.mark.parametrize('parameters, reason', [
    ({}, "parameter bag is ''"), ({'bag': '/nowhere'}, 'there is no bag /nowhere')])
def test_without_a_bag_it_ends_with_one_line(start, parameters, reason):
    process = start(NODE, parameters)
    assert process.wait() == 2
    assert reason in process.output and 'Traceback' not in process.output


def test_ctrl_c_ends_it_while_it_waits_for_a_policy(start, bag):
    process = start(NODE, {'bag': bag})
    process.says('waiting for a policy')
    assert process.interrupt() == 0
