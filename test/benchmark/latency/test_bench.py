"""`specvla bench`: what it refuses, and whole runs on tiny random checkpoints."""

import dataclasses
import io
import json
import math
import shutil

import numpy as np
import pytest
from rich.console import Console
import torch

from specvla_ros.benchmark.latency import report as bench_report
from specvla_ros.benchmark.latency.bench import BenchArgs, PEERS, run
from specvla_ros.benchmark.latency.peers import GeneratePeer, GENERATIONS
from specvla_ros.benchmark.latency.report import ratio_interval
from specvla_ros.benchmark.observations import made_up
from specvla_ros.configuration import load_preset, preset_names
from specvla_ros.decoding.drafters import GlanceConfig, GlanceHead
from specvla_ros.openvla.model import OpenVLA


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Ceilings from one look, and everything written into a folder of the test."""
    monkeypatch.setattr('specvla_ros.benchmark.latency.roofline._SECONDS', 0.01)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def frames(tmp_path):
    path = tmp_path / 'frames.npz'
    np.savez(path, images=np.stack(made_up(3).frames), instruction='pick up the milk')
    return path


@pytest.fixture
def args(tiny_checkpoint, frames, tmp_path):
    return BenchArgs(checkpoint=tiny_checkpoint, frames=frames, device='cpu', threads=1,
                     out=tmp_path / 'run', peer=('generate',))


@pytest.fixture
def random(tiny_checkpoint, tmp_path):
    return BenchArgs(random_weights=True, shape=str(tiny_checkpoint), observations=2, repeats=2,
                     device='cpu', threads=1, out=tmp_path / 'run')


@pytest.mark.parametrize('change, message', [
    ({'decoder': ('nonsense',)}, r"'nonsense', must be one of .*ar.*relaxed.*strict"),
    ({'decoder': ('ar', 'ar')}, 'there is a decoder ar already'),
    ({'peer': ('vllm',)}, '--peer vllm: must be one of generate, generate-sdpa, generate-comp'),
    ({'peer': ('generate', 'generate')}, 'name each once'),
    ({'observations': 0}, '--observations 0: give 1 or more'),
    ({'repeats': 0}, '--repeats 0: give 1 or more'),
    ({'threads': 0}, '--threads 0'),
    ({'seed': -1}, '--seed -1'), ({'seed': 2**32}, '--seed 4294967296: give 0 to'),
    ({'json': 'no/such/folder/x.json'}, 'there is no folder'),
    ({'checkpoint': 'nowhere'}, 'no checkpoint folder nowhere'),
    ({'drafter': 'nowhere'}, 'no drafter folder nowhere'),
    ({'shape': 'embedded'}, '--shape embedded has no effect: it is about --random'),
    ({'accept_from': 'libero_goal'}, '--accept-from libero_goal has no effect'),
    ({'random_weights': True}, '--checkpoint .* has no effect: with --random-weights none'),
    ({'suite': 'libero_goal'}, '--suite libero_goal has no effect: LIBERO is not played'),
    ({'tasks': (1, 2)}, '--tasks 1 2 has no effect: LIBERO is not played with --frames; leave it'),
    ({'frames': None, 'suite': 'libero_objects'}, "unknown suite 'libero_objects'"),
    ({'frames': None, 'tasks': (12,)}, 'libero_object has no task 12'),
    ({'frames': None, 'instruction': 'pick up'}, '--instruction pick up has no effect: it'),
    ({'device': 'tpu9'}, "device is 'tpu9', must be"),
    ({'dtype': 'int8'}, "dtype is 'int8', must be one of"),
])
def test_bad_input_is_refused_in_one_line_before_anything_is_made(args, change, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        run(dataclasses.replace(args, **change))
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'run').exists()


def test_a_chunk_has_figures_per_control_step(args, tmp_path, frames, capsys):
    np.savez(frames, images=np.stack(made_up(9).frames), instruction='pick up the milk')
    args = dataclasses.replace(args, chunk=8, execute_steps=4, decoder=('history',), peer=(),
                               json=tmp_path / 'x.json')
    assert run(args) == 0
    document = json.loads((tmp_path / 'x.json').read_text())
    assert (document['config']['chunk'], document['config']['execute_steps']) == (8, 4)
    for row in document['rows']:
        assert row['actions'] == 2 * 3  # of 9 frames each fourth, twice
        assert row['steps'] == 4 * row['actions']
        assert row['ms_per_step']['mean'] == pytest.approx(row['ms_per_action']['mean'] / 4)
        assert row['target_passes_per_step'] == row['target_passes_per_action'] / 4
    assert document['rows'][0]['target_passes_per_action'] == 56
    assert 'per control step, 4 of 8 executed' in capsys.readouterr().out


@pytest.mark.parametrize('execute_steps', [0, 9])
def test_more_steps_than_an_action_has_are_refused(args, random, execute_steps):
    for bad in (args, random):
        with pytest.raises(ValueError, match=f'execute_steps is {execute_steps}, must be from 1'):
            run(dataclasses.replace(bad, chunk=8, execute_steps=execute_steps))


def test_frames_that_are_not_there_are_refused(args, tmp_path):
    with pytest.raises(ValueError, match='none.npz: no such folder or file'):
        run(dataclasses.replace(args, frames=tmp_path / 'none.npz'))


@pytest.mark.parametrize('change, message', [
    ({'suite': 'libero_goal'}, '--suite libero_goal has no effect: random weights look at'),
    ({'tasks': (1,)}, '--tasks 1 has no effect'),
    ({'instruction': 'pick up'}, '--instruction pick up has no effect'),
    ({'unnorm_key': 'libero'}, '--unnorm-key libero has no effect'),
    ({'accept_from': 'libero_moon'}, 'must be one of libero_goal'),
    ({'shape': '8b'}, '--shape 8b: must be 7b or embedded'),
    ({'decoder': ('history',)}, r'history drafts with velocity\+history\+jacobi; the table'),
])
def test_random_weights_refuse_what_they_cannot_be(random, change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(dataclasses.replace(random, **change))
    assert not (tmp_path / 'run').exists()


def test_a_run_leaves_a_report_and_two_plots(args, tmp_path, capsys):
    assert run(dataclasses.replace(args, json=tmp_path / 'x.json')) == 0
    report = json.loads((tmp_path / 'run' / 'report.json').read_text())
    assert report == json.loads((tmp_path / 'x.json').read_text())
    rows = {row['decoder']: row for row in report['rows']}
    assert list(rows) == ['ar', 'auto', 'auto_relaxed', 'generate']
    assert all(row['actions'] == 3 * 2 for row in rows.values())
    for name in ('stages.png', 'roofline.png'):
        assert (tmp_path / 'run' / name).read_bytes().startswith(b'\x89PNG')
    printed = capsys.readouterr().out
    assert 'generate' in printed and 'projected' not in printed and 'GB/s' in printed


def test_rows_say_how_each_stands_against_ar_and_against_the_floor(args, tmp_path):
    run(args)
    report = json.loads((tmp_path / 'run' / 'report.json').read_text())
    rows = {row['decoder']: row for row in report['rows']}
    assert rows['ar']['speedup_vs_ar'] == 1 and rows['ar']['target_passes_per_action'] == 7
    assert rows['auto']['tokens_equal_ar'] == {'actions': 6, 'actions_equal': 6}
    for row in rows.values():
        floors = row['floor_ms']
        assert floors['total'] == pytest.approx(sum(floors.values()) - floors['total'])
        assert row['times_floor'] > 0
    low, high = rows['generate']['speedup_interval']
    assert low <= rows['generate']['speedup_vs_ar'] <= high
    assert rows['ar']['passes']['verify']['passes'] == 6 * 6
    assert rows['generate']['passes'].keys() == {'vision', 'generate'}
    assert report['peak_memory_mib'] > 100


@pytest.mark.parametrize('kind', ['int8', 'int4'])
def test_ar_and_the_peers_are_quantised_alike_and_the_report_says_how(args, kind, tmp_path,
                                                                      capsys):
    run(dataclasses.replace(args, quantization=kind))
    report = json.loads((tmp_path / 'run' / 'report.json').read_text())
    rows = {row['decoder']: row for row in report['rows']}
    assert report['config']['quantization'] == kind and not report['left_out']
    weights = report['weights']
    assert weights['bytes'] < weights['unquantized_bytes']
    assert f'MB as {kind}' in ' '.join(capsys.readouterr().out.split())
    # What a pass reads is what is stored.
    read = {name: row['passes'].get('verify', row['passes'].get('generate'))['bytes']
            for name, row in rows.items()}
    run(dataclasses.replace(args, dtype='bfloat16' if kind == 'int4' else None))
    plain = json.loads((tmp_path / 'run' / 'report.json').read_text())['rows'][0]
    saved = weights['unquantized_bytes'] - weights['bytes']
    assert read['ar'] == pytest.approx(plain['passes']['verify']['bytes'] - saved)


def test_random_weights_can_be_quantised(random, tmp_path):
    run(dataclasses.replace(random, quantization='int4'))
    config = json.loads((tmp_path / 'run' / 'report.json').read_text())['config']
    assert (config['quantization'], config['dtype']) == ('int4', 'bfloat16')


def test_random_weights_are_a_projection_and_say_so(random, tmp_path, capsys):
    assert run(dataclasses.replace(random, peer=('generate',))) == 0
    report = json.loads((tmp_path / 'run' / 'report.json').read_text())
    assert report['config']['acceptance'].startswith('Spec-VLA, arXiv 2507.22424, Table 2')
    assert report['checkpoint']['target_sha256'] is None
    assert 'acceptance drawn, speed projected' in capsys.readouterr().out
    rows = {row['decoder']: row for row in report['rows']}
    assert rows['ar']['acceptance_length'] == 1 and rows['relaxed']['acceptance_length'] > 1
    # The tokens of a drawn acceptance mean nothing; generate must say what ar says.
    assert 'tokens_equal_ar' not in rows['relaxed'] and 'max_bin_error' not in rows['relaxed']
    assert rows['generate']['tokens_equal_ar'] == {'actions': 4, 'actions_equal': 4}
    assert rows['generate']['actions_with_text_tokens'] == 0


def test_ar_takes_part_even_if_it_is_not_named(random, tmp_path):
    run(dataclasses.replace(random, decoder=('relaxed',)))
    report = json.loads((tmp_path / 'run' / 'report.json').read_text())
    assert [row['decoder'] for row in report['rows']] == ['ar', 'relaxed']


def test_a_peer_that_does_not_work_here_is_left_out_with_its_reason(args, monkeypatch, tmp_path,
                                                                    capsys):
    def fail(self, image, instruction):
        raise RuntimeError('no compiler here\nand much more')

    monkeypatch.setattr(GeneratePeer, 'act', fail)
    assert run(args) == 0
    assert 'generate is left out: RuntimeError: no compiler here\n' in capsys.readouterr().out
    report = json.loads((tmp_path / 'run' / 'report.json').read_text())
    assert 'generate' not in {row['decoder'] for row in report['rows']}


def test_a_decoder_that_fails_is_no_peer_to_leave_out(args, monkeypatch):
    monkeypatch.setattr('specvla_ros.policy.Policy.act', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(args)


def test_the_tables_fit_eighty_columns(args, tmp_path):
    run(args)
    document = json.loads((tmp_path / 'run' / 'report.json').read_text())
    document['rows'][-1]['decoder'] = 'generate-compiled'  # the longest there is
    for milliseconds in (9.87, 98.7, 987.0, 9870.0, 98700.0):  # a 7B on a CPU takes seconds
        for row in document['rows']:
            for times in (row['ms_per_action'], row['stage_ms']):
                times.update(dict.fromkeys(times, milliseconds))
        text = io.StringIO()
        bench_report.print_tables(document, Console(file=text, width=80))
        assert '…' not in text.getvalue() and bench_report._ms(milliseconds) in text.getvalue()
        assert max(map(len, text.getvalue().splitlines())) <= 80
        assert milliseconds > 10_000 or 'generate-compiled' in text.getvalue()


def test_the_interval_of_a_ratio_comes_from_pairs():
    random = np.random.default_rng(0)
    base = random.uniform(50, 150, 40)  # observations differ threefold, the ratio hardly
    low, high = ratio_interval(base, base / 2 + random.normal(0, 0.2, 40), seed=1)
    assert low <= 2 <= high and high - low < 0.02
    assert ratio_interval(base, base, seed=1) == (1, 1)


def test_every_peer_the_help_names_is_there():
    assert set(PEERS) == set(GENERATIONS)


@pytest.fixture(scope='module')
def all_weights(tiny_checkpoint, tmp_path_factory):
    """The tiny checkpoint with the weights of every drafter but a database for retrieval."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp('all') / 'checkpoint')
    drafters = folder / 'drafters'
    drafters.mkdir()
    shutil.move(folder / 'drafter', drafters / 'eagle')
    model = OpenVLA.from_pretrained(folder, torch.device('cpu'), torch.float32)
    GlanceHead(GlanceConfig.like(model, 7, rank=2, width=4)).save_pretrained(drafters / 'glance')
    return folder


def test_all_presets_run_side_by_side(args, all_weights, tmp_path, capsys):
    """Spec-VLA's settings, KERV's, HeiSD's and all others on the same frames, in one command."""
    names = preset_names()
    args = dataclasses.replace(args, checkpoint=all_weights, decoder=tuple(names), peer=(),
                               repeats=2)
    assert run(args) == 0
    report = json.loads((tmp_path / 'run' / 'report.json').read_text())
    rows = {row['decoder']: row for row in report['rows']}
    assert set(rows) == {load_preset(name).name for name in names}
    assert {name for name, row in rows.items() if row['verification'] == 'unverified'} == {
        'kerv (unverified)', 'heisd (unverified)'}
    for name, row in rows.items():
        assert row['actions'] == 6 and math.isfinite(row['times_floor'])
        if row['verification'] == 'lossless' and name != 'ar':
            assert row['tokens_equal_ar'] == {'actions': 6, 'actions_equal': 6}, name
    # Frames come again in the second round: HeiSD knows them and passes the target by.
    assert rows['heisd (unverified)']['unverified'] > 0
    assert not any(row['unverified'] for name, row in rows.items() if 'unverified' not in name)
    document = io.StringIO()
    bench_report.print_tables(report, Console(file=document, width=80))
    assert '…' not in document.getvalue()
    assert 'heisd' in capsys.readouterr().out


def test_a_preset_whose_weights_are_missing_is_one_line_that_says_what_to_do(args):
    with pytest.raises(ValueError, match=r'decoder glance drafts with glance, .*`specvla train'):
        run(dataclasses.replace(args, decoder=('strict', 'glance')))


@pytest.mark.parametrize('name', ['kerv', 'kerv (unverified)'])
def test_what_is_completed_is_not_projected(random, name):
    with pytest.raises(ValueError, match='takes tokens without a pass'):
        run(dataclasses.replace(random, decoder=(name,)))


def test_an_action_without_a_pass_has_a_cost_and_a_floor(args, monkeypatch, tmp_path):
    """All actions after the first: only the vision towers are left of their floor."""
    path = tmp_path / 'skips.yaml'
    path.write_text('drafter: {name: none}\nrule: {name: strict}\ncompletion: {drafter: '
                    '{name: retrieval, memory: 16}, every: 1, skip_above: 0.01}\n')
    args = dataclasses.replace(args, decoder=('ar', str(path)), peer=())
    assert run(args) == 0
    report = json.loads((tmp_path / 'run' / 'report.json').read_text())
    row = report['rows'][1]
    assert row['decoder'] == 'skips (unverified)' and row['actions_without_pass'] > 0
    assert row['floor_ms']['total'] < report['rows'][0]['floor_ms']['total']
    assert row['stage_ms']['prefill'] < report['rows'][0]['stage_ms']['prefill']


def test_with_the_real_simulator(tiny_checkpoint, tmp_path):
    from specvla_ros.libero.assets import AssetError, installed_assets

    try:
        installed_assets()
    except AssetError:
        pytest.skip('the LIBERO assets are not here')
    args = BenchArgs(checkpoint=tiny_checkpoint, tasks=(0,), observations=2, repeats=1,
                     decoder=('ar', 'history'), device='cpu', threads=1, out=tmp_path / 'run')
    assert run(args) == 0
    report = json.loads((tmp_path / 'run' / 'report.json').read_text())
    rows = {row['decoder']: row for row in report['rows']}
    assert {row['suite'] for row in rows.values()} == {'libero_object'}
    # The first observation of an episode has no history, the second one has.
    assert rows['history']['actions'] == 2 and rows['history']['drafted'] > 0
    assert rows['history']['tokens_equal_ar'] == {'actions': 2, 'actions_equal': 2}
