"""Decoders as a run's configuration has them, read back from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specvla_ros.components import CompletionConfig, Component
from specvla_ros.configuration import DecoderConfig
from specvla_ros.errors import one_line, SpecVLAError


def decoder_of(content: Mapping[str, Any], place: str) -> DecoderConfig:
    """
    Return a decoder that `dataclasses.asdict` made an object of.

    :raises SpecVLAError: it is none, with what is wrong behind `place`
    """
    try:
        return _decoder(content)
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise SpecVLAError(f'{place} is none: {one_line(error)}') from error


def _decoder(content: Mapping[str, Any]) -> DecoderConfig:
    completion = content.get('completion')
    candidates = {name: tuple(map(_decoder, content.get(name, ())))
                  for name in ('candidates', 'chunk_candidates')}
    return DecoderConfig(**{
        **content, **candidates, 'drafter': _component(content['drafter']),
        'rule': _component(content['rule']), 'completion': completion and CompletionConfig(
            **{**completion, 'drafter': _component(completion['drafter'])})})


def _component(content: Mapping[str, Any]) -> Component:
    component = Component(**content)
    if not isinstance(component.name, str):
        raise TypeError(f'the name {component.name!r} must be a string')
    for settings in (component.settings, component.by_device, *component.by_device.values()):
        if not isinstance(settings, Mapping):
            raise TypeError(f'settings of {component.name} must be an object')
    return component
