"""`specvla demo`: follows the session, leaves everything or says in one line why not."""

import dataclasses
import functools
import json
from pathlib import Path
import shutil
import subprocess
import sys
import time

import pytest

from specvla_ros.benchmark.episodes import video
from specvla_ros.benchmark.episodes.demo import DemoArgs, run
from specvla_ros.benchmark.session import DemoSession

FAKE = Path(__file__).with_name('fake_session.py')


def session(fail=''):
    command = (sys.executable, str(FAKE), *(('--fail', fail) if fail else ()))
    return functools.partial(DemoSession, command=command)


@pytest.fixture
def args(tiny_checkpoint, tmp_path, monkeypatch):
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / 'checkpoint')
    monkeypatch.chdir(tmp_path)
    return DemoArgs(tasks=(0, 2), states=(1,), checkpoint=checkpoint)


def test_it_leaves_report_plot_and_video_and_says_where(args, tmp_path, capsys):
    assert run(args, session()) == 0
    folder, = (tmp_path / 'runs').iterdir()
    assert folder.name.startswith('demo-')
    said = capsys.readouterr().out
    for name in ('report.json', 'plot.png', 'demo.mp4'):
        assert f'runs/{folder.name}/{name}' in said
        assert (folder / name).stat().st_size > 0
    rows = json.loads((folder / 'report.json').read_text())['rows']
    overall = {row['decoder']: row for row in rows if row['task'] is None}
    assert [row['episodes'] for row in overall.values()] == [2, 2, 2]
    assert overall['auto_relaxed']['acceptance_length'] == 3.0
    assert overall['auto_relaxed']['speedup_vs_ar'] == pytest.approx(100 / 60)
    assert overall['ar']['ros_ms_per_action']['p50'] == 2.0
    assert 'policy_node is process 1' in said and '2/2' in said
    assert not list(folder.rglob('*.part'))


def test_the_video_is_as_long_as_its_pictures(args, tmp_path):
    run(dataclasses.replace(args, tasks=(0,), out=tmp_path / 'mine'), session())
    path = tmp_path / 'mine' / 'demo.mp4'
    done = subprocess.run([video.ffmpeg(), '-i', path, '-f', 'null', '-'], capture_output=True,
                          text=True)
    # Slow motion, four actions of ar (the first in slow motion), and the last picture held.
    frames = int(done.stderr.rsplit('frame=', 1)[1].split()[0])
    assert frames == pytest.approx((5.0 + 0.3 + 2.0) * video.FPS, abs=2)
    assert 'h264' in done.stderr and 'yuv420p' in done.stderr


def test_a_crashed_episode_is_counted_apart_and_the_others_are_shown(args, tmp_path):
    assert run(args, session('crash')) == 0
    folder, = (tmp_path / 'runs').iterdir()
    rows = json.loads((folder / 'report.json').read_text())['rows']
    auto = next(row for row in rows if row['decoder'] == 'auto')
    assert (auto['episodes'], auto['crashes'], auto['actions']) == (0, 2, 0)
    assert (folder / 'demo.mp4').exists()


@pytest.mark.parametrize('out', [None, 'mine', 'deep/mine'])
def test_what_the_session_refuses_is_the_users_to_read_and_leaves_nothing(args, tmp_path, out):
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(ValueError, match='^weights: lm_head.weight is missing$'):
        run(dataclasses.replace(args, out=out and Path(out)), session('input'))
    assert sorted(tmp_path.rglob('*')) == before


def test_a_dead_node_is_exit_code_1_with_the_place_of_its_log(args, capsys):
    assert run(args, session('node')) == 1
    error = ' '.join(capsys.readouterr().err.split())
    assert 'policy_node died with SIGSEGV' in error and 'logs' in error


def test_an_interrupted_session_is_exit_code_130(args):
    assert run(args, session('interrupt')) == 130


def test_the_session_is_gone_when_its_reader_is(args, tmp_path):
    events = session('hang')({}, tmp_path).events()
    next(events)
    started = time.monotonic()
    events.close()
    assert time.monotonic() - started < 10
    running = subprocess.run(['ps', '-eo', 'args'], capture_output=True, text=True).stdout
    assert str(tmp_path) not in running


@pytest.mark.parametrize('change, message', [
    ({'suite': 'nonsense'}, "unknown suite 'nonsense'"),
    ({'tasks': (99,)}, 'has no task 99'),
    ({'tasks': ()}, 'need at least one'),
    ({'states': (50,)}, '--states 50: .* 0 to 49'),
    ({'decoder': ('x',)}, "'x', must be one of"),
    ({'threads': -1}, '--threads -1'),
    ({'max_steps': 0}, '--max-steps 0'),
    ({'json': 'no/such/x.json'}, 'there is no folder'),
    ({'out': Path('checkpoint')}, 'is not an empty folder'),
    ({'checkpoint': 'nowhere'}, 'no checkpoint folder nowhere'),
])
def test_bad_input_is_refused_before_anything_is_made(args, change, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        run(dataclasses.replace(args, **change), session())
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'runs').exists()
