"""The session that leads both real nodes, with a tiny random checkpoint in the real simulator."""
import io
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import numpy as np
from PIL import Image
import pytest

pytestmark = pytest.mark.alone
PATIENCE = 300.0


class Session:
    """`python -m specvla_ros.nodes.sessions.demo` as a process, and its events."""

    def __init__(self, spec, folder):
        folder.mkdir()
        (folder / 'spec.json').write_text(json.dumps(spec))
        self.popen = subprocess.Popen(
            [sys.executable, '-m', 'specvla_ros.nodes.sessions.demo',
             '--spec', folder / 'spec.json', '--out', folder / 'out'],
            stdout=subprocess.PIPE, stderr=open(folder / 'errors.log', 'w'), text=True,
            env={**os.environ, 'ROS_PYTHON_CHECK_FIELDS': '1', 'OMP_NUM_THREADS': '1'})
        self.events = []

    def read_until(self, name):
        for line in self.popen.stdout:
            self.events.append(json.loads(line))
            if self.events[-1]['event'] == name:
                return self.events[-1]
        raise AssertionError(f'no {name} among {self.events}')

    def finish(self):
        """Read to the end; return the exit code."""
        self.events += [json.loads(line) for line in self.popen.stdout]
        return self.popen.wait(PATIENCE)

    def of(self, name):
        return [event for event in self.events if event['event'] == name]


@pytest.fixture
def play(tmp_path):
    sessions = []

    def play(**spec):
        spec = {'decoders': ['ar', 'strict'], 'episodes': [[0, 1]], 'max_steps': 3,
                'resolution': 128, 'threads': 1, **spec}
        sessions.append(Session(spec, tmp_path / f'session{len(sessions)}'))
        return sessions[-1]

    yield play
    for session in sessions:
        if session.popen.poll() is None:
            session.popen.kill()
        session.popen.wait()
        session.popen.stdout.close()


def is_alive(pid):
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def test_the_same_state_under_every_decoder(play, tiny_checkpoint, tmp_path):
    session = play(checkpoint=str(tiny_checkpoint), decoders=['ar', 'strict', 'kerv'])
    assert session.finish() == 0, session.events
    ready, *_, done = session.events
    assert (ready['event'], done['event']) == ('ready', 'done')
    assert (done['episodes'], done['crashes']) == (3, 0)
    assert [event['decoder'] for event in session.of('episode_start')] == ['ar', 'strict', 'kerv']
    assert [event['step'] for event in session.of('step')] == [0, 1, 2] * 3
    assert {event['passes'] for event in session.of('step')[:3]} == {7}
    episodes = {}
    for event in session.of('episode_end'):
        assert (event['steps'], event['success'], event['crashed']) == (3, False, False)
        with np.load(event['npz'], allow_pickle=True) as saved:
            episodes[event['decoder']] = dict(saved)
    ar, strict = episodes['ar'], episodes['strict']
    assert ar['tokens'].shape == ar['action_si'].shape == (3, 7)
    # Strict is lossless, so both see the same pictures and do the same.
    np.testing.assert_array_equal(ar['tokens'], strict['tokens'])
    assert Image.open(io.BytesIO(ar['frames'][0])).size == (128, 128)
    assert (ar['target_passes'] == 7).all() and (ar['drafted'] == 0).all()
    assert (strict['drafted'] > 0).all()
    assert (np.diff(ar['image_stamp']) > 0).all()
    kerv = episodes['kerv']
    assert Path(session.of('episode_end')[2]['npz']).name == 'kerv-unverified_0_1.npz'
    assert kerv['unverified'].sum() > 0 and ar['unverified'].sum() == 0
    assert 0 < ar['risk'][0] <= 1 and (ar['forbidden'] == 0).all()
    for step, lengths in enumerate(json.loads(str(strict['acceptance_lengths']))):
        assert len(lengths) == strict['target_passes'][step] - 1
    stages = json.loads(str(ar['stage_ms']))[1]
    assert {'queue_age', 'preprocess', 'vision', 'prefill', 'verify', 'total'} <= set(stages)
    assert 0 < ar['ros_overhead_ms'][1] < ar['ros_latency_ms'][1]
    assert not any(is_alive(pid) for pid in ready['pids'].values())
    for log in ready['logs'].values():
        assert 'Traceback' not in open(log).read()


def test_bad_input_is_one_error_event_and_code_2(play, tmp_path):
    for spec, reason in (
            (dict(checkpoint='/no/such/folder'), '/no/such/folder'),
            (dict(decoders=['sloppy']), "decoder is 'sloppy'"),
            (dict(suite='kitchen'), "unknown suite 'kitchen'")):
        session = play(**spec)
        assert session.finish() == 2
        event, = session.events
        assert event['event'] == 'error'
        assert reason in event['message']
        assert '\n' not in event['message']


def test_an_interruption_leaves_no_process_behind(play, tiny_checkpoint):
    session = play(checkpoint=str(tiny_checkpoint), max_steps=100_000)
    pids = session.read_until('ready')['pids'].values()
    session.read_until('step')
    assert all(is_alive(pid) for pid in pids)
    session.popen.send_signal(signal.SIGINT)
    assert session.finish() == 130
    assert session.events[-1] == {'event': 'error', 'message': 'interrupted'}
    assert not any(is_alive(pid) for pid in pids)


def test_a_policy_that_is_killed_ends_the_session(play, tiny_checkpoint):
    session = play(checkpoint=str(tiny_checkpoint), max_steps=100_000)
    pids = session.read_until('ready')['pids']
    session.read_until('step')
    os.kill(pids['policy'], signal.SIGKILL)
    assert session.finish() == 1
    assert 'the policy process ended with exit code -9' in session.events[-1]['message']
    assert not is_alive(pids['bridge'])


def test_the_nodes_do_not_outlive_a_session_that_is_killed(play, tiny_checkpoint):
    session = play(checkpoint=str(tiny_checkpoint), max_steps=100_000)
    pids = session.read_until('ready')['pids'].values()
    os.kill(session.popen.pid, signal.SIGKILL)
    end = time.monotonic() + 60
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.1)
