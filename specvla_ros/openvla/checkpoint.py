"""
An OpenVLA folder in the Hugging Face layout ⇄ configuration and statistics; see ``weights``.

``config.json``, ``model.safetensors`` or shards with an index, and optionally
``dataset_statistics.json``. The published 7B folders and small ones are read by the same code.
Source: shared facts on OpenVLA, "Checkpoint folder".
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import os
from pathlib import Path
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .action_tokenizer import ActionStatistics
from .errors import CheckpointError
from .folder_signs import check_folder
from .json_file import Fields, is_there, read_object, shown, within

CONFIG_FILE, WEIGHTS_FILE = 'config.json', 'model.safetensors'
_STATISTICS = 'dataset_statistics.json'
# As `openvla-7b+libero_object_no_noops+b16+lr-0.0005+lora-r32+dropout-0.0--image_aug`.
_RUN = re.compile(r'\+b\d+\+lr-')


def read_config(folder: Path) -> dict[str, Any]:
    """
    Content of ``config.json``.

    OpenVLA's fine-tuning puts into the folder's name alone whether images were augmented: that
    becomes ``image_preparation`` here, unless the file has one.

    Raises FileNotFoundError if the folder is none, CheckpointError if the file is not usable, or
    if another file in the folder says that the weights are not the whole model.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f'checkpoint folder {str(folder)!r} does not exist: give a folder that holds an '
            f'OpenVLA ({CONFIG_FILE}, {WEIGHTS_FILE}, tokenizer.json)'
        )
    content = read_json(folder / CONFIG_FILE)
    check_folder(folder)
    if content.get('image_preparation') is None and (area := _crop_by_name(folder)) is not None:
        content['image_preparation'] = {'jpeg': True, 'crop_area': area}
    return content


def read_norm_stats(folder: Path, config: Mapping[str, Any]) -> dict[str, dict]:
    """
    Action statistics by ``unnorm_key``.

    Those of ``dataset_statistics.json`` where there is one (fine-tuned checkpoints), else
    ``norm_stats`` of the config. Raises CheckpointError if an entry can't be used, or if the two
    say different things of one data set.
    """
    stated = Fields(config, str(folder / CONFIG_FILE)).section('norm_stats').content
    _check_statistics(folder / CONFIG_FILE, stated)
    path = folder / _STATISTICS
    if not is_there(path):
        return dict(stated)
    statistics = read_json(path)
    _check_statistics(path, statistics)
    for key in stated.keys() & statistics.keys():
        first, second = (ActionStatistics.from_dict(of[key]['action'], key)
                         for of in (stated, statistics))
        for name in ('q01', 'q99', 'mask'):
            if not _alike(getattr(first, name), getattr(second, name)):
                raise CheckpointError(
                    f'{path}: {name} of {key!r} is not what {CONFIG_FILE} has under norm_stats: '
                    'which one holds? keep the one the weights were tuned with')
    return statistics


def _crop_by_name(folder: Path) -> float | None:
    """Share of a frame's area that a run of OpenVLA's fine-tuning saw; None for other names."""
    name = folder.resolve().name
    if '--image_aug' in name:
        return 0.9
    return 1.0 if _RUN.search(name) else None


def _check_statistics(path: Path, statistics: Mapping[str, Any]) -> None:
    """Refuse statistics that can't be used, by their data sets."""
    for key, value in statistics.items():
        if not isinstance(value, dict) or not isinstance(value.get('action'), dict):
            raise CheckpointError(
                f"{path}: statistics of {shown(key)} have no 'action', must be "
                "{key: {'action': {'q01': [...], 'q99': [...], 'mask': [...]}}}"
            )
        counts = Fields(value, str(path), f'statistics of {shown(key)}')
        for name in ('num_transitions', 'num_trajectories'):
            counts.integer(name, None, least=0)
        with within(str(path)):
            ActionStatistics.from_dict(value['action'], key).check_numbers(key)


def _alike(first: NDArray, second: NDArray) -> bool:
    """Whether statistics are the same but for the rounding of their decimals."""
    return first.shape == second.shape and np.allclose(first, second, rtol=1e-4, atol=1e-6)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write ``config.json``; an older ``dataset_statistics.json`` would override it: gone."""
    with replacing(folder / CONFIG_FILE) as path:
        path.write_text(json.dumps(config, indent=2) + '\n')
    (folder / _STATISTICS).unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of a checkpoint."""
    try:
        return read_object(path)
    except FileNotFoundError as error:
        raise CheckpointError(
            f'{path.parent} has no {path.name}: not an OpenVLA checkpoint, or an incomplete one'
        ) from error


class replacing:
    """Write beside a file, then put it in its place: a crash leaves the old one whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(path.name + '.part')

    def __enter__(self) -> Path:
        return self._part

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            os.replace(self._part, self._path)
        else:
            self._part.unlink(missing_ok=True)
