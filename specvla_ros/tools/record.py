"""
`specvla record`: ROS 2 topics → a rosbag2 folder, until Ctrl-C.

The recording runs in a process of its own (`nodes/bag_recorder.py`), which keeps rclpy out of this
one. Ctrl-C and SIGTERM are handed on to it: it completes the bag and says so.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from dataclasses import dataclass
import json
from pathlib import Path
import re
import signal
import subprocess
import sys
import tempfile
from typing import Any, Literal

from rich.console import Console
from rich.live import Live
from rich.text import Text

from specvla_ros import files
from specvla_ros.bags.writer import check_free, check_name
from specvla_ros.benchmark import report
from specvla_ros.benchmark.session import fatal_line
from specvla_ros.errors import SpecVLAError
from specvla_ros.hashing import files_sha256
from specvla_ros.writable import check_writable

MODULE = 'specvla_ros.nodes.bag_recorder'
TOPICS = ('/image', '/instruction', '/joint_states', '/eef_pose', '/episode', '/action',
          '/decode_report')
BAD_INPUT = 2
_LOG = 'recorder.log'
# ROS 2's: words of letters, digits and _, a digit never first, / between them.
_TOPIC = re.compile(r'(~?/)?[A-Za-z_]\w*(/[A-Za-z_]\w*)*', re.ASCII)


@dataclass(frozen=True, slots=True)
class RecordArgs:
    """Record ROS 2 topics into a rosbag2 folder, until Ctrl-C."""

    out: Path
    """Folder the bag will be; it must not exist. Until it is complete it is called OUT.part."""
    topics: tuple[str, ...] = TOPICS
    """Topics of any type; one that isn't there yet is recorded as soon as it is. Default: those of
    policy_node and libero_bridge_node."""
    storage: Literal['mcap', 'sqlite3'] = 'mcap'
    """Format of the file inside."""
    seconds: float | None = None
    """Stop after this many seconds. Default: at Ctrl-C."""
    json: Path | None = None
    """Also write what was recorded here, for machines."""


def run(args: RecordArgs) -> int:
    """
    Record, and say what was recorded.

    :returns: the exit code
    :raises ValueError: bad input, in one line
    """
    _check(args)
    console = Console()
    done, message, code = None, '', 0
    with tempfile.TemporaryDirectory(prefix='specvla-') as folder:
        with _recorder(args, Path(folder)) as process, Live(
                console=console, transient=True, auto_refresh=False) as live:
            for line in process.stdout:
                event = json.loads(line)
                if event['event'] == 'progress':
                    live.update(Text(_progress(event)), refresh=console.is_terminal)
                elif event['event'] == 'topic':
                    live.console.print(f'recording {event["name"]} ({event["type"]})',
                                       highlight=False, markup=False, soft_wrap=True)
                elif event['event'] == 'note':
                    live.console.print(event['message'], style='yellow', highlight=False,
                                       markup=False, soft_wrap=True)
                elif event['event'] == 'error':
                    message = event['message']
                else:
                    done = event
            code = process.wait()
        message = message or fatal_line(Path(folder) / _LOG)
    if code == BAD_INPUT:
        raise SpecVLAError(message)
    if code or done is None:
        Console(stderr=True).print(
            f'error: {message or _died(args, code)}', markup=False, highlight=False,
            soft_wrap=True)
        return code if code > 0 else 1
    _tell(args, done, console)
    return 0


def _check(args: RecordArgs) -> None:
    files.check_json_path(args.json)
    if not args.topics:
        raise SpecVLAError('--topics needs at least one name')
    for name in args.topics:
        if not _TOPIC.fullmatch(name):
            raise SpecVLAError(f'--topics {name!r} is no topic name: words of letters, digits and '
                               '_, none beginning with a digit, with / between them')
    if args.seconds is not None and not args.seconds > 0:
        raise SpecVLAError(f'--seconds {args.seconds:g}: give more than 0')
    check_free(args.out)
    check_name(args.out, args.storage)
    check_writable('--out', args.out)


@contextlib.contextmanager
def _recorder(args: RecordArgs, folder: Path) -> Iterator[subprocess.Popen]:
    """Start the recorder; hand signals to stop on to it."""
    specification = folder / 'specification.json'
    specification.write_text(json.dumps({
        'out': str(args.out.resolve()), 'topics': list(args.topics), 'storage': args.storage,
        'seconds': args.seconds}))
    with open(folder / _LOG, 'wb') as log:
        process = subprocess.Popen(
            [sys.executable, '-m', MODULE, '--spec', str(specification)], text=True,
            stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)

    def stop(*_: object) -> None:
        process.send_signal(signal.SIGINT)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
        process.stdout.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _died(args: RecordArgs, code: int) -> str:
    return (f'the recorder ended with exit code {code}; what was written until then is in '
            f'{args.out}.part and can be replayed')


def _progress(event: dict[str, Any]) -> str:
    counts = ', '.join(f'{name} {count}' for name, count in event['counts'].items())
    return f'{event["seconds"]:.0f} s: {counts or "waiting for the first topic"}'


def _tell(args: RecordArgs, done: dict[str, Any], console: Console) -> None:
    for name in args.topics:
        count = done['counts'].get(name if name.startswith('/') else f'/{name}', 0)
        console.print(f'{count:8} {name}', highlight=False, markup=False,
                      style=None if count else 'yellow')
    console.print(f'{sum(done["counts"].values())} messages in {done["seconds"]:.1f} s',
                  highlight=False)
    console.print(str(args.out), style='cyan', highlight=False, markup=False,
                  soft_wrap=True)
    if args.json is not None:
        document = report.report(sys.argv, {
            'ros': True, 'topics': list(args.topics), 'storage': args.storage,
            'seconds': args.seconds}, {}, [])
        stored = sorted(path for path in args.out.iterdir() if path.suffix != '.yaml')
        document['bag'] = {'path': str(args.out), 'sha256': files_sha256(stored),
                           'duration_s': done['seconds'], 'messages': done['counts']}
        files.write_json(args.json, document)
