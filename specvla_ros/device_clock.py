"""Time on a device: of a GPU's own work, without making the host wait for it."""

from __future__ import annotations

import time
from typing import TypeAlias

import torch

Mark: TypeAlias = 'float | torch.cuda.Event'


def mark(device: torch.device) -> Mark:
    """Return the time, s; on a GPU a mark behind everything started so far."""
    if device.type != 'cuda':
        return time.perf_counter()
    made = torch.cuda.Event(enable_timing=True)
    made.record(torch.cuda.current_stream(device))
    return made


def ms_between(started: Mark, ended: Mark) -> float:
    """Milliseconds between two marks of one device; waits until a GPU has passed the second."""
    if isinstance(started, float) and isinstance(ended, float):
        return 1e3 * (ended - started)
    assert isinstance(started, torch.cuda.Event) and isinstance(ended, torch.cuda.Event)
    ended.synchronize()
    return started.elapsed_time(ended)
