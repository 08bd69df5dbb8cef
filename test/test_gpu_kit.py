"""The GPU kit's steps run on a CPU with the small model: they read what a decoder has inside."""

import json
import os
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[1]
KIT = ROOT / 'scripts' / 'gpu'


def run(step, report, *words):
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(
        [sys.executable, KIT / 'steps' / step, '--device', 'cpu', '--json', report, *words],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(Path(report).read_text())


def test_passes_are_measured(tmp_path):
    found = run('passes.py', tmp_path / 'passes.json', '--shape', 'embedded', '--dtype',
                'float32', '--passes-only')
    passes = found['passes']
    assert {'vision', 'prefill', 'prefill, 55 guesses', 'single token', 'verify 49 nodes',
            'accept of 49 nodes', 'draft of 5 levels'} <= set(passes)
    assert all(row['host_ms'] > 0 and row['kernels'] > 0 for row in passes.values())


def test_chunks_take_the_passes_they_are_to_take(tmp_path):
    found = run('chunks.py', tmp_path / 'chunks.json', '--shape', 'embedded', '--dtype',
                'float32', '--actions', '2')['chunks']
    assert {name: row['passes'] for name, row in found.items()} == {
        'L = 7, ar': 7, 'L = 7, 1 pass': 1, 'L = 7, 4 passes': 4,
        'L = 56, ar': 56, 'L = 56, 1 pass': 1, 'L = 56, 4 passes': 4}
    for name, row in found.items():
        assert 0 < row['floor_ms'] and 0 < row['ms'] <= row['p95_ms']
        assert row['ms_per_step'] == pytest.approx(row['ms'] / (8 if 'L = 56' in name else 1))


def test_tokens_of_the_bag_are_held_against_a_reference(tmp_path):
    decoders = ['--decoders', 'ar', 'glance_relaxed', '--most', '3']
    first, second = tmp_path / 'first.json', tmp_path / 'second.json'
    tokens = run('bag.py', first, *decoders)['float32']['ar']['tokens']
    assert [len(action) for action in tokens] == [7, 7, 7]
    found = run('bag.py', second, *decoders, '--reference', first)['float32']
    assert {name: row['equal'] for name, row in found.items()} == {'ar': 3, 'glance_relaxed': 3}


@pytest.mark.parametrize('script', ['prepare.sh', 'gpu_run.sh'])
def test_scripts_are_whole(script):
    subprocess.run(['bash', '-n', KIT / script], check=True)
