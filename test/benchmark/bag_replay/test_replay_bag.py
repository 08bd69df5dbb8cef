"""`specvla replay`: always the same tokens, the shape of its report, and bags it can't play."""
import json
from pathlib import Path
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from specvla_ros import cli
from specvla_ros.bags.frames import Frame, IMAGE, LiveAction
from specvla_ros.bags.reader import Bag
from specvla_ros.bags.writer import BagWriter, offered_qos
from specvla_ros.benchmark.bag_replay import rows as replay_rows
from specvla_ros.benchmark.bag_replay.offline import replay, Replayed

EXAMPLE = Path(__file__).parents[2] / 'data' / 'libero_object_2'
MS = 1_000_000  # ns
FIRST = 1_763_800_000 * 10**9  # when the example begins, ns
N = 10  # frames of the short bag
WHOLE = 68  # of the example


@pytest.fixture
def run(tiny_checkpoint, tmp_path):
    """Give a function that replays a bag with the tiny checkpoint and returns its report."""
    def run(bag, *options):
        number = len(list(tmp_path.glob('out*')))
        path = tmp_path / f'report{number}.json'
        code = cli.main(['replay', str(bag), '--checkpoint', str(tiny_checkpoint), '--threads',
                         '1', '--out', str(tmp_path / f'out{number}'), '--json', str(path),
                         *options])
        assert code == 0
        return json.loads(path.read_text())
    return run


@pytest.fixture(scope='module')
def short(tmp_path_factory):
    """The first ten frames of the example, message by message."""
    path = tmp_path_factory.mktemp('short') / 'short'
    writer = BagWriter(path)
    with Bag(EXAMPLE) as bag:
        for topic, kind in bag.topics.items():
            writer.add_topic(topic, kind, [offered_qos()])
        for message in bag.messages(bag.topics):
            if message.received < FIRST + 550 * MS:
                writer.write(message.topic, message.received, message.data)
    writer.finish()
    return path


def test_the_same_bag_gives_the_same_tokens_and_strict_those_of_ar(run, short):
    reports = [run(short, '--no-html'), run(short, '--no-html'),
               run(short, '--no-html', '--decoder', 'relaxed', '--decoder', 'ar')]
    hashes = [{row['decoder']: row['tokens_sha256'] for row in report['rows']}
              for report in reports]
    assert hashes[0] == hashes[1]
    assert hashes[2] == {name: hashes[0][name] for name in ('relaxed', 'ar')}
    assert hashes[0]['strict'] == hashes[0]['ar']


def test_the_report_has_the_shape_of_all_reports(run, short, tmp_path, capsys):
    report = run(short)
    assert list(report)[:7] == ['specvla', 'command', 'machine', 'versions', 'config',
                                'checkpoint', 'rows']
    assert report['bag']['frames'] == N
    assert report['bag']['frame_rate_hz'] == pytest.approx(20)
    assert len(report['bag']['sha256']) == len(report['checkpoint']['target_sha256']) == 64
    assert report['config']['image_topic'] == '/image/compressed'
    ar, strict, relaxed = report['rows']
    assert [row['decoder'] for row in report['rows']] == ['ar', 'strict', 'relaxed']
    for row in report['rows']:
        assert (row['suite'], row['task'], row['actions']) == (None, None, N)
        assert set(row['ms_per_action']) == {'mean', 'p50', 'p95'}
        assert 0 <= row['missed_frames'] < N
    assert ar['target_passes_per_action'] == 7 and ar['speedup_vs_ar'] == 1
    assert strict['tokens_equal_ar'] == {'actions': N, 'actions_equal': N,
                                         'first_differences': []}
    assert strict['max_bin_error'] == 0 and strict['mean_abs_error_mm'] == 0
    # the bag was recorded under relaxed, with other weights
    live = relaxed['tokens_equal_live']
    assert 0 <= live['actions_equal'] < live['actions'] <= N
    assert 'tokens_equal_live' not in ar
    assert json.loads((tmp_path / 'out0' / 'report.json').read_text()) == report
    assert (tmp_path / 'out0' / 'plot.png').stat().st_size > 10_000
    page = (tmp_path / 'out0' / 'report.html').read_text()
    assert 'http' not in page  # everything is inside
    assert page.count('<img') == 8 + 2 and page.count('<th>') == 4
    assert all(row['tokens_sha256'] in page for row in report['rows'])
    assert 'actions equal to the live ones' in capsys.readouterr().out


@pytest.mark.parametrize('execute_steps, looks', [(None, 3), (2, 5)])
def test_of_chunks_the_frames_are_as_far_apart_as_steps_are_executed(
        run, short, execute_steps, looks, capsys):
    options = () if execute_steps is None else ('--execute-steps', str(execute_steps))
    report = run(short, '--no-html', '--chunk', '4', '--decoder', 'ar', '--decoder', 'jacobi',
                 *options)
    steps = execute_steps or 4
    assert (report['bag']['frames'], report['config']['execute_steps']) == (looks, steps)
    for row in report['rows']:
        assert (row['actions'], row['steps']) == (looks, looks * steps)
        assert row['ms_per_step']['mean'] == pytest.approx(row['ms_per_action']['mean'] / steps)
        assert row['target_passes_per_action'] <= 28
    assert report['rows'][1]['tokens_equal_ar']['actions_equal'] == looks
    said = capsys.readouterr().out
    assert 'ms per step, mean' in said and 'control steps executed' in said


@pytest.mark.parametrize('command', ['replay', 'demo'])
def test_steps_that_a_chunk_does_not_have_are_refused(
        command, short, tiny_checkpoint, tmp_path, capsys):
    bag = [str(short)] if command == 'replay' else []
    assert cli.main([command, *bag, '--checkpoint', str(tiny_checkpoint), '--decoder', 'ar',
                     '--chunk', '4', '--execute-steps', '5', '--out', str(tmp_path / 'x')]) == 2
    assert 'execute_steps is 5, must be from 1 to 4' in ' '.join(capsys.readouterr().err.split())
    assert not (tmp_path / 'x').exists()


def test_a_bag_that_was_cut_off_is_replayed_as_far_as_it_goes(run, tmp_path, capsys):
    bag = tmp_path / 'cut'
    shutil.copytree(EXAMPLE, bag)
    with open(bag / 'libero_object_2.mcap', 'r+b') as file:
        file.truncate(1_200_000)
    report = run(bag, '--decoder', 'ar', '--no-html')
    assert 20 < report['rows'][0]['actions'] == report['bag']['frames'] < WHOLE
    assert 'libero_object_2.mcap breaks off after byte' in report['bag']['missing']
    assert capsys.readouterr().out.splitlines()[0].startswith(f'{bag} is not whole: ')


def test_missing_metadata_is_said_and_made_up_for(run, tmp_path):
    bag = tmp_path / 'bare'
    bag.mkdir()
    shutil.copy(EXAMPLE / 'libero_object_2.mcap', bag)
    report = run(bag, '--decoder', 'ar', '--no-html')
    assert report['bag']['frames'] == WHOLE
    assert 'metadata.yaml is missing' in report['bag']['missing']


@pytest.mark.parametrize('options, reason', [
    (['--image-topic', '/eye'], 'has no topic /eye'),
    (['--instruction-topic', '/said'], 'has no topic /said'),
    (['--decoder', 'sloppy'], "decoder is 'sloppy'"),
    (['--checkpoint', '/nowhere'], 'no checkpoint folder /nowhere'),
    (['--threads', '-1'], '--threads -1'),
    (['--json', '/nowhere/x.json'], 'there is no folder /nowhere'),
])
def test_bad_input_is_one_line_and_code_2(options, reason, capsys):
    assert cli.main(['replay', str(EXAMPLE), *options]) == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ') and reason in line


@pytest.mark.parametrize('options', [['--out', 'out'], ['--json', 'x.json'], []])
@pytest.mark.parametrize('name', ['.', 'libero_object_2.mcap', 'metadata.yaml'])
def test_nothing_is_written_into_the_bag(
        tiny_checkpoint, tmp_path, monkeypatch, capsys, options, name):
    """Not even where the user stands in it, so that `runs` would be made there."""
    bag = shutil.copytree(EXAMPLE, tmp_path / 'bag')
    monkeypatch.chdir(bag)
    before = bag.stat().st_mtime_ns, sorted(bag.iterdir())
    assert cli.main(['replay', name, '--checkpoint', str(tiny_checkpoint), *options]) == 2
    line, = capsys.readouterr().err.splitlines()
    assert f'is inside of the bag {name}, in which nothing is written; give another' in line
    assert (bag.stat().st_mtime_ns, sorted(bag.iterdir())) == before


@pytest.mark.parametrize('content, reason', [
    (None, 'there is no bag'), (b'junk', 'no message can be read from')])
def test_a_bag_that_cannot_be_read_is_one_line_and_code_2(tmp_path, content, reason, capsys):
    path = tmp_path / 'bag.mcap'
    if content is not None:
        path.write_bytes(content)
    assert cli.main(['replay', str(path)]) == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ') and reason in line


def test_a_camera_of_depth_alone_is_one_line_and_code_2(tiny_checkpoint, tmp_path, capsys):
    writer = BagWriter(tmp_path / 'depth')
    make = writer.types.make
    stamp = make('builtin_interfaces/msg/Time', sec=1, nanosec=0)
    writer.add_topic('/image', IMAGE, [offered_qos()])
    writer.write('/image', 1, writer.types.serialize(make(
        IMAGE, header=make('std_msgs/msg/Header', stamp=stamp, frame_id=''), height=2, width=2,
        encoding='16UC1', is_bigendian=0, step=4, data=np.zeros(8, np.uint8))))
    writer.finish()
    code = cli.main(['replay', str(tmp_path / 'depth'), '--instruction', 'push', '--checkpoint',
                     str(tiny_checkpoint), '--decoder', 'ar', '--out', str(tmp_path / 'out')])
    assert code == 2
    line, = capsys.readouterr().err.splitlines()
    assert "encoding '16UC1' cannot be turned into RGB" in line


@pytest.mark.parametrize('latency, missed', [(10, 0), (50, 0), (75, 3), (100, 4), (1e6, 8)])
def test_missed_frames_at_twenty_hertz(latency, missed):
    """Ten frames, 50 ms apart: at 75 ms every third one; the last is always acted on, if late."""
    received = [50 * MS * i for i in range(10)]
    assert replay_rows.missed_frames(received, [latency] * 10) == missed


def test_live_actions_count_for_the_decoder_that_made_them(make):
    action = make.action()
    frames = [Replayed(i, stamp, stamp, 'x', 0, {'ar': action, 'strict': action})
              for i, stamp in enumerate((1, 2, 3))]
    live = {1: LiveAction(action.tokens, 'strict'), 2: LiveAction((0,) * 7, 'strict'),
            3: LiveAction(action.tokens, '')}
    ar, strict = replay_rows.rows(frames, live, ['ar', 'strict'])
    assert 'tokens_equal_live' not in ar
    assert strict['tokens_equal_live'] == {
        'actions': 2, 'actions_equal': 1, 'first_differences': [1]}


class Forgetful:
    """A policy that tells what it was asked, in a list shared with the others."""

    def __init__(self, name, calls, make):
        self.name, self.calls, self.make = name, calls, make

    def act(self, image, instruction, stamp=None):
        self.calls.append((self.name, image))
        return self.make()

    def reset(self):
        self.calls.append((self.name, 'reset'))


def test_decoders_alternate_and_forget_at_a_new_segment(make):
    record = make.action()
    action = SimpleNamespace(tokens=record.tokens, trace=record, si=np.zeros((1, 7)),
                             normalized=np.zeros((1, 7)))
    calls = []
    policies = {name: Forgetful(name, calls, lambda: action) for name in 'ab'}
    frames = [Frame(i, i, i, i, 'x', segment) for i, segment in enumerate((0, 0, 1))]
    assert len(list(replay(frames, policies))) == 3
    assert calls[4:] == [  # after the warm-up
        ('a', 'reset'), ('b', 'reset'), ('a', 0), ('b', 0), ('b', 1), ('a', 1),
        ('a', 'reset'), ('b', 'reset'), ('a', 2), ('b', 2)]


@pytest.mark.alone
def test_over_real_topics_the_tokens_are_those_of_this_process(run, short, tmp_path):
    decoders = ('--decoder', 'ar', '--decoder', 'relaxed', '--decoder', 'kerv (unverified)')
    here = run(short, '--no-html', *decoders)
    live = run(short, '--no-html', *decoders, '--live')
    for mine, theirs in zip(here['rows'], live['rows']):
        for name in ('decoder', 'actions', 'tokens_sha256', 'target_passes_per_action',
                     'acceptance_histogram', 'drafted', 'accepted', 'verification', 'forbidden',
                     'unverified'):
            assert mine[name] == theirs[name], name
        assert mine['mean_risk'] == pytest.approx(theirs['mean_risk'], abs=1e-5)
    assert [row['verification'] for row in live['rows']] == ['lossless', 'relaxed', 'unverified']
    assert live['rows'][2]['unverified'] > 0
    assert live['rows'][1]['tokens_equal_ar'] == here['rows'][1]['tokens_equal_ar']
    assert live['rows'][1]['mean_abs_error_mm'] == pytest.approx(
        here['rows'][1]['mean_abs_error_mm'], abs=1e-3)
    assert live['config']['ros'] and live['rows'][0]['ros_ms_per_action']['p50'] > 0
    assert live['bag'] == here['bag']
    assert 'Traceback' not in (tmp_path / 'out1' / 'logs' / 'policy.log').read_text()


@pytest.mark.alone
def test_at_a_rate_what_the_policy_has_no_time_for_is_missed(run, short):
    report = run(short, '--no-html', '--decoder', 'ar', '--live', '--rate', '100')
    row, = report['rows']
    assert 0 < row['actions'] < N
    assert row['missed_frames'] == N - row['actions']


def test_a_rate_belongs_to_live_topics(short, capsys):
    assert cli.main(['replay', str(short), '--rate', '2']) == 2
    assert '--rate 2: give more than 0, at most 100, and --live' in capsys.readouterr().err
    assert cli.main(['replay', str(short), '--instruction', 'push', '--instruction-topic', '/told'
                     ]) == 2
    assert '--instruction-topic /told has no effect: --instruction' in capsys.readouterr().err
