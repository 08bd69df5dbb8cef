"""The limits of the safety envelope, from a file; `safety` holds an action to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
import math
from pathlib import Path

from specvla_ros.config_folder import config_folder
from specvla_ros.errors import SpecVLAError
from specvla_ros.typed_files import check_keys, is_number, read_yaml

FALLBACKS = ('none', 'hold', 'zero')
_WALLS = ('workspace_min_m', 'workspace_max_m')
_LIBERO_PERIOD_S = 0.05  # of the data set that files with deadline_s were written for


@dataclass(frozen=True, slots=True)
class SafetySettings:
    """
    Limits of an action; `.inf` in the file switches a limit off.

    Those of a control step hold per second as well, because the steps of an arm are never closer
    together than one control period: see `steps.StepQueue`.

    workspace_min_m, workspace_max_m: corners of the box the end effector stays in, in the robot's
        base frame; they hold where its position is known.
    step_translation_m, step_rotation_rad: length of a control step's translation and rotation.
    speed_m_s, turn_rate_rad_s: the same over the control period.
    acceleration_m_s2, turn_acceleration_rad_s2: how fast the velocity may change from one control
        step to the next. Slowing down is free: it is never right to make an arm go on.
    deadline_periods: control periods of the data set after which the fallback is published if no
    new control step has come; more than 1, because steps are at least one period apart.
    fallback: what is published while actions are missing (stale or no image, deadline, clock set
        back): 'none' nothing; 'hold' no motion, and the last target again; 'zero' no motion, and
        the present pose as target.
    """

    workspace_min_m: tuple[float, float, float]
    workspace_max_m: tuple[float, float, float]
    step_translation_m: float
    step_rotation_rad: float
    speed_m_s: float
    turn_rate_rad_s: float
    acceleration_m_s2: float
    turn_acceleration_rad_s2: float
    deadline_periods: float
    fallback: str

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if name in _WALLS:
                _check_corner(name, value)
            elif name != 'fallback' and not (is_number(value) and value > 0):
                raise SpecVLAError(f'{name} is {value!r}, must be a positive number or .inf')
        if not self.deadline_periods > 1:
            raise SpecVLAError(
                f'deadline_periods is {self.deadline_periods!r}, must be more than 1: the next '
                'control step comes one period after the one before, or later')
        for low, high in zip(self.workspace_min_m, self.workspace_max_m, strict=True):
            if not low < high:
                raise SpecVLAError(
                    f'workspace_min_m is {self.workspace_min_m}, must be less than '
                    f'workspace_max_m, {self.workspace_max_m}, along every axis')
        if self.fallback not in FALLBACKS:
            raise SpecVLAError(
                f'fallback is {self.fallback!r}, must be one of {", ".join(FALLBACKS)}')

    @classmethod
    def read(cls, name: str | Path = 'safety') -> SafetySettings:
        """
        Read a file of ``config/`` by its name ('safety', 'safety_arm'), or one by its path.

        :raises SpecVLAError: a setting is missing, unknown or can't be; the file is named
        :raises FileNotFoundError: no such file
        """
        path = Path(name)
        if path.suffix not in ('.yaml', '.yml'):
            path = config_folder() / f'{name}.yaml'
        content = read_yaml(path)
        _check_deadline(path, content)
        check_keys(path, content, required={field.name for field in fields(cls)})
        corners = {name: tuple(content[name]) for name in _WALLS
                   if isinstance(content[name], list)}
        try:
            return cls(**{**content, **corners})
        except SpecVLAError as error:
            raise SpecVLAError(f'{path}: {error}') from error


def _check_deadline(path: Path, content: Mapping[str, object]) -> None:
    """Say what stands in place of a setting that older files have."""
    if 'deadline_s' in content:
        old = content['deadline_s']
        periods = f'{old / _LIBERO_PERIOD_S:g}' if is_number(old) else 'NUMBER'
        raise SpecVLAError(
            f'{path}: deadline_s is {old!r}, but deadlines are in control periods of the data '
            f'set: write deadline_periods: {periods} in its place ({old} s at 20 Hz)')


def _check_corner(name: str, corner: object) -> None:
    if not (isinstance(corner, tuple) and len(corner) == 3
            and all(is_number(value) and not math.isnan(value) for value in corner)):
        raise SpecVLAError(f'{name} is {corner!r}, must be three numbers: x, y, z')
