"""
The envelope an action must fit in before it may reach a robot; no ROS in it.

Every limit is a set of motions that holds "no motion" and, with a motion, all shorter ones in its
direction. So one scaling satisfies all of them at once, and the direction is kept: a translation
or a rotation that is too much becomes the longest one in its direction that is inside. Only the
walls of the workspace are different: they take away the part of a motion that leads through them,
so that a tool that touches a wall can still slide along it.

How much is allowed, `SafetySettings` says; nothing but this file holds an action to it.

What is limited is what is commanded. It is no substitute for the robot's own safety functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specvla_ros.safety_settings import SafetySettings

_SI_DIMENSIONS = 7
_BISECTIONS = 50  # leaves 2^-50 of the motion undecided: what rounding does anyway

Vector = Sequence[float]


@dataclass(frozen=True, slots=True)
class StepLimits:
    """
    The envelope of the next control step, as the robot is now: what a decoder may choose from.

    low_m, high_m: to the walls of the workspace along x, y, z; infinite where the position is not
        known. A positive ``low_m`` or a negative ``high_m`` means outside.
    longest: of the translation, m, and of the rotation, rad.
    change: the most that translation and rotation may differ from the step before, m, rad; a
    shorter step in the same direction counts as no difference.
    before: the step before, m and rad [6]; zeros at rest.
    """

    low_m: tuple[float, float, float]
    high_m: tuple[float, float, float]
    longest: tuple[float, float]
    change: tuple[float, float]
    before: tuple[float, ...]


NO_LIMITS = StepLimits(
    (-math.inf,) * 3, (math.inf,) * 3, (math.inf,) * 2, (math.inf,) * 2, (0.0,) * 6)


def step_limits(
    settings: SafetySettings,
    period_s: float,
    *,
    position_m: ArrayLike | None = None,
    previous: ArrayLike | None = None,
) -> StepLimits:
    """
    Return what `fit` leaves unchanged of the next control step, as numbers.

    Arguments as of `fit`. A position that is not finite is none: `fit` refuses all actions then.
    """
    low, high = np.full(3, -np.inf), np.full(3, np.inf)
    if position_m is not None and np.isfinite(position_m).all():
        place = np.asarray(position_m, np.float64)
        low, high = (np.array(wall) - place for wall in (
            settings.workspace_min_m, settings.workspace_max_m))
    before = _step_before(previous)
    return StepLimits(
        tuple(low.tolist()), tuple(high.tolist()),
        (min(settings.step_translation_m, settings.speed_m_s * period_s),
         min(settings.step_rotation_rad, settings.turn_rate_rad_s * period_s)),
        (settings.acceleration_m_s2 * period_s**2,
         settings.turn_acceleration_rad_s2 * period_s**2),
        tuple(before[:6].tolist()))


@dataclass(frozen=True, slots=True)
class SafeAction:
    """
    What became of an action.

    deltas: float64 [chunk, 7], m, rad, gripper 0 … 1; None where it is refused.
    limited_by: the settings that changed it, in no order that matters; () where nothing did.
    refusal: why it must not be executed, else ''.
    """

    deltas: NDArray[np.float64] | None
    limited_by: tuple[str, ...] = ()
    refusal: str = ''


def fit(
    deltas: ArrayLike,
    settings: SafetySettings,
    period_s: float,
    *,
    position_m: ArrayLike | None = None,
    previous: ArrayLike | None = None,
) -> SafeAction:
    """
    Return the action, inside the envelope; one that is inside already is unchanged to the bit.

    :param deltas: [chunk, 7]: translation (m), rotation vector (rad), gripper (1 = open)
    :param period_s: how long a control step lasts
    :param position_m: [3] of the end effector in the base frame; None: unknown, no walls then
    :param previous: [7], the control step published before; None: the arm is at rest
    """
    wanted = np.asarray(deltas, np.float64)
    if reason := refusal(wanted) or _refusal_of("end effector's position", position_m):
        return SafeAction(None, refusal=reason)
    before = _step_before(previous)
    place = None if position_m is None else np.asarray(position_m, np.float64)
    safe, limited_by = np.empty_like(wanted), set()
    for step, delta in enumerate(wanted):
        safe[step], names = _fit_step(delta, settings, period_s, place, before)
        limited_by |= names
        before = safe[step]
        place = None if place is None else place + safe[step, :3]
    return SafeAction(safe, tuple(sorted(limited_by)))


def refusal(deltas: ArrayLike) -> str:
    """Return why an action must never be executed, whatever the envelope; '' where it may."""
    shape = np.shape(deltas)
    if len(shape) != 2 or shape[1] != _SI_DIMENSIONS or not shape[0]:
        return (f'the action has shape {list(shape)}, must be [control steps, {_SI_DIMENSIONS}]')
    return _refusal_of('action', deltas)


def _step_before(previous: ArrayLike | None) -> NDArray[np.float64]:
    """Return the control step published before; zeros where the arm is at rest."""
    return np.zeros(_SI_DIMENSIONS) if previous is None else np.asarray(previous, np.float64)


def _refusal_of(name: str, values: ArrayLike | None) -> str:
    if values is None or np.isfinite(values).all():
        return ''
    return f'the {name} is not finite: {np.asarray(values).tolist()}'


def _fit_step(
    delta: NDArray[np.float64],
    settings: SafetySettings,
    period_s: float,
    place: NDArray[np.float64] | None,
    before: NDArray[np.float64],
) -> tuple[NDArray[np.float64], set[str]]:
    """Fit one control step; return it, and the settings that changed it."""
    safe, limited_by = delta.copy(), set()
    if place is not None:
        safe[:3] = _keep_inside(delta[:3], place, settings)
        if (safe[:3] != delta[:3]).any():
            limited_by.add('workspace')
    for part, limits in (
        (slice(0, 3), ('step_translation_m', 'speed_m_s', 'acceleration_m_s2')),
        (slice(3, 6), ('step_rotation_rad', 'turn_rate_rad_s', 'turn_acceleration_rad_s2')),
    ):
        checks = _checks(limits, settings, period_s, before[part].tolist())
        safe[part], names = _shorten(safe[part].tolist(), checks)
        limited_by |= names
    safe[6] = np.clip(delta[6], 0.0, 1.0)
    if safe[6] != delta[6]:
        limited_by.add('gripper')
    return safe, limited_by


def _checks(
    limits: tuple[str, str, str], settings: SafetySettings, period_s: float, old: Vector
) -> dict[str, Callable[[Vector], bool]]:
    """Say, by the names of the settings, whether a vector keeps to step, speed, acceleration."""
    step, speed, acceleration = (getattr(settings, name) for name in limits)
    return dict(zip(limits, (
        lambda vector: math.hypot(*vector) <= step,
        lambda vector: math.hypot(*vector) <= speed * period_s,
        lambda vector: _change(vector, old) <= acceleration * period_s**2,
    ), strict=True))


def _shorten(
    vector: Vector, checks: dict[str, Callable[[Vector], bool]]
) -> tuple[Vector, set[str]]:
    """
    Scale a vector to the longest one that passes all checks; return it, and those it had failed.

    Bisection, so that what is returned has itself passed the checks: no rounding undoes it.
    """
    failed = {name for name, check in checks.items() if not check(vector)}
    if not failed:
        return vector, failed
    inside, outside = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (inside + outside) / 2
        scaled = [middle * value for value in vector]
        if all(check(scaled) for check in checks.values()):
            inside = middle
        else:
            outside = middle
    return [inside * value for value in vector], failed


def _change(new: Vector, old: Vector) -> float:
    """
    Return how far `new` lies from the nearest part of the way from standing still to `old`.

    That is the change of a control step that has to be paid for: slowing down along the old
    direction, to a standstill if need be, is free.
    """
    square = sum(value * value for value in old)
    along = sum(a * b for a, b in zip(new, old, strict=True)) / square if square else 0.0
    share = min(max(along, 0.0), 1.0)
    return math.hypot(*(a - share * b for a, b in zip(new, old, strict=True)))


def _keep_inside(
    translation: NDArray[np.float64], place: NDArray[np.float64], settings: SafetySettings
) -> NDArray[np.float64]:
    """Take away what leads through a wall; from outside the box only the way back is free."""
    low = np.minimum(np.array(settings.workspace_min_m) - place, 0.0)
    high = np.maximum(np.array(settings.workspace_max_m) - place, 0.0)
    return np.clip(translation, low, high)
