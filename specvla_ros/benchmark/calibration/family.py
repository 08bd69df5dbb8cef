"""The decoders among which a calibration chooses: one preset, its thresholds times a scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from specvla_ros.components import Component
from specvla_ros.configuration import DecoderConfig
from specvla_ros.errors import SpecVLAError

# By rule, the settings that a scale multiplies; `gripper` is a share of a way.
THRESHOLDS: dict[str, dict[str, float]] = {
    'tolerance': {'mm': 2.0, 'deg': 0.5, 'gripper': 0.0}, 'bins': {'r': 9}}
_ROUNDING = 1e-9  # bins


def check_family(config: DecoderConfig) -> None:
    """Raise SpecVLAError for a preset whose rule has no thresholds to scale."""
    if config.candidates or config.completion is not None:
        raise SpecVLAError(
            f'--decoder {config.name}: give a preset of one drafter that leaves nothing '
            'unverified, like tolerance')
    if config.by_step:
        raise SpecVLAError(
            f'--decoder {config.name}: its thresholds grow by step (per_step), and a promise '
            'holds for every step; set per_step to 0')
    if config.rule.name not in THRESHOLDS or config.rule.by_device:
        raise SpecVLAError(
            f'--decoder {config.name}: its rule is {config.rule.name}, must be one of '
            f'{", ".join(THRESHOLDS)}, alike on all devices: a scale multiplies its thresholds')


def thresholds(config: DecoderConfig) -> dict[str, float]:
    """Return the thresholds of a preset: mm, degrees, share of the gripper's way; or bins."""
    found: Mapping[str, Any] = config.rule.settings  # numbers: `make_rule` has seen to that
    return {name: found.get(name, default)
            for name, default in THRESHOLDS[config.rule.name].items()}


def scaled(config: DecoderConfig, scale: float) -> DecoderConfig:
    """Return the preset with its thresholds times a scale; 0 accepts the target's own choice."""
    found = {name: scale * value for name, value in thresholds(config).items()}
    if 'r' in found:
        found['r'] = int(found['r'] + _ROUNDING)
    else:
        found['gripper'] = min(1.0, found['gripper'])
    settings = {**config.rule.settings, **found}
    return replace(config, name=f'{config.name}*{scale:g}', calibrated={},
                   rule=Component(config.rule.name, settings))


def in_words(found: Mapping[str, float]) -> str:
    """Name thresholds with their units."""
    if 'r' in found:
        return f'r = {found["r"]} bins'
    gripper = f', gripper {found["gripper"]:g}' if found['gripper'] else ''
    return f'{found["mm"]:g} mm, {found["deg"]:g}°{gripper}'
