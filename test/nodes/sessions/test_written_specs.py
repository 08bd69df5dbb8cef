"""A session's files are read by type: what the commands write, and what they don't."""

import json

import pytest

from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes.bag_recorder import RecordSpec
from specvla_ros.nodes.sessions.replay import ReplaySpec

RECORD = {'out': 'runs/x', 'topics': ['/image'], 'storage': 'mcap', 'seconds': 3}
REPLAY = {
    'bag': 'x', 'decoders': ['ar'], 'image_topic': '/image', 'instruction_topic': '/instruction',
    'instruction': '', 'rate': 0, 'policy': {'device': 'cpu', 'threads': 0},
    'action_timeout_s': 60.0, 'start_timeout_s': 300.0}


def read(tmp_path, spec, content):
    path = tmp_path / 'spec.json'
    path.write_text(json.dumps(content))
    return spec.read(path)


def test_what_the_commands_write_is_read(tmp_path):
    record = read(tmp_path, RecordSpec, RECORD)
    assert (record.topics, record.seconds, record.out.name) == (('/image',), 3.0, 'x')
    assert read(tmp_path, RecordSpec, RECORD | {'seconds': None}).seconds is None
    replay = read(tmp_path, ReplaySpec, REPLAY)
    assert (replay.decoders, replay.rate) == (('ar',), 0.0)


@pytest.mark.parametrize(('spec', 'content', 'message'), [
    (RecordSpec, RECORD | {'storage': 'zip'}, "storage is 'zip', must be one of 'mcap'"),
    (RecordSpec, RECORD | {'topics': '/image'}, "topics is '/image', must be a list"),
    (RecordSpec, RECORD | {'seconds': '3'}, "seconds is '3', must be a number or null"),
    (RecordSpec, {'out': 'x'}, r"missing keys \['seconds', 'storage', 'topics'\]"),
    (ReplaySpec, REPLAY | {'rate': True}, 'rate is True, must be a number'),
    (ReplaySpec, REPLAY | {'policy': []}, r'policy is \[\], must be an object'),
    (ReplaySpec, REPLAY | {'speed': 2}, r"missing keys \[\], unknown keys \['speed'\]"),
    (ReplaySpec, [], 'holds list, must be an object'),
], ids=str)
def test_what_they_don_t_write_is_refused_by_name(tmp_path, spec, content, message):
    with pytest.raises(SpecVLAError, match=f'spec.json: {message}'):
        read(tmp_path, spec, content)
