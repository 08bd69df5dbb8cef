"""Drafters by name: one file each, one protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from specvla_ros.configuration import build, DecoderConfig
from specvla_ros.errors import shown, SpecVLAError

from .drafter import DraftContext, Drafter
from .eagle import DynamicTree, EagleConfig, EagleDrafter, EagleHead
from .glance import Glance, GlanceConfig, GlanceDrafter, GlanceHead
from .glance_head import FOLDER as GLANCE_FOLDER
from .history import ConstantVelocity, Held, HistoryDrafter, Motion
from .none import NoDrafter
from .relay import RelayDrafter

__all__ = [
    'check_drafter',
    'ConstantVelocity',
    'DraftContext',
    'Drafter',
    'DynamicTree',
    'EagleConfig',
    'EagleDrafter',
    'EagleHead',
    'Glance',
    'GLANCE_FOLDER',
    'GlanceConfig',
    'GlanceDrafter',
    'GlanceHead',
    'Heads',
    'Held',
    'HistoryDrafter',
    'make_drafter',
    'NoDrafter',
    'RelayDrafter',
]

# What gives the weights of the drafters that have any, by their names.
Heads = Mapping[str, Callable[[], Any]]

_SETTINGS: Mapping[str, type] = {
    'none': NoDrafter,
    'eagle': DynamicTree,
    'glance': Glance,
    'history': Held,
    'velocity': ConstantVelocity,
}


def make_drafter(name: str, settings: Mapping[str, object], heads: Heads) -> Drafter:
    """
    Drafter from configuration; ``first+second`` is a relay, with settings under each one's name.

    heads: called for the drafters there are only.
    Raises SpecVLAError for a name, a setting or a value that does not exist.
    """
    names = name.split('+')
    if len(names) > 1:
        return RelayDrafter(
            [make_drafter(part, _settings_of(part, names, settings), heads) for part in names]
        )
    made = build(_SETTINGS, 'drafter', name, settings)
    if isinstance(made, DynamicTree):
        return EagleDrafter(heads['eagle'](), made)
    if isinstance(made, Glance):
        return GlanceDrafter(heads['glance'](), made)
    return HistoryDrafter(made) if isinstance(made, Motion) else made


def check_drafter(config: DecoderConfig, folder: Path | None) -> None:
    """Raise SpecVLAError if the decoder drafts with weights and they aren't there."""
    for name, within in (('eagle', ''), ('glance', GLANCE_FOLDER)):
        if name not in config.drafter.name.split('+'):
            continue
        place = folder and folder / within
        if place is None or not place.is_dir():
            raise SpecVLAError(
                f'decoder {config.name} drafts with {name}, but there is no drafter folder'
                f'{f" {place}" if place else ""}; give one, or use the decoder ar (`specvla train '
                f'{"drafter" if name == "eagle" else name}` makes one)'
            )


def _settings_of(
    part: str, names: list[str], settings: Mapping[str, object]
) -> Mapping[str, object]:
    """Settings of one drafter of a relay."""
    unknown = sorted(set(settings) - set(names))
    if unknown:
        raise SpecVLAError(
            f'drafter {"+".join(names)} has settings for {unknown}, must be for some of {names}'
        )
    own = settings.get(part, {})
    if not isinstance(own, Mapping):
        raise SpecVLAError(f'settings of the drafter {part} are {shown(own)}, must be a mapping')
    return own
