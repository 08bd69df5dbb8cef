"""A thread that works while nothing else is to be done, in short steps."""

from __future__ import annotations

from collections.abc import Callable
import os
import threading
import time
from typing import Protocol

import torch

from specvla_ros.learning.settings import IdleSettings

_LOOK = 0.005  # s between two looks whether there is time
_MARGIN = 2.0  # times what a step lately took must be free
_FIRST = 0.02  # s that a step may take before one was measured
_FORGETS = 0.9  # of the longest step, at each one that is shorter
_FADES = 0.9995  # of it, at each look that begins no step: in seven seconds to a half
_LOWEST = 19  # niceness


class IdleWork(Protocol):
    """Something to be done in short steps."""

    @property
    def has_work(self) -> bool:
        """Whether there is something to be done."""

    def step(self) -> None:
        """Do a little of it."""


class IdleThread:
    """
    Does work, a step at a time, while there is time for it.

    A step begins only where `idle_s` promises twice the time that steps took lately. While none
    begins, the memory of a slow step fades, down to the time assumed before the first: otherwise
    one slow step could end the work for good. The thread has the lowest priority: a step under way
    when something comes unforeseen takes no core from it.

    :param idle_s: s in which nothing else is to be done, as far as is known; 0 = none
    :param on_fault: called in this thread with what a step raised; no step follows
    """

    def __init__(
        self, work: IdleWork, idle_s: Callable[[], float], settings: IdleSettings,
        on_fault: Callable[[Exception], None],
    ) -> None:
        self._work, self._idle_s, self._settings = work, idle_s, settings
        self._on_fault = on_fault
        self._ended = threading.Event()
        self._usual = _FIRST
        self._thread = threading.Thread(target=self._run, name='learning', daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Return when no step runs any more, and none will."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        torch.set_num_threads(self._settings.threads)  # of this thread
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
        while not self._ended.is_set():
            if not self._work.has_work or self._idle_s() <= _MARGIN * self._usual:
                self._ended.wait(_LOOK)
                self._usual = max(_FADES * self._usual, min(self._usual, _FIRST))
                continue
            began = time.monotonic()
            try:
                self._work.step()
            except Exception as error:  # acting goes on whatever becomes of learning
                self._on_fault(error)
                return
            took = time.monotonic() - began
            self._usual = max(took, _FORGETS * self._usual)
            self._ended.wait(took * (1 - self._settings.share) / self._settings.share)
