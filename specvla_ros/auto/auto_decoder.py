"""
Several decoders on one target, of which the cheapest decodes the next action.

The loop stays the one of `decoding.decoder`: a candidate is picked before it runs, and the cost of
the action is measured after it. A choice depends on measured times. Where all candidates are
lossless, the tokens don't.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
import time

from torch import Tensor

from specvla_ros.configuration import BASELINE
from specvla_ros.decoding.decoder import Decoder
from specvla_ros.decoding.guard import Guard
from specvla_ros.decoding.trace import DecodeTrace
from specvla_ros.graphs import GraphRunner
from specvla_ros.situation import Situation, UNKNOWN

from .measured import ActionTaken, Measured, PassTaken


class AutoDecoder:
    """
    Decode each action with the candidate that costs least here.

    candidates: decoders by name, on one target; ``ar`` is one of them. left_out: those that can't
    be, with the reason; the report repeats it.
    """

    def __init__(
        self, candidates: Mapping[str, Decoder], left_out: Mapping[str, str] | None = None
    ) -> None:
        self.candidates, self.left_out = dict(candidates), dict(left_out or {})
        ar = self.candidates[BASELINE]
        self.target, self.acceptance = ar.target, ar.acceptance
        # A graph's rows cost nothing, and each depth would be a graph of its own.
        budgets = not isinstance(self.target.runner, GraphRunner)
        self.measured = Measured(self.candidates, self.acceptance.space.length, budgets)
        self._without = ''.join(f'; {name} left out: {why}' for name, why in self.left_out.items())

    def decode(
        self, prompt_ids: Tensor, pixel_values: Tensor, situation: Situation = UNKNOWN
    ) -> tuple[list[int], DecodeTrace]:
        """Decode one action; see ``Decoder.decode``. The trace says who did, and why."""
        name, reason = self.measured.next()
        decoder = replace(self.candidates[name], depths=self.measured.depths(name))
        started = time.perf_counter()
        tokens, trace = decoder.decode(prompt_ids, pixel_values, situation)
        self.measured.take(name, _taken(trace, 1e3 * (time.perf_counter() - started)))
        trace.decoder, trace.reason = name, reason + self._without
        return tokens, trace

    def guarded(self, guard: Guard) -> AutoDecoder:
        """Return the same candidates, memory included, under another guard; costs are shared."""
        made = copy(self)
        made.candidates = {name: it.guarded(guard) for name, it in self.candidates.items()}
        made.acceptance = made.candidates[BASELINE].acceptance
        return made

    def warm_up(
        self, prompt_ids: Tensor, pixel_values: Tensor, situation: Situation = UNKNOWN
    ) -> None:
        """Warm all candidates up: each has its graphs before it is taken."""
        for decoder in self.candidates.values():
            decoder.warm_up(prompt_ids, pixel_values, situation)

    def remember(self, tokens: Sequence[int]) -> None:
        """Let the drafters of all candidates see the action."""
        for decoder in self.candidates.values():
            decoder.remember(tokens)

    def note_executed(self, steps: int) -> None:
        """Tell all candidates how many steps of the last action were due before the next one."""
        for decoder in self.candidates.values():
            decoder.note_executed(steps)

    def note_new_weights(self, weights: object) -> bool:
        """
        Take in that a drafter's weights are new: what its guesses were worth is forgotten.

        The candidates that use them are looked at anew. What a pass costs stays, and so does what
        is known of the others.
        """
        renewed = [name for name, it in self.candidates.items() if it.note_new_weights(weights)]
        for name in renewed:
            self.measured.forget(name)
        return bool(renewed)

    def reset(self) -> None:
        """Let all forget earlier actions. What was measured of the machine stays."""
        for decoder in self.candidates.values():
            decoder.reset()


def _taken(trace: DecodeTrace, total_ms: float) -> ActionTaken:
    """Sort the times of an action by passes of the target."""
    passes, draft, vision, counts = [], 0.0, 0.0, iter(trace.drafts)
    for stage, ms in trace.timeline:
        if stage == 'vision':
            vision += ms
        elif stage == 'draft':
            draft += ms
        else:
            passes.append(PassTaken(*next(counts), draft, ms))
            draft = 0.0
    return ActionTaken(vision, total_ms, passes)
