"""How long an action takes on the clock of a simulation, which itself waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Protocol

from specvla_ros.errors import SpecVLAError

MEASURED = 'measured'


class ActionCost(Protocol):
    """What is known of an action: its `DecodeTrace`, or the record of it."""

    @property
    def target_passes(self) -> int:
        """Forwards of the target, the prefill counted."""

    @property
    def stage_ms(self) -> dict[str, float]:
        """Time of each stage and `total`, milliseconds."""


@dataclass(frozen=True, slots=True)
class Latency:
    """
    Seconds from an image to its action.

    first_s: of the image, the vision towers and the prefill; pass_s: of each further pass, so that
    a small model acts as late as a large one of the same passes would; measured: what the action
    took on this machine, in place of both.

    :raises SpecVLAError: a time that can't be
    """

    first_s: float = 0.0
    pass_s: float = 0.0
    measured: bool = False

    def __post_init__(self) -> None:
        for seconds in (self.first_s, self.pass_s):
            if not (isfinite(seconds) and seconds >= 0):
                raise SpecVLAError(f'latency_s is {seconds}, must be 0 s or more')

    @classmethod
    def read(cls, text: float | str) -> Latency:
        """
        Take a number, FIRST+PASS, or `measured`.

        :raises SpecVLAError: something else
        """
        if text == MEASURED:
            return cls(measured=True)
        first, plus, each = str(text).partition('+')
        try:
            first_s, pass_s = float(first), float(each) if plus else 0.0
        except ValueError:
            raise SpecVLAError(
                f'latency_s is {text!r}, must be seconds (0.25), seconds of the first and of each '
                f'further pass (0.05+0.02), or {MEASURED}') from None
        return cls(first_s, pass_s)

    @property
    def fixed_s(self) -> float | None:
        """The latency of all actions; None where each has its own."""
        return None if self.measured or self.pass_s else self.first_s

    @property
    def said(self) -> float | str | None:
        """What a report says of it, and `read` takes; None where actions are there at once."""
        if self.measured:
            return MEASURED
        return f'{self.first_s:g}+{self.pass_s:g}' if self.pass_s else self.first_s or None

    def seconds(self, action: ActionCost) -> float:
        """Return how long an action takes; by passes, one without any takes no time."""
        if self.measured:
            return action.stage_ms['total'] / 1000
        if not self.pass_s:
            return self.first_s
        return self.first_s + (action.target_passes - 1) * self.pass_s if action.target_passes \
            else 0.0
