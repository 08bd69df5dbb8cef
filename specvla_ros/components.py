"""The parts of a decoder's preset: drafter, rule, completion, each by its name and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from specvla_ros.errors import shown, SpecVLAError
from specvla_ros.typed_files import is_number

DEVICES = ('cpu', 'cuda')


@dataclass(frozen=True, slots=True)
class Component:
    """
    A drafter or a rule by name, with its settings.

    settings: hold everywhere; by_device: those of one device type ('cpu', 'cuda') on top. How
    wide a draft tree may be is the device's: a CPU pays for every node, a GPU hardly does.
    """

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)
    by_device: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def settings_on(self, device_type: str) -> dict[str, object]:
        """Return the settings that hold on this type of device."""
        return {**self.settings, **self.by_device.get(device_type, {})}


@dataclass(frozen=True, slots=True)
class CompletionConfig:
    """
    When a drafter's prediction is taken without a pass of the target.

    every: at most one of this many actions. after_rejection: for the rest of an action, once a
    draft was rejected. skip_above: for a whole action, if the drafter's likeness (at most 1) of
    what is seen is at least this; None = never.
    """

    drafter: Component
    every: int = 4
    after_rejection: bool = True
    skip_above: float | None = None

    def __post_init__(self) -> None:
        if type(self.every) is not int or self.every < 1:
            raise SpecVLAError(
                f'completion every is {shown(self.every)}, must be a whole number of actions >= 1')
        if not isinstance(self.after_rejection, bool):
            raise SpecVLAError(f'completion after_rejection is {shown(self.after_rejection)}, '
                               'must be true or false')
        likeness = self.skip_above
        if likeness is not None and not (is_number(likeness) and 0 < likeness <= 1):
            raise SpecVLAError(f'completion skip_above is {shown(likeness)}, must be above 0, at '
                               'most 1, or left out')


def read_completion(path: Path, content: object) -> CompletionConfig:
    """Read a preset's entry `completion`."""
    names = {setting.name for setting in fields(CompletionConfig)}
    if not isinstance(content, dict) or 'drafter' not in content or set(content) - names:
        raise SpecVLAError(f'completion is {shown(content)}, must be a mapping with a drafter and '
                           f'some of {sorted(names - {"drafter"})}')
    drafter = content['drafter']
    if isinstance(drafter, str):
        drafter = {'name': drafter}
    return CompletionConfig(**{**content, 'drafter': read_component(path, 'drafter', drafter)})


def read_component(path: Path, kind: str, content: object) -> Component:
    """Split a drafter's or rule's entry into name, settings and settings by device."""
    if not isinstance(content, dict) or not isinstance(content.get('name'), str):
        raise SpecVLAError(f'{path}: {kind} is {shown(content)}, must be a mapping with a name')
    settings = {str(key): value for key, value in content.items() if key != 'name'}
    by_device = {device: settings.pop(device) for device in DEVICES if device in settings}
    for device, value in by_device.items():
        if not isinstance(value, dict):
            raise SpecVLAError(f'{path}: {kind} {device} is {shown(value)}, must be a mapping')
    return Component(content['name'], settings, by_device)
