"""How long a training takes, and in what portions: the arguments that every training has."""

import math
from typing import Any, Protocol

from specvla_ros.errors import SpecVLAError
from specvla_ros.training.optimizer import OptimizerSettings
from specvla_ros.training.seed_check import check_seed
from specvla_ros.unused_options import refuse_unused


class Schedule(Protocol):
    """
    Arguments that every training has.

    batch: frames a step and process; lanes: threads; dtype: what they compute in; store: what the
    weights are written in; minutes: length of the training, 0 = count epochs; evaluate: minutes
    between measurements; seed: of the order of the frames and of what is drawn at random.
    """

    batch: int
    lanes: int
    dtype: str
    store: str
    minutes: float
    epochs: float
    evaluate: float
    seed: int
    optimizer: OptimizerSettings


def check_schedule(args: Schedule) -> None:
    """Raise SpecVLAError for a number, data type or length that can't be, or two lengths."""
    check_seed(args.seed)
    for name in ('batch', 'lanes'):
        if getattr(args, name) < 1:
            raise SpecVLAError(f'{name} is {getattr(args, name)}, must be at least 1')
    if args.batch % args.lanes:
        raise SpecVLAError(f'batch {args.batch} must be a multiple of lanes {args.lanes}')
    for name in ('dtype', 'store'):
        if getattr(args, name) not in ('bfloat16', 'float32'):
            raise SpecVLAError(
                f'{name} is {getattr(args, name)!r}, must be bfloat16 or float32')
    if args.minutes <= 0 and args.epochs <= 0:
        raise SpecVLAError('minutes and epochs are both 0: one must be positive')
    if args.minutes > 0:
        refuse_unused(args, ('epochs',), 'the training ends after --minutes')


def share_done(
    args: Schedule, elapsed: float, steps: int, frames: int, processes: int = 1
) -> float:
    """Share of a training that is done, 0 … 1, after seconds and optimiser steps."""
    if args.minutes:
        return min(1.0, elapsed / (60 * args.minutes))
    return min(1.0, steps / max(1, math.floor(args.epochs * frames / (args.batch * processes))))


def schedule_settings(args: Schedule, processes: int = 1) -> dict[str, Any]:
    """
    What of it a resumed training must have in common with the interrupted one.

    Batch and lanes are those of all processes: two of them go on with what one has begun.
    """
    return {'batch': args.batch * processes, 'lanes': args.lanes * processes,
            'dtype': args.dtype, 'seed': args.seed}
