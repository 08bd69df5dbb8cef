"""
What an action of several control steps costs: L = 7 and L = 56 on random weights of any shape.

Whole actions by the project's own decoder, contestants in turn: `ar`, one prefill and L - 1
passes; and a random `glance` at all L tokens with `jacobi` behind it, of which a rule keeps as
many guesses as make one pass, or four. Of each: `ms` of an action (median, 95th percentile) and of
a control step, medians of its stages, the passes it took, and `floor_ms`, bytes or operations of
its towers and passes at the measured ceilings.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
import statistics
import time
from typing import Any

from common import Report, wait
import torch

from specvla_ros.action_space import ActionSpace
from specvla_ros.benchmark.latency import projection, roofline
from specvla_ros.benchmark.latency.cost import PassWork
from specvla_ros.benchmark.latency.random_weights import random_checkpoint
from specvla_ros.benchmark.observations import MADE_UP_INSTRUCTION
from specvla_ros.decoding.acceptance import Acceptance
from specvla_ros.decoding.decoder import Decoder
from specvla_ros.decoding.drafters import (
    Drafter,
    GlanceConfig,
    GlanceDrafter,
    GlanceHead,
    GlanceSettings,
    Jacobi,
    NoDrafter,
    RelayDrafter,
)
from specvla_ros.decoding.rules.rule import Rule
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.decoding.target import Target
from specvla_ros.situation import Situation

CHUNKS = (1, 8)  # control steps of an action: L = 7 and 56
PASSES = (1, 4)
_ANY, _NONE = 1 << 20, -1  # reaches: every guess may stay, no guess may


@dataclass(frozen=True, slots=True)
class Passes:
    """Keeps as many guesses as make this many passes of an action, about equally many in each."""

    count: int

    def reach(self, space: ActionSpace, situation: Situation) -> tuple[int, ...]:
        """Refuse the guesses at which a pass is to end: the target's own token stands there."""
        ends = {number * space.length // self.count - 1 for number in range(1, self.count)}
        return tuple(_NONE if place in ends else _ANY for place in range(space.length))


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--shape', default='7b')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--dtype', default='bfloat16')
    parser.add_argument('--actions', type=int, default=30, help='timed ones of each contestant')
    parser.add_argument('--json', required=True)
    return parser.parse_args()


def contestants(checkpoint: Any, chunk: int) -> dict[str, Decoder]:
    """Return decoders of actions of so many control steps, by name."""
    model, space = checkpoint.model, ActionSpace(
        checkpoint.model.action_tokenizer, checkpoint.space.action_dim, chunk)
    torch.manual_seed(0)
    head = GlanceHead(GlanceConfig.like(model, space.length))
    head = head.to(model.device, model.dtype).eval().requires_grad_(False)

    def made(drafter: Drafter, rule: Rule) -> Decoder:
        target = Target(model)
        return Decoder(target, drafter, Acceptance(rule, None, space, target))

    guessing = {f'{count} pass{"es" * (count > 1)}': made(RelayDrafter(
        [GlanceDrafter(head, GlanceSettings()), Jacobi().drafter(None)]), Passes(count))
        for count in PASSES}
    return {'ar': made(NoDrafter(), Strict()), **guessing}


def main() -> None:
    """Measure, writing each finding at once."""
    args = parse()
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    report = Report(args.json)
    checkpoint = random_checkpoint(
        projection.read_shape(args.shape), projection.read_acceptance('libero_goal'),
        MADE_UP_INSTRUCTION, device, dtype, 'none', 0)
    model, ids = checkpoint.model, checkpoint.prompt_ids(MADE_UP_INSTRUCTION)
    cost = PassWork(model, model.action_tokenizer.n_bins)
    ceilings = roofline.measure(device, dtype, cost.weight_bytes)
    size = model.config.image_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 1, 6, size, size, generator=generator).to(device)
    prompt_rows = ids.shape[1] + model.config.n_patches
    found: dict[str, dict[str, Any]] = {}
    for chunk in CHUNKS:
        length = chunk * checkpoint.space.action_dim
        decoders = contestants(checkpoint, chunk)
        for decoder in decoders.values():
            decoder.warm_up(ids, images[0])
        times: dict[str, list[float]] = {name: [] for name in decoders}
        traces: dict[str, list[Any]] = {name: [] for name in decoders}
        for number in range(args.actions + 1):
            for name, decoder in decoders.items():
                wait(device)
                started = time.perf_counter()
                _, trace = decoder.decode(ids, images[number % len(images)])
                ms = 1e3 * (time.perf_counter() - started)  # the tokens are on the host
                if number:
                    times[name].append(ms)
                    traces[name].append(trace)
        for name, taken in times.items():
            found[f'L = {length}, {name}'] = row = row_of(taken, traces[name], chunk)
            works = [work for _, work in cost.action(prompt_rows, traces[name][-1].drafts)]
            row['floor_ms'] = sum(ceilings.floor_ms([work]) for work in works)
            report['chunks'] = found
            print(f'L = {length}, {name}: {row}', flush=True)
        del decoders, decoder


def row_of(times: list[float], traces: list[Any], chunk: int) -> dict[str, Any]:
    """Return the figures of a contestant."""
    ordered = sorted(times)
    median = statistics.median(ordered)
    stages = {name: statistics.median(trace.stage_ms[name] for trace in traces)
              for name in traces[0].stage_ms}
    return {'ms': median, 'p95_ms': ordered[round(0.95 * (len(ordered) - 1))],
            'ms_per_step': median / chunk, 'stage_ms': stages,
            'passes': statistics.mean(trace.target_passes for trace in traces)}


main()
