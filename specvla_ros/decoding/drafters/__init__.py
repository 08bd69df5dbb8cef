"""Drafters by name: one file each, one protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from specvla_ros.configuration import DecoderConfig
from specvla_ros.drafter_folders import weights_folder
from specvla_ros.errors import shown, SpecVLAError

from .drafter import DraftContext, Drafter, DRAFTERS, DrafterSettings, LearnedSettings
from .eagle import DynamicTree, EagleConfig, EagleDrafter, EagleHead
from .glance import Glance, GlanceConfig, GlanceDrafter, GlanceHead
from .history import Held, HistoryDrafter, Motion
from .hybrid_kinematic import HybridKinematic, KinematicSwitch
from .jacobi import Jacobi, JacobiDrafter
from .kalman import Kalman, KalmanDrafter
from .none import NoDrafter
from .relay import RelayDrafter
from .retrieval import Retrieval, RetrievalDrafter
from .velocity import ConstantVelocity

__all__ = [
    'able',
    'check_drafter',
    'ConstantVelocity',
    'DraftContext',
    'Drafter',
    'DRAFTERS',
    'DrafterSettings',
    'DynamicTree',
    'EagleConfig',
    'EagleDrafter',
    'EagleHead',
    'Glance',
    'GlanceConfig',
    'GlanceDrafter',
    'GlanceHead',
    'Held',
    'HistoryDrafter',
    'HybridKinematic',
    'Jacobi',
    'JacobiDrafter',
    'Kalman',
    'KalmanDrafter',
    'KinematicSwitch',
    'learned',
    'LearnedSettings',
    'make_drafter',
    'Motion',
    'NoDrafter',
    'RelayDrafter',
    'Retrieval',
    'RetrievalDrafter',
    'Weights',
]

# What gives the weights of the drafters that have any, by the names of their folders.
Weights = Mapping[str, Callable[[], Any]]
_NODES = 'nodes'


def make_drafter(name: str, settings: Mapping[str, object], weights: Weights) -> Drafter:
    """
    Drafter from configuration; ``first+second`` is a relay, with settings under each one's name.

    A relay has a setting of its own, ``nodes``: how many the tree in the prefill may have.
    weights: called for the drafters there are only.
    Raises SpecVLAError for a name, a setting or a value that does not exist.
    """
    names = name.split('+')
    if len(names) > 1:
        nodes = settings.get(_NODES)
        settings = {key: value for key, value in settings.items() if key != _NODES}
        return RelayDrafter(
            [make_drafter(part, _settings_of(part, names, settings), weights) for part in names],
            cast('int | None', nodes))  # a relay checks it
    made = DRAFTERS.make(name, settings)
    return made.drafter(weights[made.weights]() if made.weights else None)


def learned() -> dict[str, type[LearnedSettings]]:
    """Settings of the drafters that have weights, by the name of the weights' folder."""
    return {it.weights: cast('type[LearnedSettings]', it)
            for it in DRAFTERS.values() if it.weights}


def check_drafter(config: DecoderConfig, folder: Path | None) -> None:
    """
    Raise SpecVLAError if the decoder drafts with weights and they aren't there.

    folder: of all drafters' weights, see ``drafter_folders``.
    """
    names = config.drafter.name.split('+')
    if config.completion is not None:
        names += config.completion.drafter.name.split('+')
    for name in names:
        settings = DRAFTERS.get(name)
        weights = None if settings is None else settings.weights
        if weights is None or getattr(settings, 'may_lack_weights', False):
            continue
        if folder is not None and weights_folder(folder, weights):
            continue
        raise SpecVLAError(
            f'decoder {config.name} drafts with {name}, but there is no drafter folder'
            f'{f" {folder / weights}" if folder else ""}; give one, or use the decoder ar '
            f'(`specvla train {weights}` makes one)'
        )


def able(config: DecoderConfig, folder: Path | None) -> tuple[list[DecoderConfig], dict[str, str]]:
    """
    Return the candidates of a decoder whose weights are there, and why the others are not.

    Raises SpecVLAError if the decoder has no candidates and lacks weights; see ``check_drafter``.
    """
    found, missing = [], {}
    for member in config.members:
        try:
            check_drafter(member, folder)
        except SpecVLAError as error:
            if not config.candidates:
                raise
            missing[member.name] = str(error).partition(';')[0]
        else:
            found.append(member)
    return found, missing


def _settings_of(
    part: str, names: list[str], settings: Mapping[str, object]
) -> Mapping[str, object]:
    """Settings of one drafter of a relay."""
    unknown = sorted(set(settings) - set(names))
    if unknown:
        raise SpecVLAError(
            f'drafter {"+".join(names)} has settings for {unknown}, must be for some of {names} '
            f'or {_NODES}'
        )
    own = settings.get(part, {})
    if not isinstance(own, Mapping):
        raise SpecVLAError(f'settings of the drafter {part} are {shown(own)}, must be a mapping')
    return own
