"""
Measure what this device can do at best: copies and matrix products; the floor follows from them.

The floor of a pass is the longer of moving its bytes and doing its operations (S. Williams et al.,
"Roofline", CACM 52(4), 2009). The copy is of as many bytes as the model reads in a pass, so a
model that fits into a processor's cache is held against that cache and not against the memory
behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
import time

import torch

from specvla_ros.benchmark.latency.cost import Work

_COPY_BYTES = (1 << 20, 1 << 30)  # at least, at most
_CPU_SIDE, _GPU_SIDE = 768, 8192  # of the square matrices: large enough to fill the device
_SECONDS = 0.5  # of each measurement; the best single run counts


@dataclass(frozen=True, slots=True)
class Ceilings:
    """
    The best that the device reaches.

    :param bandwidth: bytes/s of a copy, each byte counted as read and as written
    :param rate: operations/s of a matrix product in the working data type
    """

    bandwidth: float
    rate: float

    def floor_ms(self, passes: Iterable[Work]) -> float:
        """Least time for these passes one after the other, ms."""
        return sum(1e3 * max(work.n_bytes / self.bandwidth, work.flops / self.rate)
                   for work in passes)


def measure(device: torch.device, dtype: torch.dtype, weights: int) -> Ceilings:
    """
    Measure the device's ceilings; takes about a second.

    :param weights: bytes of weights a pass reads
    """
    n_bytes = min(max(weights, _COPY_BYTES[0]), _COPY_BYTES[1])
    source = torch.zeros(n_bytes, dtype=torch.uint8, device=device)
    goal = torch.empty_like(source)
    copy = _best(lambda: goal.copy_(source), device)
    side = _CPU_SIDE if device.type == 'cpu' else _GPU_SIDE
    left = torch.randn(side, side, device=device).to(dtype)
    product = torch.empty_like(left)
    multiply = _best(lambda: torch.mm(left, left, out=product), device)
    return Ceilings(2 * n_bytes / copy, 2 * side**3 / multiply)


def _best(run: Callable[[], object], device: torch.device) -> float:
    """Shortest time of one run, s; the device is waited for before each look at the clock."""
    run()
    best, end = float('inf'), time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        _wait(device)
        started = time.perf_counter()
        run()
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return best


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
