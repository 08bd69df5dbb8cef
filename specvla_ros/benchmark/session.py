"""
Start the demo session and follow it: a process that plays episodes through real ROS 2 nodes.

Its specification, events and files are described at the top of `nodes/sessions/demo.py`. It is a
process of its own because rclpy must stay out of this one.
"""

from collections.abc import Iterator
import json
from pathlib import Path
import re
import signal
import subprocess
import sys
from typing import Any

from specvla_ros.benchmark.interrupt import INTERRUPTED
from specvla_ros.errors import SpecVLAError

MODULE = 'specvla_ros.nodes.sessions.demo'
BAD_INPUT = 2
# The session ends its two nodes first; a simulator under load needs a moment.
GOODBYE_S = 20.0
_FATAL = re.compile(r'^\[FATAL\] \[[\d.]+\] \[[^]]*\]: (.+)$', re.MULTILINE)


class SessionDied(RuntimeError):
    """A node died or never came up; the message says which and where its log is."""


class DemoSession:
    """Runs one session and hands on its events."""

    def __init__(self, specification: dict[str, Any], folder: Path,
                 command: tuple[str, ...] = (sys.executable, '-m', MODULE)) -> None:
        """
        Write the specification into the run's folder.

        :param command: what to start; replaced in tests
        """
        self._folder = folder
        self._specification = folder / 'specification.json'
        self._specification.write_text(json.dumps(specification, indent=1) + '\n')
        self._log = folder / 'session.log'
        self._command = [*command, '--spec', str(self._specification), '--out', str(folder)]

    def events(self) -> Iterator[dict[str, Any]]:
        """
        Start the session and yield its events until it is done.

        However this ends, the session and its nodes are gone afterwards.

        :raises SpecVLAError: the session refused its input
        :raises SessionDied: a node died or never came up
        :raises KeyboardInterrupt: it was interrupted
        """
        message = None
        with open(self._log, 'wb') as log:
            process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log,
                                       stdin=subprocess.DEVNULL, text=True)
            assert process.stdout is not None  # a pipe
            try:
                for line in process.stdout:
                    event = json.loads(line)
                    if event['event'] == 'error':
                        message = event['message']
                    yield event
                code = process.wait()
            finally:
                _end(process)
        if code == 0:
            return
        if code in (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
            raise KeyboardInterrupt
        if code == BAD_INPUT and message:
            raise SpecVLAError(message)
        if code == BAD_INPUT and (said := fatal_line(self._log)):  # before it could say events
            raise SpecVLAError(said)
        raise SessionDied(f'{message or f"the demo session ended with exit code {code}"}; '
                          f'see {self._log} and {self._folder / "logs"}')


def fatal_line(log: Path) -> str:
    """Return the text of the last fatal line in a ROS log; '' if there is none."""
    found = _FATAL.findall(log.read_text(errors='replace'))
    return found[-1] if found else ''


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=GOODBYE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
