"""
`specvla top`: how a running policy node fares, live in the terminal.

The listener runs in a process of its own (`nodes/top_node.py`), which keeps rclpy out of this one.
"""

from __future__ import annotations

from dataclasses import dataclass
import json
import signal
import subprocess
import sys
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from specvla_ros.benchmark.interrupt import sigterm_as_interrupt
from specvla_ros.errors import SpecVLAError

MODULE = 'specvla_ros.nodes.top_node'
_BAR = 40  # characters of the longest stage
_PATIENCE = 5.0  # s the listener may take to end
_QUIET = 1.0  # s without an action that are shown as a warning
_HIDDEN = ('total', 'queue_age')  # not parts of an action's time


@dataclass(frozen=True, slots=True)
class TopArgs:
    """Watch a running policy node: rate, passes, acceptance, time per stage, safety."""

    namespace: str = '/'
    """Namespace of the policy node."""
    views: int = 0
    """Stop after this many views, one a second. Default: at Ctrl-C."""


def run(args: TopArgs) -> int:
    """
    Show views until told to stop; returns an exit code.

    :raises ValueError: bad input, in one line
    """
    if args.views < 0:
        raise SpecVLAError(f'--views is {args.views}, must be at least 0')
    if not args.namespace.startswith('/'):
        raise SpecVLAError(f'--namespace is {args.namespace!r}, must begin with a /')
    # A shell starts what runs in its background with Ctrl-C ignored; this must always end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, '-m', MODULE, '--ros-args', '-r', f'__ns:={args.namespace}'],
        text=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True)
    console, shown = Console(), 0
    try:
        with sigterm_as_interrupt(), Live(console=console, auto_refresh=False) as live:
            for line in process.stdout:
                live.update(picture(json.loads(line)['view']), refresh=True)
                shown += 1
                if shown == args.views:
                    break
            else:
                return process.wait()
    except KeyboardInterrupt:
        pass  # the way to leave
    finally:
        _end(process)
    return 0


def _end(process: subprocess.Popen) -> None:
    """Let the listener leave DDS in order; it holds nothing, so it may be killed if it doesn't."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def picture(view: dict[str, Any]) -> Group:
    """Return the picture of a `View` of the listener."""
    if view['silence'] is None and view['state'] is None:
        return Group(Text('no policy node has been heard yet; is it in the same ROS_DOMAIN_ID '
                          'and namespace?', style='yellow'))
    return Group(_head(view), *([_stages(view)] if view['stage_ms'] else []), _node(view))


def _head(view: dict[str, Any]) -> Table:
    """Return rate, decoder and last action."""
    table = Table.grid(padding=(0, 2))
    table.add_row('state', view['state'] or '—')
    if view['silence'] is not None:
        quiet = view['silence'] > _QUIET
        table.add_row('actions', Text(
            f'{view["rate"]:.1f} a second, the last {view["silence"]:.1f} s ago',
            style='yellow' if quiet else 'green'))
    if view['delta']:
        x, y, z, *turn, gripper = view['delta']
        table.add_row('last action', Text(
            f'{1e3 * x:+.1f} {1e3 * y:+.1f} {1e3 * z:+.1f} mm, '
            f'{" ".join(f"{value:+.3f}" for value in turn)} rad, gripper {gripper:.2f}'
            + (', limited' if view['limited'] else ''),
            style='yellow' if view['limited'] else ''))
    if view['passes'] is not None:
        length = view['acceptance_length']
        table.add_row('decoder', f'{view["decoder"]}: {view["passes"]:.2f} passes an action'
                      + (f', {length:.2f} tokens a pass' if length is not None else ''))
        total = sum(view['sources'].values())
        table.add_row('tokens', ', '.join(
            f'{100 * count / total:.0f} % {name}' for name, count in sorted(
                view['sources'].items(), key=lambda item: -item[1])))
    return table


def _stages(view: dict[str, Any]) -> Table:
    """Return a bar for each stage of an action."""
    table = Table.grid(padding=(0, 2))
    stages = {name: ms for name, ms in view['stage_ms'].items() if name not in _HIDDEN}
    most = max([*stages.values(), 1e-9])
    for name, ms in stages.items():
        table.add_row(name, f'{ms:6.1f} ms', Text('█' * round(_BAR * ms / most), style='blue'))
    for name in _HIDDEN:
        if name in view['stage_ms']:
            table.add_row(name.replace('_', ' '), f'{view["stage_ms"][name]:6.1f} ms')
    return table


def _node(view: dict[str, Any]) -> Table:
    """Return the lines on the node's own diagnostics."""
    table = Table.grid(padding=(0, 2))
    for name, value in view['diagnostics'].items():
        table.add_row(Text(name, style='dim'), value)
    return table
