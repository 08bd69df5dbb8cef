"""How a session tells the process that started it what happens: JSON lines on stdout."""

from __future__ import annotations

from collections.abc import Callable
import json
import os
import sys
from typing import Any

from specvla_ros.errors import one_line, SpecVLAError

Emit = Callable[[dict[str, Any]], None]


def events_on_stdout() -> Emit:
    """Return what prints an event; from now on all else that goes to stdout goes to stderr."""
    events = os.fdopen(os.dup(sys.stdout.fileno()), 'w')
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def emit(event: dict[str, Any]) -> None:
        print(json.dumps(event), file=events, flush=True)

    return emit


def error_event(error: BaseException) -> dict[str, Any]:
    """Return the last event of a session that failed."""
    text = str(error) if isinstance(error, (SpecVLAError, RuntimeError)) else repr(error)
    return {'event': 'error', 'message': one_line(text)}
