"""What one decoded action cost, and where its tokens came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING

from specvla_ros.device_clock import Mark, mark, ms_between

if TYPE_CHECKING:
    import torch

    from .tree import Accepted, TokenTree

CHOSEN = 'target'  # the source of a token that the target chose


class StageClock:
    """Times a block. No generator: entering and leaving one takes three times as long."""

    __slots__ = ('_device', '_name', '_spans', '_started')

    def __init__(
        self, name: str, device: torch.device, spans: list[tuple[str, Mark, Mark]]
    ) -> None:
        self._name, self._device, self._spans = name, device, spans

    def __enter__(self) -> None:
        self._started = mark(self._device)

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None:
            self._spans.append((self._name, self._started, mark(self._device)))


@dataclass(slots=True)
class DecodeTrace:
    """
    Records passes, times and risk of one action, and the origin of each of its tokens.

    target_passes: forwards of the target, the prefill counted.
    drafted, accepted: draft tokens verified and accepted, over all passes.
    drafts: (drafted, accepted) of each pass, the prefill first.
    decoder: which of several decoders `auto` took; '' = there was no choice.
    acceptance_lengths: tokens gained per pass after the prefill, bonus included (Spec-VLA,
        table 1); plain autoregression gains 1 each.
    sources: for each token of the action 'target' or the name of the drafter that guessed it.
    bins_off: for each token how many bins it is from the target's own choice after the same
        tokens; None = the target was never asked.
    si_off: the same in m, rad, share of the gripper's way; the policy adds it, NaN = never asked.
    reach: for each token how many bins the rule lets a guess be off.
    firm_steps: control steps, from the first on, that keep to the first one's reach: these may be
        executed; the policy adds it, None = all.
    entropies: of what the target said for the tokens, summed over each pass; see ``risk``.
    forbidden: tokens at which the target's own choice was a bin that the guard forbids.
    reason: why this drafter and rule; '' = there was no choice.
    stage_ms: milliseconds per stage, summed over the action: vision, prefill, draft, verify;
        the policy adds preprocess and total.
    timeline: the same in the order of time, (stage, milliseconds); without what the policy adds.

    The tokens of the action are those of the prefill, ``drafts[0][1] + 1``, and those of
    ``acceptance_lengths``.
    """

    target_passes: int = 0
    drafted: int = 0
    accepted: int = 0
    drafts: list[tuple[int, int]] = field(default_factory=list)
    acceptance_lengths: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    bins_off: list[int | None] = field(default_factory=list)
    si_off: list[float] = field(default_factory=list)
    reach: tuple[int, ...] = ()
    firm_steps: int | None = None
    entropies: list[float] = field(default_factory=list)
    forbidden: int = 0
    decoder: str = ''
    reason: str = ''
    timeline: list[tuple[str, float]] = field(default_factory=list)
    stage_ms: dict[str, float] = field(
        default_factory=lambda: {'vision': 0.0, 'prefill': 0.0, 'draft': 0.0, 'verify': 0.0}
    )
    _spans: list[tuple[str, Mark, Mark]] = field(default_factory=list, repr=False, compare=False)

    def record(self, tree: TokenTree, path: Accepted) -> None:
        """Count one target pass: the tree it verified and the path that was accepted."""
        accepted = len(path.nodes)
        if self.target_passes:
            self.acceptance_lengths.append(accepted + 1)
        self.target_passes += 1
        self.drafted += len(tree)
        self.accepted += accepted
        self.forbidden += path.forbidden
        self.drafts.append((len(tree), accepted))
        self.sources += [*(tree.sources[node] for node in path.nodes), CHOSEN]
        self.bins_off += [*path.bins_off, 0]
        self.entropies.append(path.entropy)

    def complete(self, tokens: int, source: str) -> None:
        """Count so many tokens that the target never saw."""
        self.sources += [source] * tokens
        self.bins_off += [None] * tokens

    @property
    def unverified(self) -> int:
        """How many tokens the target never saw."""
        return self.bins_off.count(None)

    @property
    def origins(self) -> list[str]:
        """For each token, whether the target chose it, accepted it, or never saw it."""
        known = zip(self.sources, self.bins_off, strict=True)
        return ['unverified' if off is None else 'chosen' if source == CHOSEN else 'accepted'
                for source, off in known]

    @property
    def risk(self) -> float:
        """
        How unsure the target was: the mean entropy of its distributions over the action's tokens.

        Each is divided by that of a uniform distribution, log(bins): 0 = sure of every token, 1 =
        every bin is alike. Tokens it never saw don't count. NaN = not measured.
        """
        asked = sum(off is not None for off in self.bins_off)
        return sum(self.entropies) / asked if asked else nan

    def stage(self, name: str, device: torch.device) -> StageClock:
        """
        Time the block, as a part of ``stage_ms[name]`` once the trace is settled.

        On a GPU the time is that of its work, by marks in its stream: nothing waits for them.
        """
        return StageClock(name, device, self._spans)

    def settle(self) -> None:
        """Sum up the stages; their work must be done or is waited for."""
        for name, started, ended in self._spans:
            ms = ms_between(started, ended)
            self.timeline.append((name, ms))
            self.stage_ms[name] = self.stage_ms.get(name, 0.0) + ms
        self._spans.clear()
