"""Small bags made for the tests."""
import numpy as np
import pytest

from specvla_ros.bags import frames
from specvla_ros.bags.writer import BagWriter, offered_qos

SECOND = 10**9


class BagMaker:
    """Writes messages as nodes would have sent them; times in ns."""

    def __init__(self, path, storage):
        self.path = path
        self.writer = BagWriter(path, storage)
        self._known = set()

    def make(self, kind, **fields):
        return self.writer.types.make(kind, **fields)

    def send(self, topic, kind, received, **fields):
        if topic not in self._known:
            self.writer.add_topic(topic, kind, [offered_qos(latched='instruction' in topic)])
            self._known.add(topic)
        data = self.writer.types.serialize(self.make(kind, **fields))
        self.writer.write(topic, received, data)

    def stamp(self, nanoseconds):
        return self.make('builtin_interfaces/msg/Time', sec=nanoseconds // SECOND,
                         nanosec=nanoseconds % SECOND)

    def header(self, nanoseconds):
        return self.make('std_msgs/msg/Header', stamp=self.stamp(nanoseconds), frame_id='')

    def image(self, received, value=0, size=16, topic='/image', encoding='rgb8', stamp=None):
        pixels = np.resize(np.array(value, np.uint8), size * size * 3)
        self.send(topic, frames.IMAGE, received, header=self.header(
            received if stamp is None else stamp), height=size, width=size, encoding=encoding,
            is_bigendian=0, step=3 * size, data=pixels)

    def instruct(self, received, text, topic='/instruction'):
        self.send(topic, frames.STRING, received, data=text)

    def episode(self, received, number):
        self.send('/episode', frames.EPISODE, received, header=self.header(received),
                  suite='libero_object', task=0, instruction='x', episode=number, initial_state=0,
                  step=0, max_steps=9, success=False, done=False, crashed=False)


@pytest.fixture
def make_bag(tmp_path):
    """Give a function that begins a bag; the test finishes it, or doesn't."""
    def make_bag(name='bag', storage='mcap'):
        return BagMaker(tmp_path / name, storage)
    return make_bag


@pytest.fixture(params=['mcap', 'sqlite3'])
def storage(request):
    return request.param
