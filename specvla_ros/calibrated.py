"""Which weights a calibrated preset is of: on others its promise means nothing."""

from __future__ import annotations

from pathlib import Path

from specvla_ros.configuration import DecoderConfig
from specvla_ros.drafter_folders import all_weights
from specvla_ros.errors import SpecVLAError
from specvla_ros.hashing import folder_sha256

_DATASET = 'data_set'


def identity(
    config: DecoderConfig, folder: Path, drafters: Path | None, unnorm_key: str
) -> dict[str, str]:
    """
    Return what a promise hangs on, as the preset's entry `calibrated` has it.

    Hashes of the target and of the decoder's drafters that have weights, by their names, and the
    data set whose statistics say what a bin is worth.
    """
    return {_DATASET: unnorm_key, **_hashes(config, folder, drafters)}


def check_calibrated(
    config: DecoderConfig, folder: Path | None, drafters: Path | None,
    unnorm_key: str | None = None,
) -> None:
    """
    Refuse a preset that was calibrated for other weights than these; others pass.

    folder: of the target; drafters: see ``drafter_folders``; unnorm_key: None = not known yet.
    Raises SpecVLAError.
    """
    if not config.calibrated:
        return
    found = _hashes(config, folder, drafters) if folder else {'target': 'made without files'}
    if unnorm_key is not None:
        found[_DATASET] = unnorm_key
    for name in {**config.calibrated, **found}:
        wanted, here = config.calibrated.get(name, 'none'), found.get(name, 'none')
        unknown = name == _DATASET and unnorm_key is None
        if not unknown and here != wanted:
            raise SpecVLAError(
                f'the decoder {config.name} was calibrated for another {name.replace("_", " ")} '
                f'({wanted[:16]}, here it is {here[:16]}), so what it '
                'promises does not hold: run `specvla calibrate` again, or take its entry '
                '`calibrated` out to use it without a promise')


def _hashes(config: DecoderConfig, folder: Path, drafters: Path | None) -> dict[str, str]:
    weights = all_weights(drafters) if drafters else {}
    return {'target': folder_sha256(folder), **{
        name: folder_sha256(weights[name])
        for name in config.drafter.name.split('+') if name in weights}}
