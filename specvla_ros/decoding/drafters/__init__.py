"""Drafters by name: one file each, one protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from specvla_ros.configuration import build, DecoderConfig
from specvla_ros.errors import SpecVLAError

from .drafter import DraftContext, Drafter
from .eagle import DynamicTree, EagleConfig, EagleDrafter, EagleHead
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
    'Held',
    'HistoryDrafter',
    'make_drafter',
    'NoDrafter',
    'RelayDrafter',
]

_SETTINGS: Mapping[str, type] = {
    'none': NoDrafter,
    'eagle': DynamicTree,
    'history': Held,
    'velocity': ConstantVelocity,
}


def make_drafter(
    name: str, settings: Mapping[str, object], eagle_head: Callable[[], EagleHead]
) -> Drafter:
    """
    Drafter from configuration; ``first+second`` is a relay, with settings under each one's name.

    eagle_head: gives the weights; called only for the drafter that has any.
    Raises SpecVLAError for a name, a setting or a value that does not exist.
    """
    names = name.split('+')
    if len(names) > 1:
        return RelayDrafter(
            [make_drafter(part, _settings_of(part, names, settings), eagle_head) for part in names]
        )
    made = build(_SETTINGS, 'drafter', name, settings)
    if isinstance(made, DynamicTree):
        return EagleDrafter(eagle_head(), made)
    return HistoryDrafter(made) if isinstance(made, Motion) else made


def check_drafter(config: DecoderConfig, folder: Path | None) -> None:
    """Raise SpecVLAError if the decoder's drafter has weights and the folder isn't there."""
    if 'eagle' in config.drafter.name.split('+') and (folder is None or not folder.is_dir()):
        raise SpecVLAError(
            f'decoder {config.name} drafts with eagle, but there is no drafter folder'
            f'{f" {folder}" if folder else ""}; give one, or use the decoder ar'
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
        raise SpecVLAError(f'settings of the drafter {part} are {own!r}, must be a mapping')
    return own
