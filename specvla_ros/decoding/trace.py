"""What one decoded action cost, and where its tokens came from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
import time
from typing import Any, TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .tree import Accepted, TokenTree


@dataclass(slots=True)
class DecodeTrace:
    """
    Counts and times of one action.

    target_passes: forwards of the target, the prefill counted.
    drafted, accepted: draft tokens verified and kept, over all passes.
    drafts: (drafted, accepted) of each pass, the prefill first.
    acceptance_lengths: tokens gained per pass after the prefill, bonus included (Spec-VLA,
        table 1); plain autoregression gains 1 each.
    sources: for each token of the action 'target' or the name of the drafter that guessed it.
    stage_ms: milliseconds per stage, summed over the action: vision, prefill, draft, verify;
        the policy adds preprocess and total.

    The tokens of the action are those of the prefill, ``drafts[0][1] + 1``, and those of
    ``acceptance_lengths``.
    """

    target_passes: int = 0
    drafted: int = 0
    accepted: int = 0
    drafts: list[tuple[int, int]] = field(default_factory=list)
    acceptance_lengths: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    stage_ms: dict[str, float] = field(
        default_factory=lambda: {'vision': 0.0, 'prefill': 0.0, 'draft': 0.0, 'verify': 0.0}
    )
    _spans: list[tuple[str, Any, Any]] = field(default_factory=list, repr=False, compare=False)

    def record(self, tree: TokenTree, path: Accepted) -> None:
        """Count one target pass: the tree it verified and the path that was accepted."""
        accepted = len(path.nodes)
        if self.target_passes:
            self.acceptance_lengths.append(accepted + 1)
        self.target_passes += 1
        self.drafted += len(tree)
        self.accepted += accepted
        self.drafts.append((len(tree), accepted))
        self.sources += [*(tree.sources[node] for node in path.nodes), 'target']

    @contextmanager
    def stage(self, name: str, device: torch.device) -> Iterator[None]:
        """
        Time the block, as a part of ``stage_ms[name]`` once the trace is settled.

        On a GPU the time is that of its work, by marks in its stream: nothing waits for them.
        """
        started = _mark(device)
        yield
        self._spans.append((name, started, _mark(device)))

    def settle(self) -> None:
        """Sum up the stages; their work must be done or is waited for."""
        for name, started, ended in self._spans:
            self.stage_ms[name] = self.stage_ms.get(name, 0.0) + _ms_between(started, ended)
        self._spans.clear()


def _mark(device: torch.device) -> float | torch.cuda.Event:
    """Return the time, s; on a GPU a mark behind everything started so far."""
    if device.type != 'cuda':
        return time.perf_counter()
    mark = torch.cuda.Event(enable_timing=True)
    mark.record(torch.cuda.current_stream(device))
    return mark


def _ms_between(started: float | torch.cuda.Event, ended: float | torch.cuda.Event) -> float:
    if isinstance(started, float) and isinstance(ended, float):
        return 1e3 * (ended - started)
    assert isinstance(started, torch.cuda.Event) and isinstance(ended, torch.cuda.Event)
    ended.synchronize()
    return started.elapsed_time(ended)
