"""What a session tells of a node's actions becomes the same records as those of this process."""
import math

from specvla_ros.benchmark.bag_replay.live import _replayed, PlayedFrame


def answer(tokens, x):
    return {
        'event': 'answer', 'decoder': 'x.yaml', 'number': 3, 'tokens': tokens,
        'normalized': [[x] * 7], 'si': [[x] * 7], 'target_passes': 3, 'drafted': 8, 'accepted': 4,
        'acceptance_lengths': [3, 3], 'sources': ['target'] * 7, 'ros_ms': 2.0004,
        'stage_ms': {'queue_age': 50.0, 'vision': 1.0, 'publish': 0.1, 'total': 9.0}}


def test_an_answer_is_recorded():
    frame = PlayedFrame(3, 10, 20, 0, 'pick up')
    made = _replayed(frame, {'ar': answer([1] * 7, 0.0), 'relaxed': answer([2] * 7, 0.01)},
                     ['ar', 'strict', 'relaxed'])
    assert (made.number, made.stamp, made.received, made.instruction) == (3, 10, 20, 'pick up')
    assert list(made.actions) == ['ar', 'relaxed']
    record = made.actions['relaxed']
    assert record.tokens == (2,) * 7 and record.acceptance_lengths == (3, 3)
    assert (record.target_passes, record.drafted, record.accepted) == (3, 8, 4)
    assert record.stage_ms == {'vision': 1.0, 'total': 9.0} and record.ros_ms == 2.0
    assert record.deviation.mm == 10 and made.actions['ar'].deviation is None
    assert (record.risk, record.forbidden, record.unverified) == (None, 0, 0)


def test_what_the_report_says_beside_the_trace_is_recorded():
    told = {**answer([1] * 7, 0.0), 'risk': 0.123456789, 'forbidden': 2, 'unverified': 5}
    record = _replayed(PlayedFrame(3, 10, 20, 0, 'pick up'), {'ar': told}, ['ar']).actions['ar']
    assert (record.risk, record.forbidden, record.unverified) == (0.123457, 2, 5)
    unknown = {**told, 'risk': math.nan}
    made = _replayed(PlayedFrame(3, 10, 20, 0, 'pick up'), {'ar': unknown}, ['ar'])
    assert made.actions['ar'].risk is None
