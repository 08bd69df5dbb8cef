"""What a drafter is worth: passes of the target an action, old weights against new, in pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from specvla_ros.learning.paired import Paired
from specvla_ros.training.adapting.split import Part


class Trace(Protocol):
    """What is used of an action's trace."""

    target_passes: int


class Acted(Protocol):
    """What is used of an action."""

    tokens: tuple[int, ...]
    trace: Trace


class TrialPolicy(Protocol):
    """What is used of a policy."""

    def reset(self) -> None: ...

    def act(self, image: NDArray[np.uint8], instruction: str, stamp: float | None) -> Acted: ...


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    Passes an action before and after, means over stretches of held-out recordings.

    old, new: presets; the same one where only the weights differ. change, low, high: of the
    passes, %, with a 95 % interval (Student's t over the differences of the stretches; None where
    there are fewer than two). same: actions with the same tokens.
    """

    rule: str
    old: str
    new: str
    before: float
    after: float
    change: float
    low: float | None
    high: float | None
    actions: int
    same: int

    @classmethod
    def of(
        cls, rule: str, presets: tuple[str, str], before: Sequence[Sequence[Acted]],
        after: Sequence[Sequence[Acted]],
    ) -> Comparison:
        """Compare the actions of two policies, by their presets; a sequence a stretch."""
        old, new = (np.array([np.mean([action.trace.target_passes for action in actions])
                              for actions in each]) for each in (before, after))
        paired = Paired.of(old, new)
        same = sum(a.tokens == b.tokens for x, y in zip(before, after, strict=True)
                   for a, b in zip(x, y, strict=True))
        return cls(rule, *presets, paired.before, paired.after, *paired.percent(),
                   actions=sum(map(len, before)), same=same)

    @property
    def is_better(self) -> bool:
        """Whether the whole interval lies below zero."""
        return self.high is not None and self.high < 0

    @property
    def is_worse(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.low is not None and self.low > 0

    @property
    def presets(self) -> str:
        """Say what was compared."""
        return f'{self.old}, old and new weights' if self.old == self.new else \
            f'{self.old} and {self.new}'

    @property
    def percent(self) -> str:
        """Say the change with its interval."""
        if self.low is None or self.high is None:
            return f'{_signed(self.change)} % (no interval of a single stretch)'
        return (f'{_signed(self.change)} % (95 %: {_signed(self.low)} to '
                f'{_signed(self.high)})')

    def __str__(self) -> str:
        return (f'{self.rule} ({self.presets}): {self.before:.2f} → {self.after:.2f} passes an '
                f'action, {self.percent}')

    def facts(self) -> dict[str, Any]:
        """Return its fields, for reports."""
        return asdict(self)


def is_kept(comparisons: Sequence[Comparison]) -> bool:
    """Whether new weights are worth it: better under one rule at least, worse under none."""
    return any(it.is_better for it in comparisons) and not any(it.is_worse for it in comparisons)


def play(
    actors: Mapping[str, TrialPolicy], parts: Sequence[Part], frames: int,
    on_frame: Callable[[], None] = lambda: None,
) -> dict[str, list[list[Acted]]]:
    """
    Let each actor act on the same frames, in turn, one after the other as the robot would.

    :param frames: in all, the same number of each part: a stretch from its middle
    :returns: actions by actor and part
    """
    each = max(1, frames // len(parts))
    acted: dict[str, list[list[Acted]]] = {name: [] for name in actors}
    for part in parts:
        start = max(0, (len(part) - each) // 2)
        shown = part.within(start, min(len(part), start + each))
        for name, actor in actors.items():
            actor.reset()
            acted[name].append([])
        stamps = shown.episode.stamps
        for number, image in enumerate(shown.images(), shown.start):
            stamp = None if stamps is None else float(stamps[number])
            for name, actor in actors.items():
                acted[name][-1].append(actor.act(image, shown.episode.instruction, stamp))
            on_frame()
    return acted


def _signed(percent: float) -> str:
    return f'{percent:+.1f}'.replace('-', '−')
