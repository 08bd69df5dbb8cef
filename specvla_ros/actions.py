"""
What a decoded action is: tokens, normalised values, data-set units, and metres and radians.

A data set's configuration and the checkpoint's statistics say what a bin is worth on the robot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specvla_ros.bin_limits import BinValues
from specvla_ros.data_sets import DatasetConfig
from specvla_ros.decoding.trace import DecodeTrace
from specvla_ros.errors import SpecVLAError
from specvla_ros.openvla.action_tokenizer import ActionStatistics, ActionTokenizer
from specvla_ros.rotation import rotation_vectors

SI_DIMENSIONS = 7  # translation, rotation vector, gripper


@dataclass(frozen=True, slots=True)
class Action:
    """
    One decoded action of ``chunk`` control steps.

    tokens: the L ids, step by step; normalized: float32 [chunk, D] in [-1, 1].
    values: float32 [chunk, D] in the data set's units.
    si: float32 [chunk, 7]: translation (m), rotation vector (rad), gripper (0 closed … 1 open),
        in the frame the data set's configuration names.
    trace: what it cost, and what each token is: chosen, accepted (how far off), unverified;
        ``stage_ms`` has preprocess and total as well.
    """

    tokens: tuple[int, ...]
    normalized: NDArray[np.float32]
    values: NDArray[np.float32]
    si: NDArray[np.float32]
    trace: DecodeTrace


def to_si(values: NDArray[np.float32], dataset: DatasetConfig) -> NDArray[np.float32]:
    """
    Data-set units [chunk, 7] → m, rotation vector (rad), gripper 0 (closed) … 1 (open).

    Returns float32 [chunk, 7]. The gripper is clipped to its two ends; what lies between them is
    left to the robot.
    """
    si = np.empty_like(values, dtype=np.float32)
    si[:, :3] = values[:, :3] * dataset.translation_scale_m
    si[:, 3:6] = rotation_vectors(values[:, 3:6] * dataset.rotation_scale_rad, dataset.rotation)
    closed, opened = dataset.gripper_closed, dataset.gripper_open
    si[:, 6] = np.clip((values[:, 6] - closed) / (opened - closed), 0.0, 1.0)
    return si


def bin_si(
    statistics: ActionStatistics, dataset: DatasetConfig, n_bins: int
) -> tuple[float, ...]:
    """
    How far one bin moves the robot, [7]: m, rad, share of the gripper's way.

    The range [-1, 1] has n_bins - 1 bins; see ``ActionStatistics.unnormalize`` and ``to_si``.
    """
    ranges = np.where(statistics.mask, statistics.q99 - statistics.q01, 2.0)
    way = 1 / abs(dataset.gripper_open - dataset.gripper_closed)
    scales = [*[dataset.translation_scale_m] * 3, *[dataset.rotation_scale_rad] * 3, way]
    return tuple((ranges / (n_bins - 1) * scales).tolist())


def bin_values(
    statistics: ActionStatistics, dataset: DatasetConfig, tokenizer: ActionTokenizer
) -> BinValues:
    """What the bins of translation and rotation mean, as ``Action.si`` has them."""
    ids = np.arange(tokenizer.last_id, tokenizer.first_id, -1)  # of the two lowest only one
    normalized = tokenizer.decode(ids)[:, None].repeat(SI_DIMENSIONS, 1)
    values = statistics.unnormalize(normalized)
    return BinValues.of(
        np.concatenate((values[:, :3] * np.float32(dataset.translation_scale_m),
                        values[:, 3:6] * np.float32(dataset.rotation_scale_rad)), axis=1),
        dataset.rotation)


def check_dimensions(statistics: ActionStatistics, key: str) -> None:
    """Raise SpecVLAError unless a data set's actions are of 7 dimensions."""
    if statistics.action_dim != SI_DIMENSIONS:
        raise SpecVLAError(
            f'actions of {key} have {statistics.action_dim} dimensions, must have '
            f'{SI_DIMENSIONS}: translation, rotation and gripper'
        )
