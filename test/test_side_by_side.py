"""`pytest -n 2`: most tests run side by side, those marked `alone` after them, in one run."""
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

import pytest

TESTS = """
import os, time
import pytest

def log(name):
    with open(os.environ['LOG'], 'a') as file:
        print(name, os.environ.get('PYTEST_XDIST_WORKER', 'first'), os.environ['ROS_DOMAIN_ID'],
              file=file)

@pytest.mark.alone
def test_marked():
    log('marked')

@pytest.fixture
def probe():
    return 1

def test_with_the_probe(probe):
    log('probe')
    assert WITH_THE_PROBE

@pytest.mark.parametrize('number', range(3))
def test_beside_others(number):
    time.sleep(0.2)
    log('beside')
    assert BESIDE_OTHERS
"""


def run(folder, beside_others=True, with_the_probe=True, options=('-n', '2')):
    """Run the tests above; return exit code, pytest's last line and what they logged."""
    shutil.copy(Path(__file__).with_name('conftest.py'), folder)
    (folder / 'pytest.ini').write_text('[pytest]\nmarkers = alone: x\n')
    for name in ('test_a', 'test_b'):
        (folder / f'{name}.py').write_text(TESTS.replace(
            'BESIDE_OTHERS', str(beside_others)).replace('WITH_THE_PROBE', str(with_the_probe)))
    environment = {'LOG': str(folder / 'log'), **{
        name: value for name, value in os.environ.items()
        if name not in ('ROS_DOMAIN_ID', 'PYTEST_XDIST_WORKER', 'PYTEST_ADDOPTS')}}
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *options, str(folder)],
        capture_output=True, text=True, cwd=folder, env=environment)
    words = (folder / 'log').read_text().splitlines()
    return done.returncode, done.stdout.splitlines()[-1], [line.split() for line in words]


def test_the_lonely_run_last_in_the_first_process_and_are_in_the_same_summary(tmp_path):
    code, summary, log = run(tmp_path)
    assert code == 0 and re.match(r'10 passed in', summary)
    beside, lonely = log[:6], log[6:]
    assert {worker for _, worker, _ in beside} == {'gw0', 'gw1'}
    assert [(name, worker) for name, worker, _ in lonely] == [
        ('marked', 'first'), ('probe', 'first')] * 2
    assert {domain for *_, domain in beside} == {'mark-the-test-alone'}
    (domain,) = {domain for *_, domain in lonely}
    assert 1 <= int(domain) <= 101


@pytest.mark.parametrize('failing, failed', [
    ({'beside_others': False}, 6), ({'with_the_probe': False}, 2)])
def test_both_parts_run_and_either_can_fail_the_run(failing, failed, tmp_path):
    code, summary, log = run(tmp_path, **failing)
    assert code == 1 and summary.startswith(f'{failed} failed, {10 - failed} passed in')
    assert len(log) == 10


def test_without_workers_all_run_in_the_order_of_their_files(tmp_path):
    code, summary, log = run(tmp_path, options=())
    assert code == 0 and summary.startswith('10 passed in')
    assert [name for name, *_ in log] == ['marked', 'probe', 'beside', 'beside', 'beside'] * 2
