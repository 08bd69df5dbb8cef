"""Our messages, filled from and read back into plain data; shapes are checked here, once."""

from __future__ import annotations

import array
import math
from typing import Any, TYPE_CHECKING

from geometry_msgs.msg import Vector3
import numpy as np
from std_msgs.msg import Header

from specvla_ros.errors import SpecVLAError
from specvla_ros.msg import ActionDelta, DecodeReport

if TYPE_CHECKING:
    from specvla_ros.actions import Action
    from specvla_ros.configuration import DecoderConfig
    from specvla_ros.data_sets import DatasetConfig
    from specvla_ros.decoding.trace import DecodeTrace

_ORIGINS = {'chosen': DecodeReport.CHOSEN, 'accepted': DecodeReport.ACCEPTED,
            'unverified': DecodeReport.UNVERIFIED}
_STAGES = ('preprocess', 'vision', 'prefill', 'draft', 'verify')


def action_message(
        action: Action, dataset: DatasetConfig, image_stamp: Any, sequence: int,
        limited_to: np.ndarray | None = None, steps: slice = slice(None),
        first_step: int | None = None) -> ActionDelta:
    """
    Return an action, or some of its control steps, as `ActionDelta`, all but `header.stamp`.

    :param action: `si` float32 [chunk, 7]: m, rotation vector in rad, gripper (1 = open)
    :param image_stamp: `builtin_interfaces/msg/Time` of the image acted on
    :param limited_to: what the safety envelope made of these steps of `si`, where it changed them
    :param steps: which of them
    :param first_step: control periods from the image to the first of them; None: its number
    :raises SpecVLAError: a value isn't finite: nothing that may reach a robot
    """
    si = np.asarray(action.si[steps] if limited_to is None else limited_to, dtype=np.float64)
    if not np.isfinite(si).all():
        raise SpecVLAError(f'the action is not finite: {si.tolist()}; check the statistics of '
                           f'{dataset.unnorm_key} in the checkpoint')
    normalized = np.asarray(action.normalized, dtype=np.float32)[steps]
    token_ids = np.reshape(action.tokens, (len(action.si), -1))[steps]
    bins_off = np.reshape(np.array(action.trace.bins_off, object), (len(action.si), -1))[steps]
    return ActionDelta(
        header=Header(frame_id=dataset.frame_id),
        image_stamp=image_stamp,
        sequence=sequence,
        step_period=float(dataset.period_s),
        translation=[Vector3(x=x, y=y, z=z) for x, y, z in si[:, 0:3].tolist()],
        rotation=[Vector3(x=x, y=y, z=z) for x, y, z in si[:, 3:6].tolist()],
        gripper=array.array('f', si[:, 6].tolist()),
        normalized=array.array('f', normalized.ravel().tolist()),
        token_ids=array.array('I', token_ids.ravel().tolist()),
        limited=limited_to is not None,
        unverified=bool((bins_off == None).any()),  # noqa: E711 (of each element)
        first_step=(steps.start or 0) if first_step is None else first_step,
    )


def standstill_message(dataset: DatasetConfig, gripper: float, sequence: int) -> ActionDelta:
    """
    Return the command not to move, all but `header.stamp`: no image, no tokens.

    :param gripper: what it was told before
    """
    return ActionDelta(
        header=Header(frame_id=dataset.frame_id), sequence=sequence,
        step_period=float(dataset.period_s), translation=[Vector3()], rotation=[Vector3()],
        gripper=array.array('f', [gripper]), limited=True)


def deltas_of(message: ActionDelta) -> np.ndarray:
    """
    Return the control steps of an `ActionDelta`: float64 [chunk, 7], SI, gripper 1 = open.

    :raises SpecVLAError: no steps, arrays of different lengths, or a value that isn't finite
    """
    counts = len(message.translation), len(message.rotation), len(message.gripper)
    if not counts[0] or len(set(counts)) != 1:
        raise SpecVLAError('an action needs as many translations as rotations and gripper values, '
                           f'and at least one; got {counts[0]}, {counts[1]} and {counts[2]}')
    deltas = np.array([
        (t.x, t.y, t.z, r.x, r.y, r.z, gripper) for t, r, gripper
        in zip(message.translation, message.rotation, message.gripper, strict=True)])
    if not np.isfinite(deltas).all():
        raise SpecVLAError(f'action {message.sequence} is not finite: {deltas.tolist()}')
    return deltas


def report_message(trace: DecodeTrace, config: DecoderConfig, action: ActionDelta) -> DecodeReport:
    """
    Return what decoding an action cost as `DecodeReport`, all but the times the node measures.

    Times the trace doesn't have are NaN.
    """
    lengths = [int(length) for length in trace.acceptance_lengths]
    taken = config.member(trace.decoder)  # of a decoder that had a choice, the one it took
    report = DecodeReport(
        image_stamp=action.image_stamp,
        sequence=action.sequence,
        decoder=config.name,
        drafter=taken.drafter.name,
        rule=taken.rule.name,
        threshold=(float(taken.threshold) if 'r' in taken.rule.settings
                   else DecodeReport.NO_THRESHOLD),
        target_passes=trace.target_passes,
        drafted=trace.drafted,
        accepted=trace.accepted,
        acceptance_histogram=array.array('I', np.bincount(lengths).tolist() if lengths else []),
        acceptance_length=float(np.mean(lengths)) if lengths else math.nan,
        token_sources=list(trace.sources),
        token_origins=array.array('B', map(_ORIGINS.__getitem__, trace.origins)),
        bins_off=array.array('f', [math.nan if off is None else off for off in trace.bins_off]),
        si_off=array.array('f', trace.si_off),
        forbidden=trace.forbidden,
        risk=trace.risk,
        reason=trace.reason,
    )
    for stage in _STAGES:
        setattr(report, f'{stage}_time', trace.stage_ms.get(stage, math.nan) / 1e3)
    return report


def acceptance_lengths_of(report: DecodeReport) -> list[int]:
    """Return tokens gained per pass after the prefill, shortest first."""
    return [length for length, count in enumerate(report.acceptance_histogram)
            for _ in range(count)]


def unverified_of(report: DecodeReport) -> int:
    """Return how many of an action's tokens the target never saw."""
    return list(report.token_origins).count(DecodeReport.UNVERIFIED)


def stage_ms_of(report: DecodeReport) -> dict[str, float]:
    """Return the measured stages of a report, ms, under their names without `_time`."""
    names = ('queue_age', *(f'{stage}_time' for stage in _STAGES), 'publish_time', 'total_time')
    times = {name.removesuffix('_time'): 1e3 * getattr(report, name) for name in names}
    return {name: ms for name, ms in times.items() if math.isfinite(ms)}
