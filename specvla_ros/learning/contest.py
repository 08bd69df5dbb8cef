"""Which of several heads is the best, by the passes that each would have needed, in pairs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
import torch

from specvla_ros.decoding.drafters import GlanceHead
from specvla_ros.learning.paired import Paired
from specvla_ros.learning.passes import passes_alone
from specvla_ros.learning.settings import STRETCHES

_MOST = 3  # heads to go back to, the one in use among them: the loaded, the former, the present


@dataclass(eq=False)
class Contestant:
    """
    A head, and what it would have needed for the last actions, none of which it learned from.

    number: 0 = as loaded, else how many heads were tried before. passes: an action each, the
    newest last.
    """

    head: GlanceHead
    number: int
    passes: deque[int]


class Contest:
    """
    Heads that were in use, the last of them at present, and perhaps a candidate.

    is_worse: whether the last `verdict` dropped a candidate that was surely worse. least: actions
    that a head in use is compared on at least.

    :param window: actions that are compared, at least `STRETCHES`
    """

    def __init__(self, loaded: GlanceHead, window: int) -> None:
        self._stretch, self._window = max(1, window // STRETCHES), window
        self.used = [self._contestant(loaded, 0)]
        self.least = max(window // 2, 2 * self._stretch)
        self.candidate: Contestant | None = None
        self.is_worse = False

    @property
    def present(self) -> Contestant:
        """The head in use."""
        return self.used[-1]

    def nominate(self, head: GlanceHead, number: int) -> None:
        """Let a head be measured; it must not learn from here on."""
        self.candidate = self._contestant(head, number)

    def measure(self, features: NDArray[np.float32], columns: NDArray[np.int64]) -> None:
        """Let all guess at new actions, [N, F] and [N, L]."""
        seen = torch.from_numpy(features)
        for it in (*self.used, *([self.candidate] if self.candidate else [])):
            with torch.no_grad():
                guessed = it.head.guess(seen).argmax(-1).numpy()
            it.passes.extend(passes_alone(guessed, columns).tolist())

    def verdict(self) -> tuple[Contestant, Paired] | None:
        """
        Return who should be in use instead of the present head, and the comparison that says so.

        The candidate is better by the whole interval over a full window; or the present head is
        worse than one before it, by the whole interval over half a window at least. A candidate
        that is not better is dropped.
        """
        self.is_worse = False
        if (back := self._worse_than()) is not None:
            return back
        if self.candidate is None or len(self.candidate.passes) < self._window:
            return None
        paired = self.compare(self.present, self.candidate)
        if paired.is_less:
            return self.candidate, paired
        self.candidate, self.is_worse = None, paired.is_more
        return None

    def put_in_use(self, chosen: Contestant) -> None:
        """Make a head of those before, or the candidate, the present one."""
        if chosen in self.used:
            del self.used[self.used.index(chosen) + 1:]
        else:
            self.used.append(chosen)
            del self.used[1:len(self.used) - _MOST + 1]
            # Measured from now on, not by the actions that it was chosen for.
            chosen.passes.clear()
        self.candidate = None

    def compare(self, old: Contestant, new: Contestant) -> Paired:
        """Compare two heads by the newest actions that both were measured on."""
        count = min(len(old.passes), len(new.passes))
        means = [self._means(list(it.passes)[len(it.passes) - count:]) for it in (old, new)]
        return Paired.of(*means)

    def _worse_than(self) -> tuple[Contestant, Paired] | None:
        present = self.present
        if len(present.passes) < self.least:
            return None
        found = [(it, paired) for it in self.used[:-1]
                 if (paired := self.compare(present, it)).is_less]
        return min(found, key=lambda pair: pair[1].change, default=None)

    def _means(self, passes: Sequence[int]) -> NDArray[np.float64]:
        """Return the means of whole stretches, the newest whole."""
        count = len(passes) // self._stretch
        newest = np.array(passes[len(passes) - count * self._stretch:], np.float64)
        return newest.reshape(count, self._stretch).mean(1)

    def _contestant(self, head: GlanceHead, number: int) -> Contestant:
        return Contestant(head, number, deque(maxlen=self._window))
