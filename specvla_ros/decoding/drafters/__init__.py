"""Drafters by name: one file each, one protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from specvla_ros.configuration import build, DecoderConfig
from specvla_ros.errors import SpecVLAError

from .drafter import DraftContext, Drafter
from .eagle import DynamicTree, EagleConfig, EagleDrafter, EagleHead
from .none import NoDrafter

__all__ = [
    'check_drafter',
    'DraftContext',
    'Drafter',
    'DynamicTree',
    'EagleConfig',
    'EagleDrafter',
    'EagleHead',
    'make_drafter',
    'NoDrafter',
]

_SETTINGS: Mapping[str, type] = {'none': NoDrafter, 'eagle': DynamicTree}


def make_drafter(
    name: str, settings: Mapping[str, object], eagle_head: Callable[[], EagleHead]
) -> Drafter:
    """
    Drafter from configuration.

    eagle_head: gives the weights; called only for the drafter that has any.
    Raises SpecVLAError for a name, a setting or a value that does not exist.
    """
    made = build(_SETTINGS, 'drafter', name, settings)
    return EagleDrafter(eagle_head(), made) if name == 'eagle' else made


def check_drafter(config: DecoderConfig, folder: Path | None) -> None:
    """Raise SpecVLAError if the decoder's drafter has weights and the folder isn't there."""
    if config.drafter.name == 'eagle' and (folder is None or not folder.is_dir()):
        raise SpecVLAError(
            f'decoder {config.name} drafts with eagle, but there is no drafter folder'
            f'{f" {folder}" if folder else ""}; give one, or use the decoder ar'
        )
