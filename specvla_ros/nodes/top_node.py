"""
Listen to a policy node and say how it fares: the engine of `specvla top`.

`python -m specvla_ros.nodes.top_node [--ros-args …]` subscribes to `action`, `decode_report` and
`/diagnostics`, and prints one event a second (`benchmark/` may not import rclpy, hence the process
boundary):

    {"event": "view", "view": {...}}      # the fields of `View`

It ends on Ctrl-C, on SIGTERM, or when the reader of the events has ended.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
import signal
import sys
import threading
import time

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from rclpy.node import Node

from specvla_ros.msg import ActionDelta, DecodeReport
from specvla_ros.nodes import qos
from specvla_ros.nodes.diagnostics import of_policies
from specvla_ros.nodes.events import Emit, events_on_stdout
from specvla_ros.nodes.messages import acceptance_lengths_of, stage_ms_of
from specvla_ros.nodes.runtime import run

NAME = 'specvla_top'
_PERIOD = 1.0  # s between two views
_WINDOW = 10.0  # s that rates and means are over


@dataclass(slots=True)
class View:
    """
    One moment of a policy node; None or empty where nothing has been heard.

    rate: actions a second; silence: s since the last action; delta: its m, rad and gripper.
    stage_ms, passes, acceptance_length: means over the last ten seconds; sources: tokens by who
    guessed them. diagnostics: what the node says of itself, by name, and its state.
    """

    decoder: str | None = None
    rate: float | None = None
    silence: float | None = None
    delta: list[float] = field(default_factory=list)
    limited: bool = False
    passes: float | None = None
    acceptance_length: float | None = None
    sources: dict[str, int] = field(default_factory=dict)
    stage_ms: dict[str, float] = field(default_factory=dict)
    state: str | None = None
    diagnostics: dict[str, str] = field(default_factory=dict)


class Window:
    """Messages of the last ten seconds; times are s on any one clock."""

    def __init__(self) -> None:
        self._reports: deque[tuple[float, DecodeReport]] = deque()
        self._actions: deque[float] = deque()
        self._last: tuple[float, ActionDelta] | None = None
        self._state: str | None = None
        self._diagnostics: dict[str, str] = {}

    def add_report(self, now: float, report: DecodeReport) -> None:
        """Note what an action cost."""
        self._reports.append((now, report))

    def add_action(self, now: float, action: ActionDelta) -> None:
        """Note an action."""
        self._actions.append(now)
        self._last = now, action

    def add_diagnostics(self, message: DiagnosticArray) -> None:
        """Note what a policy node says of itself; other nodes' are ignored."""
        for state, values in of_policies(message):
            self._state, self._diagnostics = state, values

    def view(self, now: float) -> View:
        """Sum up."""
        while self._reports and self._reports[0][0] < now - _WINDOW:
            self._reports.popleft()
        while self._actions and self._actions[0] < now - _WINDOW:
            self._actions.popleft()
        view = View(state=self._state, diagnostics=self._diagnostics)
        if self._last is not None:
            came, action = self._last
            view.silence, view.limited = now - came, action.limited
            view.rate = len(self._actions) / _WINDOW
            if action.translation:
                moved, turned = action.translation[0], action.rotation[0]
                view.delta = [moved.x, moved.y, moved.z, turned.x, turned.y, turned.z,
                              action.gripper[0]]
        if self._reports:
            _sum_up([report for _, report in self._reports], view)
        return view


def _sum_up(reports: Sequence[DecodeReport], view: View) -> None:
    """Put means over reports into a view."""
    view.decoder = reports[-1].decoder
    view.passes = float(np.mean([report.target_passes for report in reports]))
    lengths = [length for report in reports for length in acceptance_lengths_of(report)]
    view.acceptance_length = float(np.mean(lengths)) if lengths else None
    view.sources = dict(Counter(name for report in reports for name in _sources(report)))
    stages = [stage_ms_of(report) for report in reports]
    view.stage_ms = {name: float(np.mean([stage[name] for stage in stages if name in stage]))
                     for name in stages[-1]}


def _sources(report: DecodeReport) -> list[str]:
    """Return who each token is from; what the target never saw is called so."""
    unverified = {place for place, origin in enumerate(report.token_origins)
                  if origin == DecodeReport.UNVERIFIED}
    return [f'{name} (unverified)' if place in unverified else name
            for place, name in enumerate(report.token_sources)]


class TopNode(Node):
    """
    Emits a `View` every second.

    :param emit: called with every event
    """

    def __init__(self, emit: Emit) -> None:
        super().__init__(NAME)
        self._emit, self._window, self._lock = emit, Window(), threading.Lock()
        self._stop = threading.Event()
        # Before the node appears on the graph: rclpy may swallow an exception raised within it.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stop.set())
        for kind, topic, add in (
                (ActionDelta, 'action', self._window.add_action),
                (DecodeReport, 'decode_report', self._window.add_report),
                (DiagnosticArray, '/diagnostics',
                 lambda _, message: self._window.add_diagnostics(message))):
            self.create_subscription(kind, topic, self._adder(add), qos.STREAM)

    def work(self) -> None:
        """Emit until told to stop."""
        while not self._stop.wait(_PERIOD):
            with self._lock:
                view = self._window.view(time.monotonic())
            try:
                self._emit({'event': 'view', 'view': asdict(view)})
            except BrokenPipeError:  # who started this is gone
                return

    def close(self) -> None:
        """Nothing is held but memory."""

    def _adder(self, add):  # noqa: ANN001, ANN202 (any message)
        def note(message: object) -> None:
            with self._lock:
                add(time.monotonic(), message)
        return note


def main(args: Sequence[str] | None = None) -> int:
    """Run until told to stop; see `runtime.run` for the exit codes."""
    emit = events_on_stdout()
    return run(NAME, lambda: TopNode(emit), args)


if __name__ == '__main__':
    sys.exit(main())
