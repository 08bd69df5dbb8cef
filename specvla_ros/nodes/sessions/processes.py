"""Node processes of a session: start them, see how they are, and leave none behind."""

from __future__ import annotations

from collections.abc import Mapping
import ctypes
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
from typing import Any

import yaml

from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes.runtime import EXIT_BAD_INPUT

_SIGINT_PATIENCE = 10.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# ROS 2's mapping of domains to UDP ports, and the domains that stay below Linux's ephemeral ones.
_FIRST_PORT, _PORTS_PER_DOMAIN, _DISCOVERY_UNICAST = 7400, 250, 10
_DOMAINS = range(1, 102)


class NodeProcess:
    """
    One of our nodes as a child process, its output in a log file.

    It runs in a session of its own, so that Ctrl-C in a terminal reaches only us, and dies with
    us, whatever we die of.

    :param module: like `specvla_ros.nodes.policy_node.node`
    :param parameters: written to `<folder>/<name>.yaml`, where the log `<name>.log` goes as well
    """

    def __init__(self, name: str, module: str, parameters: Mapping[str, Any], folder: Path,
                 environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = folder / f'{name}.log'
        settings = folder / f'{name}.yaml'
        settings.write_text(yaml.safe_dump({'/**': {'ros__parameters': dict(parameters)}}))
        libc = ctypes.CDLL(None)
        with open(self.log, 'wb') as log:
            self._process = subprocess.Popen(
                [sys.executable, '-m', module, '--ros-args', '--params-file', str(settings)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=dict(environment), start_new_session=True,
                preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM))

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that killed it."""
        return self._process.poll()

    def check(self) -> None:
        """
        See that it runs.

        :raises SpecVLAError: it has ended on bad input, in its own words
        :raises RuntimeError: it has ended otherwise
        """
        if self.exit_code is None:
            return
        reason = self.last_line('FATAL') or f'see {self.log}'
        if self.exit_code == EXIT_BAD_INPUT:
            raise SpecVLAError(reason)
        raise RuntimeError(
            f'the {self.name} process ended with exit code {self.exit_code}: {reason}')

    def last_line(self, level: str) -> str:
        """Return the text of the last log line of a level ('ERROR', 'FATAL'), '' if none."""
        for line in reversed(self.log.read_text(errors='replace').splitlines()):
            if line.startswith(f'[{level}]'):
                return line.split(': ', 1)[-1]
        return ''

    def stop(self) -> None:
        """End it: Ctrl-C first, then by force; return when it is gone."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_SIGINT_PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


def free_domain() -> int:
    """
    Return a ROS domain that is free on this machine, so that a session meets no other nodes.

    A domain is in use where the UDP port of its first participant is taken.
    """
    start = os.getpid() % len(_DOMAINS)
    for domain in (*_DOMAINS[start:], *_DOMAINS[:start]):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(('', _FIRST_PORT + _PORTS_PER_DOMAIN * domain + _DISCOVERY_UNICAST))
            except OSError:
                continue
            return domain
    raise RuntimeError('every ROS domain from 1 to 101 is in use on this machine')
