"""
`rerun_node`: what it hands to the library, as a real process.

The library is not a requirement, so a stand-in of a few lines takes its place; where the real one
is installed, it gets the same messages.
"""
import array
import importlib.util
import json

from geometry_msgs.msg import Vector3
import numpy as np
import pytest
from sensor_msgs.msg import Image
from specvla_ros.msg import ActionDelta, DecodeReport
from std_msgs.msg import String

from specvla_ros.nodes import qos

MODULE = 'specvla_ros.nodes.rerun_node'
# Writes a line per entity: time, path, and what.
STAND_IN = """
import json
class Image:
    def __init__(self, array): self.what = list(array.shape)
    def compress(self, jpeg_quality): self.what.append(jpeg_quality); return self
class Scalars:
    def __init__(self, values): self.what = values.tolist()
class TextLog:
    def __init__(self, text, level): self.what = [text, level]
class RecordingStream:
    def __init__(self, name): pass
    def save(self, path): self.file = open(path, 'w')
    def set_time(self, timeline, timestamp): self.time = [timeline, int(timestamp.astype(int))]
    def log(self, path, thing):
        self.file.write(json.dumps([self.time, path, thing.what]) + '\\n'); self.file.flush()
    def flush(self): pass
    def disconnect(self): self.file.write('"end"'); self.file.close()
"""


def play(probe, node, make_image, until, said):
    """Publish one of each until all is heard."""
    publishers = {topic: probe.node.create_publisher(kind, topic, profile)
                  for kind, topic, profile in (
                      (Image, 'image', qos.CAMERA_PUBLISHER), (String, 'instruction', qos.LATCHED),
                      (ActionDelta, 'action', qos.STREAM),
                      (DecodeReport, 'decode_report', qos.STREAM))}
    publishers['instruction'].publish(String(data='pick up the milk'))
    probe.wait_for_subscribers(*publishers.values())
    action = ActionDelta(
        sequence=7, limited=True, translation=[Vector3(x=0.01)], rotation=[Vector3(z=np.pi)],
        gripper=array.array('f', [1.0]))
    action.header.stamp.sec = 5
    broken = make_image((9, 8, 7), stamp=10**9)
    broken.width = 999
    report = DecodeReport(target_passes=3, acceptance_histogram=array.array('I', [0, 0, 0, 2]),
                          vision_time=0.02)

    def repeat():
        publishers['image'].publish(make_image((9, 8, 7), stamp=2 * 10**9))
        publishers['image'].publish(broken)
        publishers['action'].publish(action)
        publishers['decode_report'].publish(report)
        return said()
    until(repeat, 'everything on record')
    node.says('not recorded')  # the image that is none


def test_everything_becomes_an_entity_at_its_time(probe, start, make_image, until, tmp_path):
    (tmp_path / 'rerun.py').write_text(STAND_IN)
    path = tmp_path / 'run.rrd'
    node = start(MODULE, {'save': path}, PYTHONPATH=str(tmp_path))

    def lines():
        return [json.loads(line) for line in path.read_text().splitlines()]
    expected = [
        [['ros_time', 2 * 10**9], 'camera', [16, 16, 3, 85]],
        [['ros_time', 5 * 10**9], 'action/translation_mm', [10.0, 0.0, 0.0]],
        [['ros_time', 5 * 10**9], 'action/rotation_deg', [0.0, 0.0, 180.0]],
        [['ros_time', 5 * 10**9], 'action/gripper', [1.0]],
        [['ros_time', 5 * 10**9], 'safety', ['action 7 limited', 'WARN']],
        [['ros_time', 0], 'decode/passes', [3.0]],
        [['ros_time', 0], 'decode/acceptance_length', [3.0]],
        [['ros_time', 0], 'ms/vision', [20.0]],
    ]
    play(probe, node, make_image, until, lambda: all(e in lines() for e in expected) and any(
        path == 'instruction' for _, path, _ in lines()))
    assert node.interrupt() == 0
    texts = [what for _, path, what in lines()[:-1] if path == 'instruction']
    assert texts == [['pick up the milk', 'INFO']]  # once, though it is heard twice
    assert lines()[-1] == 'end'


@pytest.mark.skipif(not importlib.util.find_spec('rerun'), reason='rerun-sdk is not installed')
def test_the_real_library_takes_it(probe, start, make_image, until, tmp_path):
    path = tmp_path / 'run.rrd'
    node = start(MODULE, {'save': path})
    play(probe, node, make_image, until, lambda: 'not recorded' in node.output)
    assert node.interrupt() == 0
    assert path.read_bytes()[:4] == b'RRF2' and path.stat().st_size > 1000


def test_without_the_library_it_says_what_to_install(start, tmp_path):
    (tmp_path / 'rerun.py').write_text('raise ImportError("no rerun")')
    node = start(MODULE, PYTHONPATH=str(tmp_path))
    assert node.wait() == 2
    assert 'rerun_node needs rerun-sdk (no rerun): pip install rerun-sdk' in node.output
