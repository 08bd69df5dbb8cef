"""`specvla drift`: which evaluations it makes, how it resumes, and what it reports."""

import dataclasses
import io
import json
from pathlib import Path
import shutil

import cv2
from fake_players import FakePlayer
import pytest
from rich.console import Console

from specvla_ros.benchmark.episodes import evaluation, sweep
from specvla_ros.benchmark.episodes.plan import EvalArgs, make_plan
from specvla_ros.benchmark.episodes.sweep import DriftArgs, plans, run
from specvla_ros.benchmark.episodes.sweep_report import print_sweep, write_sweep
from specvla_ros.execution import Execution


@pytest.fixture
def args(tiny_checkpoint, tmp_path, monkeypatch):
    """One task, two states, two speeds; the checkpoint is only checked and hashed."""
    monkeypatch.chdir(tmp_path)
    return DriftArgs(tasks=(0,), trials=2, checkpoint=tiny_checkpoint, decoder=('ar', 'strict'),
                     drift=(0.0, 2.0), latency_s=('0', '0.05+0.02'))


def test_each_condition_is_an_evaluation_of_its_own(args):
    folder, runs = plans(args)
    assert [plan.folder.relative_to(folder).name for _, plan in runs] == [
        'target-0-cm-s-late-0', 'target-2-cm-s-late-0', 'target-0-cm-s-late-0.05+0.02',
        'target-2-cm-s-late-0.05+0.02']
    own, plan = runs[3]
    player = evaluation.player_of(own, plan)
    assert player.drift.m_per_s == 0.02 and player.drift.body == 'target'
    assert player.rollout.latency.pass_s == 0.02 and player.rollout.execution == Execution(1, 0)
    assert player.rollout.reference_every == 0
    assert runs[0][1].drift.m_per_s == 0 and runs[0][1].latency is None
    more = dataclasses.replace(args, drift=(0.0, 5.0), latency_s=('measured',), trials=3)
    assert plans(more)[0] == folder  # further conditions are the same run
    assert plans(dataclasses.replace(args, tasks=(1,)))[0] != folder


def test_a_narrower_drift_is_another_run(args):
    near = dataclasses.replace(args, drift_span=3.0)
    folder, runs = plans(near)
    assert folder == plans(args)[0] and runs[1][1].drift.span_m == 0.03
    assert runs[1][1].folder.name == 'target-2-cm-s-within-3-cm-late-0'


def test_steps_that_are_executed_are_a_condition_too(args):
    chunks = dataclasses.replace(args, chunk=8, execute_steps=(2, 8), drift=(1.0,))
    _, runs = plans(chunks)
    assert [(plan.execution.execute_steps, plan.folder.name) for _, plan in runs] == [
        (2, 'target-1-cm-s-late-0-steps-2'), (8, 'target-1-cm-s-late-0-steps-8'),
        (2, 'target-1-cm-s-late-0.05+0.02-steps-2'), (8, 'target-1-cm-s-late-0.05+0.02-steps-8')]


def test_two_ways_to_write_a_latency_are_played_once(args):
    assert len(plans(dataclasses.replace(args, latency_s=('0', '0.0', '0+0'), drift=(1.0,)))[1]) \
        == 1


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*'))


@pytest.mark.parametrize('change, message', [
    ({'drift': (1.0, 30.0)}, 'a drift of 30 cm/s: give 0 to 20 cm/s'),
    ({'drift': (-1.0,)}, 'a drift of -1 cm/s'), ({'drift': ()}, '--drift: give at least one'),
    ({'drift': (float('nan'),)}, 'a drift of nan cm/s'),
    ({'drift_span': 0.0}, 'turns back after 0 cm: give more than 0 cm'),
    ({'drift': (0.0,), 'drift_object': 'basket'},
     '--drift-object basket has no effect: the world stands still at --drift 0; leave it out'),
    ({'drift': (0.0, 0.0), 'drift_span': 2.0}, '--drift-span 2 has no effect: the world stands'),
    ({'latency_s': ('0', 'soon')}, "latency_s is 'soon', must be seconds"),
    ({'latency_s': ()}, '--latency-s: give at least one value'),
    ({'execute_steps': (1, 2)}, 'execute_steps is 2, must be 1,'),
    ({'decoder': ('nonsense',)}, "'nonsense', must be one of"), ({'tasks': (99,)}, 'no task 99'),
    ({'beside': (Path('nowhere'),)}, '--beside nowhere: holds no report of `specvla drift`'),
    ({'json': 'no/such/folder/x.json'}, 'there is no folder')])
def test_bad_input_is_refused_in_one_line_before_anything_is_made(args, change, message, tmp_path):
    before = files_of(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        run(dataclasses.replace(args, **change), FakePlayer(no_start='must not be started'))
    assert '\n' not in str(error.value)
    assert files_of(tmp_path) == before


def test_success_over_speed_is_reported_per_decoder_and_latency(args, tmp_path, capsys):
    assert run(dataclasses.replace(args, json=tmp_path / 'x.json'), FakePlayer()) == 0
    folder, = (tmp_path / 'runs').iterdir()
    report = json.loads((folder / 'report.json').read_text())
    assert report == json.loads((tmp_path / 'x.json').read_text())
    conditions = [(row['decoder'], row['latency_s'], row['drift_cm_per_s'], row['successes'],
                   row['episodes']) for row in report['rows']]
    assert sorted(conditions, key=str) == sorted(
        ((decoder, late, speed, 2, 2) for decoder in ('ar', 'strict')
         for late in (0, '0.05+0.02') for speed in (0.0, 2.0)), key=str)
    # FakePlayer's actions take seven passes.
    assert [row['mean_latency_s'] for row in report['rows'] if row['latency_s']] == \
        pytest.approx([0.17] * 4)
    assert all(row['verification'] == 'lossless' for row in report['rows'])
    assert (folder / 'drift.png').read_bytes().startswith(b'\x89PNG')
    printed = capsys.readouterr().out
    assert 'libero_object: target drifts, latency 0.05+0.02 s' in printed
    assert '2 of 4: target drifts at 2 cm/s, latency 0 s' in printed and '34–100 %' in printed


def test_a_finished_run_is_reported_without_playing_and_goes_on_with_further_speeds(
        args, tmp_path, capsys):
    run(args, FakePlayer())
    assert run(args, FakePlayer(no_start='must not be started')) == 0
    assert run(dataclasses.replace(args, drift=(4.0,)), FakePlayer()) == 0
    folder, = (tmp_path / 'runs').iterdir()
    assert sum(path.is_dir() for path in folder.iterdir()) == 6


def test_an_interrupted_run_goes_on_where_it_was(args, tmp_path, monkeypatch):
    played = []

    def stop(plan, make_player, console):
        played.append(plan.folder.name)
        if len(played) == 2:
            raise evaluation.Unfinished(130)
        return evaluation.finish(plan, make_player, console)

    monkeypatch.setattr(sweep, 'finish', stop)
    assert run(args, FakePlayer()) == 130
    assert len(played) == 2 and not list(tmp_path.glob('runs/*/report.json'))
    folder, = (tmp_path / 'runs').iterdir()
    (folder / played[1]).mkdir()
    (folder / played[1] / 'worker-0.log').touch()  # all that a start leaves that was stopped
    assert run(args, FakePlayer()) == 0


def test_a_run_of_another_drift_is_not_continued(args, tmp_path):
    """A folder of a condition is an evaluation's, and refuses what another one would write."""
    folder = tmp_path / 'mine'
    run(dataclasses.replace(args, out=folder), FakePlayer())
    own = EvalArgs(tasks=(0,), trials=2, checkpoint=args.checkpoint, decoder=('ar', 'strict'),
                   reference_every=0, drift=2.0, drift_object='target',
                   out=folder / 'target-2-cm-s-late-0')
    assert evaluation.run(own, FakePlayer(no_start='must not be started')) == 0
    for change, message in (
            ({'drift': 3.0}, r'config.drift.cm_per_s \(2.0, now 3.0\)'),
            ({'drift_object': 'basket'}, r"config.drift.object \('target', now 'basket'\)"),
            ({'drift_span': 3.0}, r'config.drift.span_cm \(.*, now 3.0\)'),
            ({'drift': None, 'drift_object': None}, r'config.drift \(now missing\)'),
            ({'latency_s': 'measured'}, r"config.latency_s \(None, now 'measured'\)")):
        with pytest.raises(ValueError, match=message):
            evaluation.run(dataclasses.replace(own, **change), FakePlayer())
    with pytest.raises(ValueError, match=r'config.tasks.libero_object \(\[0\], now \[1\]\)'):
        run(dataclasses.replace(args, out=folder, tasks=(1,)), FakePlayer())


def test_a_folder_of_something_else_is_not_touched(args, tmp_path):
    folder = tmp_path / 'mine'
    evaluation.run(EvalArgs(tasks=(0,), trials=1, checkpoint=args.checkpoint, decoder=('ar',),
                            out=folder), FakePlayer())
    before = files_of(folder)
    with pytest.raises(ValueError, match='holds episodes.jsonl, which is not of a run of'):
        run(dataclasses.replace(args, out=folder), FakePlayer())
    assert files_of(folder) == before


def test_one_step_is_said_in_the_singular(args, tmp_path, capsys):
    run(dataclasses.replace(args, chunk=8, execute_steps=(1,), out=tmp_path / 'run'), FakePlayer())
    printed = capsys.readouterr().out
    assert 'ar, 1 step ' in printed and '1 steps' not in printed
    assert '1 step of an' in ' '.join(printed.split())


def test_another_run_joins_the_table(args, tmp_path, capsys):
    chunks = dataclasses.replace(args, chunk=8, execute_steps=(4,), out=tmp_path / 'chunks')
    run(chunks, FakePlayer())
    ours = dataclasses.replace(args, out=tmp_path / 'one', beside=(tmp_path / 'chunks',))
    capsys.readouterr()
    assert run(ours, FakePlayer()) == 0
    printed = capsys.readouterr().out
    assert 'ar, 4 steps' in printed and '(chunks)' in printed and 'ar (one)' in printed
    rows = json.loads((tmp_path / 'one' / 'report.json').read_text())['rows']
    assert {row['run'] for row in rows} == {'one', 'chunks'}
    third = dataclasses.replace(args, out=tmp_path / 'third', beside=(tmp_path / 'one',))
    run(third, FakePlayer())  # what joined another run isn't its own
    rows = json.loads((tmp_path / 'third' / 'report.json').read_text())['rows']
    assert {row['run'] for row in rows} == {'third', 'one'}
    shutil.copytree(tmp_path / 'chunks', tmp_path / 'deep' / 'one')
    with pytest.raises(ValueError, match='there is a run one already, .*; rename one'):
        run(dataclasses.replace(ours, beside=(tmp_path / 'deep' / 'one',)), FakePlayer())


def test_the_table_fits_eighty_columns(args, tmp_path):
    names = ('ar', 'auto_relaxed', 'hybrid_kinematic', 'kerv')
    wide = dataclasses.replace(args, decoder=names, drift=(0.0, 1.0, 2.0, 4.0), chunk=8,
                               execute_steps=(4,), out=tmp_path / 'run')
    run(wide, FakePlayer())
    document = json.loads((tmp_path / 'run' / 'report.json').read_text())
    screen = io.StringIO()
    print_sweep(document, Console(file=screen, width=80))
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert 'Late: mean time\nfrom an image' in screen.getvalue()  # no line of the notes is broken
    assert 'hybrid_kinematic' in screen.getvalue() and 'kerv (unverified)' in screen.getvalue()


@pytest.mark.parametrize('speeds', [(4.0,), (0.0, 2.0)])
def test_nothing_of_the_plot_is_cut_off_at_its_sides(args, tmp_path, speeds):
    """As its legend was: of one speed and latency, with decoders of long names."""
    run(dataclasses.replace(args, out=tmp_path / 'run', drift=speeds, latency_s=('0',)),
        FakePlayer())
    document = json.loads((tmp_path / 'run' / 'report.json').read_text())
    document['rows'] = [row | {'decoder': f'glance_jacobi_{row["decoder"]}_{way}'}
                        for row in document['rows'] for way in ('relaxed', 'tolerance')]
    write_sweep(tmp_path / 'x.png', document)
    picture = cv2.imread(str(tmp_path / 'x.png'))
    assert (picture[:, :3] == 255).all() and (picture[:, -3:] == 255).all()


def test_where_no_episode_ended_nothing_is_drawn(args, tmp_path):
    run(dataclasses.replace(args, out=tmp_path / 'run'), FakePlayer())
    document = json.loads((tmp_path / 'run' / 'report.json').read_text())
    document['rows'] = [row | {'episodes': 0, 'successes': 0, 'mean_latency_s': None}
                        for row in document['rows']]
    write_sweep(tmp_path / 'x.png', document)
    assert not (tmp_path / 'x.png').exists()
    print_sweep(document, Console(file=io.StringIO()))


def test_a_drift_is_part_of_an_evaluation_and_stands_in_its_tables(args, tmp_path, capsys):
    own = EvalArgs(tasks=(0,), trials=1, checkpoint=args.checkpoint, decoder=('ar',), drift=2.0,
                   drift_object='basket', latency_s=0.25)
    still = dataclasses.replace(own, drift=None, drift_object=None)
    assert make_plan(own).folder != make_plan(still).folder
    assert 'drift' not in make_plan(still).config  # older runs without one go on
    assert evaluation.run(own, FakePlayer()) == 0
    assert 'basket drifts at 2 cm/s, latency 0.25 s' in capsys.readouterr().out
    for lonely, message in (({'drift_object': 'basket'}, '--drift-object basket has no effect'),
                            ({'drift_span': 2.0}, '--drift-span 2 has no effect: the world')):
        with pytest.raises(ValueError, match=message):
            make_plan(dataclasses.replace(still, **lonely))
        with pytest.raises(ValueError, match=f'{message.split(":")[0]}: .* at --drift 0'):
            make_plan(dataclasses.replace(still, drift=0.0, **lonely))


def test_real_simulator_on_a_tiny_checkpoint(args, tmp_path):
    """Three steps in LIBERO while the target drifts, in a real worker."""
    from specvla_ros.libero.assets import AssetError, installed_assets

    try:
        installed_assets()
    except AssetError:
        pytest.skip('the LIBERO assets are not here')
    real = dataclasses.replace(args, trials=1, decoder=('ar',), drift=(4.0,), max_steps=3,
                               latency_s=('measured',), threads=1, out=tmp_path / 'run')
    assert run(real) == 0
    row, = json.loads((tmp_path / 'run' / 'report.json').read_text())['rows']
    assert (row['episodes'], row['crashes']) == (1, 0) and row['mean_latency_s'] > 0
    assert row['steps'] <= 3
