"""Starts the tests of `another_device.py`, in a process of their own."""

from pathlib import Path
import subprocess
import sys


def test_decoding_on_another_device():
    tests = Path(__file__).with_name('another_device.py')
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', str(tests)],
        capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert ' passed' in done.stdout and 'skipped' not in done.stdout, done.stdout
