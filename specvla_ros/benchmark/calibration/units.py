"""What was measured of an episode: how far each scale's actions are from the target's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
import json
from typing import Literal, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specvla_ros.benchmark.records import RecordLog
from specvla_ros.typed_files import typed, value_of

if TYPE_CHECKING:  # heavy
    from specvla_ros.actions import Action

Promise = Literal['episodes', 'actions']


@dataclass(frozen=True, slots=True)
class DeviationLimits:
    """How far off an action may be: mm and degrees of a step, share of the gripper's way."""

    mm: float
    deg: float
    gripper: float


@dataclass(frozen=True, slots=True)
class ScaleMeasurement:
    """
    One scale on the frames of a unit, in their order.

    mm, deg: length of the difference of a control step's translation, and of its rotation vector
    (no less than the angle between the two rotations); gripper: share of its way. Of several
    control steps the farthest. passes: of the target, the prefill included.
    """

    scale: float
    mm: tuple[float, ...]
    deg: tuple[float, ...]
    gripper: tuple[float, ...]
    passes: tuple[int, ...]

    def exceeds(self, limits: DeviationLimits) -> NDArray[np.bool_]:
        """Whether each action is farther off than it may be: [frames]."""
        return np.any([np.array(getattr(self, name)) > getattr(limits, name)
                       for name in DeviationLimits.__slots__], axis=0)


@dataclass(frozen=True, slots=True)
class Unit:
    """
    An episode, or a part of a bag under one instruction; units are exchangeable.

    name: what makes it the same one after a restart. success: of an episode that was played;
    None = a recording. scales: tightest first.
    """

    name: str
    success: bool | None
    scales: tuple[ScaleMeasurement, ...]

    @property
    def frames(self) -> int:
        """How many frames were looked at."""
        return len(self.scales[0].mm)

    def to_json(self) -> str:
        """Return one line of JSON, without the newline."""
        return json.dumps(asdict(self), separators=(',', ':'))

    @classmethod
    def from_json(cls, line: str) -> Unit:
        """
        Read one line back.

        :raises ValueError: not such a line
        """
        content = json.loads(line)
        scales = value_of(tuple[dict, ...], content.get('scales'), 'scales')
        unit = typed(cls, {**content, 'scales': [
            typed(ScaleMeasurement, scale, 'scale') for scale in scales]}, 'unit')
        if not unit.scales or len({len(getattr(scale, name)) for scale in unit.scales
                                   for name in ScaleMeasurement.__slots__[1:]} | {0}) != 2:
            raise ValueError(f'unit {unit.name}: its scales are not of the same frames')
        return unit


class UnitLog(RecordLog['Unit']):
    """The file measured units are appended to."""

    record = Unit


def measure_scale(
    scale: float, actions: Sequence[Action], references: Sequence[Action]
) -> ScaleMeasurement:
    """Compare a scale's actions with the target's own for the same frames."""
    off = np.array([np.asarray(action.si, float) - np.asarray(reference.si, float)
                    for action, reference in zip(actions, references, strict=True)])
    return ScaleMeasurement(
        scale,
        mm=_rounded(1e3 * np.linalg.norm(off[..., :3], axis=2).max(axis=1)),
        deg=_rounded(np.degrees(np.linalg.norm(off[..., 3:6], axis=2)).max(axis=1)),
        gripper=_rounded(np.abs(off[..., 6]).max(axis=1)),
        passes=tuple(action.trace.target_passes for action in actions))


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(np.round(values, 6).tolist())


def losses(
    units: Sequence[Unit], limits: DeviationLimits, promise: Promise
) -> NDArray[np.float64]:
    """
    Return what each unit loses at each scale, [units, scales] in [0, 1].

    promise: 'episodes': 1 where any action is off by more than the limits; 'actions': the share of
    them that are.
    """
    count = np.any if promise == 'episodes' else np.mean
    return np.array([[count(scale.exceeds(limits)) for scale in unit.scales] for unit in units],
                    float)
