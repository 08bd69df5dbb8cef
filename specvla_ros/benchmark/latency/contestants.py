"""The contestants of a bench: decoders and peers on one checkpoint, and their costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from specvla_ros.benchmark.latency import projection, roofline
from specvla_ros.benchmark.latency.contest import warm_up
from specvla_ros.benchmark.latency.cost import PassWork
from specvla_ros.benchmark.latency.peers import GeneratePeer, GENERATIONS
from specvla_ros.benchmark.latency.random_weights import random_checkpoint, RandomCheckpoint
from specvla_ros.benchmark.machine import available_cores
from specvla_ros.benchmark.observations import Footage, MADE_UP_INSTRUCTION
from specvla_ros.benchmark.policy_like import PolicyLike
from specvla_ros.benchmark.report import BASELINE
from specvla_ros.configuration import DecoderConfig
from specvla_ros.devices import resolve_device, resolve_dtype
from specvla_ros.loaded_checkpoint import Checkpoint
from specvla_ros.openvla.quantization import check_quantization
from specvla_ros.policy import Policy

if TYPE_CHECKING:
    from specvla_ros.benchmark.latency.bench_arguments import BenchArgs


@dataclass(slots=True)
class Contestants:
    """
    All decoders and peers of a bench, on one checkpoint.

    :param policies: decoders and peers by name, all on the checkpoint's weights
    :param costs: the least that a pass of each can cost
    :param peers: names of those that are peers
    :param left_out: why a peer doesn't take part, by its name
    """

    checkpoint: Checkpoint
    policies: dict[str, PolicyLike]
    costs: dict[str, PassWork]
    peers: tuple[str, ...]
    ceilings: roofline.Ceilings
    threads: int
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def drawn(self) -> set[str]:
        """Names of those whose acceptance is drawn, so that their tokens mean nothing."""
        if not isinstance(self.checkpoint, RandomCheckpoint):
            return set()
        return set(self.policies) - {BASELINE, *self.peers}


def make_contestants(args: BenchArgs, decoders: dict[str, DecoderConfig]) -> Contestants:
    """
    Load or make the weights, make all contestants on them, and measure the device's ceilings.

    :raises ValueError: a checkpoint or a device that can't be used
    """
    threads = args.threads or available_cores()
    torch.set_num_threads(threads)
    checkpoint = _checkpoint(args, decoders[BASELINE])
    policies: dict[str, PolicyLike] = {
        name: Policy(checkpoint, config) for name, config in decoders.items()}
    policies |= {name: GeneratePeer(checkpoint, GENERATIONS[name]) for name in args.peer}
    model = checkpoint.model
    ours = PassWork(model, model.action_tokenizer.n_bins)
    theirs = PassWork(model, model.lm_head.weight.shape[0])
    costs = {name: theirs if name in args.peer else ours for name in policies}
    ceilings = roofline.measure(model.device, model.dtype, ours.weight_bytes)
    return Contestants(checkpoint, policies, costs, args.peer, ceilings, threads)


def warm_up_all(contestants: Contestants, episode: Footage) -> dict[str, PolicyLike]:
    """
    Let all act a few times, untimed; return those that can.

    A peer that fails is left out with its reason: it depends on transformers, not on us.
    """
    for name, policy in list(contestants.policies.items()):
        try:
            warm_up(policy, episode)
        except Exception as error:
            if name not in contestants.peers:
                raise
            reason = next(iter(str(error).split('\n')), '')
            contestants.left_out[name] = f'{type(error).__name__}: {reason}'
            del contestants.policies[name]
    return contestants.policies


def _checkpoint(args: BenchArgs, baseline: DecoderConfig) -> Checkpoint:
    if not args.random_weights:
        return Policy.of(args.source(baseline)).checkpoint
    device, dtype = resolve_device(args.device), resolve_dtype(args.dtype)
    check_quantization(args.quantization, device, dtype)
    # As the published checkpoints are stored; a CPU computes in float32 where it may choose.
    on_cpu = device.type == 'cpu' and args.quantization != 'int4'
    default = torch.float32 if on_cpu else torch.bfloat16
    return random_checkpoint(
        projection.read_shape(args.shape), projection.read_acceptance(args.accept_from),
        MADE_UP_INSTRUCTION, device, dtype or default, args.quantization, args.seed,
        args.chunk)
