"""How a checkpoint's frames become pictures, in words, for `specvla doctor` and reports."""

from __future__ import annotations

from pathlib import Path


def describe(folder: Path) -> dict[str, str]:
    """
    Return a sentence for each data set of a checkpoint that has a configuration here.

    Nothing but small files is read. Raises ValueError or FileNotFoundError for a folder that is
    refused on load.
    """
    # Here and not above: they import torch, and doctor tells when that can't be.
    from specvla_ros.data_sets import dataset_names, ImagePreparation, load_dataset
    from specvla_ros.openvla.checkpoint import read_config, read_norm_stats
    from specvla_ros.openvla.config import OpenVLAConfig
    from specvla_ros.openvla.preprocessor import read_normalisation

    content = read_config(folder)
    config = OpenVLAConfig.from_dict(content, str(folder / 'config.json'))
    normalisation = read_normalisation(folder, config)
    size, stated = config.image_size, config.image_preparation
    words = {}
    for key in sorted(read_norm_stats(folder, content).keys() & set(dataset_names())):
        dataset = load_dataset(key)
        turn = 'mirrored left to right' if dataset.mirror_image else 'not mirrored'
        image, whose = (dataset.image, 'data set') if stated is None else (
            ImagePreparation.of(stated), 'checkpoint')
        words[key] = (f'{turn}, {image} (of the {whose}), '
                      f'resize-naive by Lanczos to {size} x {size}, {normalisation}')
    return words
