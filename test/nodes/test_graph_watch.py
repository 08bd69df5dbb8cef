"""Whom a node doesn't act beside, and what silence is said to be, on a graph that is made up."""
from types import SimpleNamespace

from geometry_msgs.msg import PoseStamped
import pytest
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Bool

from specvla_ros.nodes.graph_watch import GraphWatch, type_name
from specvla_ros.nodes.policy_node import silence
from specvla_ros.nodes.policy_node.lone_publisher import LonePublisher
from specvla_ros.nodes.policy_node.silence import Silence
from specvla_ros.nodes.policy_node.stop_elsewhere import StopElsewhere
from specvla_ros.nodes.topics import once, Origin, Topics


class Graph:
    """A node that sees what the test puts there: (topic, node, type)."""

    def __init__(self):
        self.publishers, self.log, self.changes, self.looks = [], [], 0, []
        self.get_logger = lambda: SimpleNamespace(
            error=self.log.append, warning=self.log.append)

    def create_timer(self, period, callback, callback_group, clock):
        self.looks.append(callback)

    def destroy_timer(self, timer):
        pass

    def get_fully_qualified_name(self):
        return '/left/policy_node'

    def resolve_topic_name(self, name):
        return name if name.startswith('/') else f'/left/{name}'

    def get_publishers_info_by_topic(self, topic):
        return [SimpleNamespace(node_namespace=name.rpartition('/')[0] or '/',
                                node_name=name.rpartition('/')[2], topic_type=kind)
                for where, name, kind in self.publishers if where == topic]

    def count_publishers(self, topic):
        return len(self.get_publishers_info_by_topic(topic))

    def get_topic_names_and_types(self):
        return [(topic, [kind]) for topic, _, kind in self.publishers]

    def note_change(self):
        self.changes += 1


# What rclpy says of an end whose node is not known: measured, for some ms after it has come and
# before it goes.
UNKNOWN = '_NODE_NAMESPACE_UNKNOWN_/_NODE_NAME_UNKNOWN_'
ACTION = '/left/action', '/left/policy_node', 'specvla_ros/msg/ActionDelta'


@pytest.fixture
def graph():
    return Graph()


@pytest.fixture
def watch(graph):
    return GraphWatch(graph, None, graph.note_change)


@pytest.fixture
def topics(graph, watch):
    return Topics(graph, None, watch)


def test_an_arm_has_one_master_whatever_its_type(graph, watch, topics):
    topics.must_be_alone('action')
    graph.publishers = [ACTION, ('/action', '/policy_node', ACTION[2]),
                        ('/right/action', '/right/policy_node', ACTION[2])]
    watch.look()
    assert (watch.objection, graph.changes) == ('', 0)
    for other, kind in (('/left/policy_node', ACTION[2]), ('/rosbag2_player', ACTION[2]),
                        ('/_ros2cli_7', 'std_msgs/msg/String')):
        graph.publishers = [ACTION, ('/left/action', other, kind)]
        watch.look()
        watch.look()
        names = ', '.join(sorted([ACTION[1], other]))
        assert watch.objection.startswith(f'2 publishers on /left/action: {names}; ')
        assert graph.log[-1] == f'no action: {watch.objection}'
    assert (len(graph.log), graph.changes) == (3, 3)
    graph.publishers = [ACTION]
    watch.look()
    assert (watch.objection, graph.changes) == ('', 4)
    assert graph.log[-1].startswith('acting is allowed again')


@pytest.mark.parametrize('topic, kind, others', [
    ('emergency_stop', Bool, ['std_msgs/msg/Empty', 'std_msgs/msg/Int8', 'std_msgs/msg/String']),
    ('current_pose', PoseStamped, ['geometry_msgs/msg/Pose']),
])
def test_a_publisher_that_cannot_be_heard_is_objected_to(
        graph, watch, topics, topic, kind, others):
    topics.must_hear(kind, topic)
    heard = f'/left/{topic}', '/button', type_name(kind)
    graph.publishers = [heard, heard, (f'/{topic}', '/other', others[0])]
    watch.look()
    assert watch.objection == ''
    for other in others:
        graph.publishers = [heard, (f'/left/{topic}', '/joystick', other)]
        watch.look()
        assert watch.objection == (
            f'/left/{topic} has publishers that cannot be heard: /joystick with {other}, '
            f'expected is {type_name(kind)}; publish that, or remap them')


def test_what_is_no_more_of_the_node_is_not_looked_at(graph, watch, topics):
    topics.must_be_alone('action')
    graph.publishers = [ACTION, ACTION]
    topics.destroy()
    watch.look()
    assert watch.objection == ''


def test_all_reasons_have_to_be_gone(graph, watch, topics):
    topics.must_be_alone('action')
    topics.must_hear(Bool, 'emergency_stop')
    deaf = '/left/emergency_stop', '/button', 'std_msgs/msg/Empty'
    graph.publishers = [ACTION, ACTION, deaf]
    watch.look()
    graph.publishers = [ACTION, deaf]
    watch.look()
    assert 'cannot be heard' in watch.objection
    graph.publishers = [ACTION]
    watch.look()
    assert watch.objection == ''


def test_a_master_whose_name_is_not_known_yet_is_objected_to_at_once(graph, watch, topics):
    topics.must_be_alone('action')
    told = []
    for others in ([UNKNOWN], ['/probe'], [UNKNOWN], [], [UNKNOWN], [UNKNOWN]):
        graph.publishers = [ACTION, *(('/left/action', other, ACTION[2]) for other in others)]
        watch.look()
        told.append(watch.objection.partition(';')[0])
    unknown, probe = (f'2 publishers on /left/action: {names}' for names in (
        '(unknown node), /left/policy_node', '/left/policy_node, /probe'))
    assert told == [unknown, probe, probe, '', unknown, unknown]
    assert len(graph.log) == graph.changes == 4


def test_one_that_stays_unknown_takes_the_place_of_another_objection(graph, watch, topics):
    topics.must_be_alone('action')
    topics.must_hear(Bool, 'emergency_stop')
    graph.publishers = [ACTION, ('/left/emergency_stop', '/button', 'std_msgs/msg/Empty')]
    watch.look()
    graph.publishers = [ACTION, ('/left/action', UNKNOWN, ACTION[2])]
    watch.look()
    assert 'cannot be heard' in watch.objection
    watch.look()
    assert '(unknown node)' in watch.objection


def test_two_cameras_are_named_once_while_one_of_them_comes_and_goes(graph):
    camera = LonePublisher(graph, Topics(graph), '/image')
    look, = graph.looks
    faults = []
    for names in (['/cam', UNKNOWN], ['/cam', '/bag'], ['/cam', UNKNOWN], ['/cam'], [UNKNOWN],
                  ['/cam', UNKNOWN], ['/cam', UNKNOWN]):
        graph.publishers = [('/image', name, type_name(Image)) for name in names]
        look()
        faults.append(camera.fault)
    both, unknown = (f'2 publishers on /image: {names}' for names in (
        '/bag, /cam', '(unknown node), /cam'))
    assert faults == ['', both, both, '', '', '', unknown]
    assert [line.partition('.')[0] for line in graph.log] == [both, unknown]


def test_silence_is_explained_once_until_something_comes(graph, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(silence.time, 'monotonic', lambda: now[0])
    silent = Silence(graph, Topics(graph), 'image', '/image/compressed', CompressedImage)
    look, = graph.looks
    expected = 'sensor_msgs/msg/CompressedImage'

    def says(seconds=6.0):
        now[0] += seconds
        look()
        look()
        return silent.fault

    assert says(4.9) == ''
    start = 'no image for more than 5 s: '
    assert says() == (
        f'{start}no node publishes on /image/compressed, expected is {expected}')
    graph.publishers = [('/cam/compressed', '/cam', expected), ('/image', '/cam', 'x/msg/Y')]
    assert says().endswith('; that is on /cam/compressed: remap /image/compressed to it')
    graph.publishers = [('/mine', '/left/policy_node', expected)]
    assert says() == f'{start}no node publishes on /image/compressed, expected is {expected}'
    graph.publishers = [('/image/compressed', '/cam', type_name(Image))]
    assert says() == (f'{start}/cam: {type_name(Image)} on /image/compressed, expected is '
                      f'{expected}')
    graph.publishers = [('/image/compressed', '/cam', expected)]
    assert says().startswith(f'{start}/cam: {expected} on /image/compressed is there, but')
    assert len(graph.log) == 5
    silent.note()
    assert (silent.fault, says(4.0)) == ('', '')
    assert says() != ''  # it stopped
    assert len(graph.log) == 6
    silent.end()
    assert says(100.0) == ''


def test_a_stop_button_in_another_namespace_is_said_once(graph):
    StopElsewhere(graph, Topics(graph))
    look, = graph.looks
    button = '/emergency_stop', '/button', type_name(Bool)
    own = '/left/emergency_stop', '/left/button', type_name(Bool)
    for publishers in ([], [('/emergency_stop', '/button', 'std_msgs/msg/String')],
                       [('/stop', '/button', type_name(Bool))], [own], [own, button]):
        graph.publishers = publishers
        look()
        assert graph.log == []
    graph.publishers = [button]
    look()
    look()
    line, = graph.log
    assert line.startswith('no node publishes on /left/emergency_stop, and /emergency_stop is not')
    assert 'remap emergency_stop to it' in line
    graph.publishers = [own]
    look()
    graph.publishers = [button]
    look()
    assert len(graph.log) == 2


def test_copies_of_a_message_are_one():
    heard = []
    hear = once(heard.append)
    for message, stamp in (('a', 1), ('b', 2), ('a', 1), ('b', 2), ('a', 3), ('c', 0), ('c', 0)):
        hear(message, Origin(stamp, 1, False))
    assert heard == ['a', 'b', 'a', 'c', 'c']


@pytest.mark.parametrize('number, expected', [(7, 7), (None, 0), (2**64 - 1, 0)])
def test_numbers_of_a_middleware_that_does_not_count_are_unknown(number, expected):
    info = dict(source_timestamp=5, publication_sequence_number=number)
    assert Origin.of(info, True) == Origin(5, expected, True)
