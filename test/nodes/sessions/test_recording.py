"""Steps are put together from messages in any order, and written whole or not at all."""
import itertools
import json

import numpy as np
import pytest

from specvla_ros.benchmark.episodes.films import read_episode
from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes.sessions.recording import EpisodeRecording, ReceivedAction, ReportedCost


def answer(sequence=0, received=1.0):
    return ReceivedAction(sequence, received, np.full((1, 7), sequence, float), (0.5,) * 7,
                  tuple(range(7)))


def cost(**changes):
    return ReportedCost(**{'decoder': 'ar', 'target_passes': 7, 'drafted': 0, 'accepted': 0,
                   'acceptance_lengths': (1,) * 6, 'sources': ('target',) * 7,
                   'stage_ms': {'total': 10.0, 'publish': 1.0}, **changes})


def test_a_step_is_complete_in_whatever_order_its_messages_come():
    adders = {
        'observation': lambda r: r.add_observation(5), 'frame': lambda r: r.add_frame(5, b'jpeg'),
        'answer': lambda r: r.add_answer(5, answer()), 'cost': lambda r: r.add_cost(5, cost())}
    for order in itertools.permutations(adders):
        recording, complete = EpisodeRecording(), []
        for name in order:
            adders[name](recording)
            complete += recording.new_steps()
        step, = complete
        assert (step.number, step.stamp, step.frame) == (0, 5, b'jpeg'), order
        assert recording.is_complete


def test_steps_come_in_the_order_of_their_observations():
    recording = EpisodeRecording()
    for stamp in (20, 10):
        recording.add_observation(stamp)
        recording.add_frame(stamp, b'%d' % stamp)
    recording.add_answer(20, answer(1))
    recording.add_cost(20, cost())
    assert recording.new_steps() == []
    recording.add_answer(10, answer(0))
    recording.add_cost(10, cost())
    assert [step.stamp for step in recording.new_steps()] == [10, 20]


def test_an_answer_to_a_copy_of_the_image_belongs_to_the_observation():
    recording = EpisodeRecording()
    recording.add_observation(10)
    for stamp in (10, 14, 16):
        recording.add_frame(stamp, b'%d' % stamp)
    for sequence, stamp in enumerate((14, 16)):
        recording.add_answer(stamp, answer(sequence))
        recording.add_cost(stamp, cost())
    assert recording.new_steps() == []  # 14 might be an observation whose pose is late
    recording.add_observation(20)
    step, = recording.new_steps()
    assert (step.stamp, step.frame, step.answer.sequence) == (14, b'10', 0)
    assert not recording.is_complete
    assert recording.new_steps(is_over=True) == []  # the last observation stays unanswered


def test_latency_and_overhead():
    recording = EpisodeRecording()
    recording.add_observation(10**9)
    recording.add_frame(10**9, b'')
    recording.add_answer(10**9, answer(received=1.012))
    recording.add_cost(10**9, cost())
    step, = recording.new_steps()
    assert step.ros_latency_ms == pytest.approx(12)
    assert step.ros_overhead_ms == pytest.approx(3)


def record(n):
    recording = EpisodeRecording()
    for i in range(1, n + 1):
        recording.add_observation(i)
        recording.add_frame(i, b'x' * i)
        recording.add_answer(i, answer(i))
        recording.add_cost(i, cost())
    recording.new_steps()
    return recording


@pytest.mark.parametrize('n', [1, 3])
def test_saved_arrays(tmp_path, n):
    path = tmp_path / 'episodes' / 'ar_0_0.npz'
    record(n).save(path, decoder='ar', success=True, task=3)
    with np.load(path, allow_pickle=True) as saved:
        assert [len(frame) for frame in saved['frames']] == list(range(1, n + 1))
        assert saved['tokens'].shape == saved['action_si'].shape == (n, 7)
        assert saved['action_si'].dtype == np.float32
        assert saved['tokens'].dtype == saved['target_passes'].dtype == np.int64
        assert json.loads(str(saved['sources'])) == [['target'] * 7] * n
        assert json.loads(str(saved['acceptance_lengths'])) == [[1] * 6] * n
        assert json.loads(str(saved['stage_ms']))[0]['total'] == 10
        assert (str(saved['decoder']), bool(saved['success']), int(saved['task'])) == (
            'ar', True, 3)
    (tmp_path / 'another').touch()
    assert path.stat().st_mode == (tmp_path / 'another').stat().st_mode


def test_a_full_disk_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    def fill_disk(file, **arrays):
        file.write(b'PK')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(np, 'savez', fill_disk)
    with pytest.raises(SpecVLAError, match='cannot write .*No space left.*make room'):
        record(1).save(tmp_path / 'ar_0_0.npz')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('total, steps', [(None, [4, 4, 4]), (12, [4, 4, 4]), (9, [4, 4, 1]),
                                          (8, [4, 4, 0])])
def test_of_chunks_it_says_how_many_control_steps_were_executed(tmp_path, total, steps):
    recording = EpisodeRecording()
    for number in range(3):
        recording.add_observation(number)
        recording.add_frame(number, b'jpeg')
        recording.add_answer(number, ReceivedAction(
            number, 1.0, np.zeros((4, 7)), (0.5,) * 28, tuple(range(28))))
        recording.add_cost(number, cost(sources=('target',) * 56))
    recording.new_steps(is_over=True)
    assert recording.executed_steps(total) == steps
    recording.save(tmp_path / 'x.npz', total, success=True, crashed=False, message='',
                   suite='libero_object', task=0, state=1, instruction='pick', max_steps=280)
    episode = read_episode(tmp_path / 'x.npz', 'ar', 'none + strict')
    assert [action.steps for action in episode.record.actions] == steps
    assert episode.record.steps == sum(steps)
