"""What a check of `specvla doctor` finds, and how a check runs where it can crash alone."""

from dataclasses import dataclass
import os
from pathlib import Path
import re
import subprocess
import sys
import tempfile

TIMEOUT_S = 180.0


@dataclass(frozen=True, slots=True)
class Finding:
    """
    The result of a check.

    :param state: `ok`, `missing` (the demo needs it) or `note` (works without)
    :param todo: what the user can do about it, empty where nothing is to do
    """

    name: str
    state: str
    detail: str
    todo: str = ''


def try_script(name: str, script: str, todo: str, *arguments: str) -> Finding:
    """Run a script in a process of its own; the last line it prints is the finding's detail."""
    with tempfile.TemporaryDirectory(prefix='specvla-doctor-') as folder:
        path = Path(folder) / 'check.py'
        path.write_text(script)
        # The package must be found from a source root as well as when it is installed.
        root = str(Path(__file__).resolve().parents[2])
        known = os.environ.get('PYTHONPATH')
        environment = os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, (root, known)))}
        try:
            done = subprocess.run([sys.executable, str(path), *arguments], capture_output=True,
                                  text=True, timeout=TIMEOUT_S, env=environment)
        except subprocess.TimeoutExpired:
            return Finding(name, 'missing', f'no answer within {TIMEOUT_S:.0f} s', todo)
    if done.returncode == 0:
        return Finding(name, 'ok', (done.stdout.strip().splitlines() or [''])[-1])
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    reason = said[-1] if said else f'ended with exit code {done.returncode}'
    reason = re.sub(r'^specvla_ros[.\w]*: ', '', reason)  # our own errors need no class name
    return Finding(name, 'missing', reason, todo)
