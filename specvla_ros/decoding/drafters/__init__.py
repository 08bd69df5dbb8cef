"""Drafters by name: one file each, one protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from specvla_ros.configuration import build
from specvla_ros.errors import SpecVLAError

from .drafter import DraftContext, Drafter
from .eagle import DynamicTree, EagleDrafter
from .eagle_head import EagleConfig, EagleHead
from .none import NoDrafter

DRAFTERS = ('none', 'eagle')

__all__ = [
    'DRAFTERS',
    'DraftContext',
    'Drafter',
    'DynamicTree',
    'EagleConfig',
    'EagleDrafter',
    'EagleHead',
    'NoDrafter',
    'make_drafter',
]


def make_drafter(
    name: str, settings: Mapping[str, object], eagle_head: Callable[[], EagleHead]
) -> Drafter:
    """
    Drafter from configuration.

    eagle_head: gives the drafter's weights; called only for a drafter that has any.
    Raises SpecVLAError for a name, a setting or a value that does not exist.
    """
    if name not in DRAFTERS:
        raise SpecVLAError(f'drafter is {name!r}, must be one of {sorted(DRAFTERS)}')
    if name == 'none':
        return build({'none': NoDrafter}, 'drafter', name, settings)
    return EagleDrafter(
        eagle_head(), build({'eagle': DynamicTree}, 'drafter', name, settings)
    )
