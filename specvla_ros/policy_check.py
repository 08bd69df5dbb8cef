"""
What a policy's folders and settings say, down to the shapes of the weights, which are not read.

So that what can't act is refused within a second, and before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch

from specvla_ros.actions import check_dimensions
from specvla_ros.calibrated import check_calibrated
from specvla_ros.configuration import DecoderConfig
from specvla_ros.decoding.drafters import able, learned, make_drafter
from specvla_ros.decoding.rules import make_rule
from specvla_ros.devices import resolve_device, resolve_dtype
from specvla_ros.drafter_folders import weights_folder
from specvla_ros.loaded_checkpoint import action_chunk
from specvla_ros.openvla.action_tokenizer import ActionStatistics
from specvla_ros.openvla.checkpoint import read_config, read_norm_stats
from specvla_ros.openvla.config import OpenVLAConfig
from specvla_ros.openvla.layout import published_tensors
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.openvla.preprocessor import read_normalisation
from specvla_ros.openvla.prompt import load_tokenizer
from specvla_ros.openvla.quantization import check_quantization
from specvla_ros.openvla.weights import check_weights


def check_policy(
    folder: Path, drafters: Path, decoders: Iterable[DecoderConfig], device: str = 'auto',
    dtype: str | None = None, quantization: str = 'none', chunk: int | None = None,
) -> frozenset[str]:
    """
    Check a checkpoint, its drafters, and how they are to be used; return its statistics' keys.

    :param drafters: folder of the drafters' weights, which only some decoders need
    :param chunk: control steps that an action is to have; None = as the checkpoint says
    :raises ValueError, FileNotFoundError: what is wrong and what is allowed
    """
    where = resolve_device(device)
    check_quantization(quantization, where, resolve_dtype(dtype))
    content = read_config(folder)
    config = OpenVLAConfig.from_dict(content, str(folder / 'config.json'))
    steps = action_chunk(config, chunk)
    statistics = read_norm_stats(folder, content)
    if len(statistics) == 1:  # of several, the user chooses one by its name
        (key, of_key), = statistics.items()
        check_dimensions(ActionStatistics.from_dict(of_key['action'], key), key)
    read_normalisation(folder, config)
    load_tokenizer(folder, config)
    with torch.device('meta'):
        model = OpenVLA(config)
    check_weights(folder, published_tensors(model.state_dict()), config.vision_config)
    weights = {name: partial(settings.read, weights_folder(drafters, name), model)
               for name, settings in learned().items()}
    for decoder in decoders:
        for member in decoder.all_members:
            make_rule(member.rule.name, member.rule.settings)
        for member in able(decoder.of_chunk(steps), drafters)[0]:
            check_calibrated(member, folder, drafters)
            make_drafter(member.drafter.name, member.drafter.settings_on(where.type), weights)
    return frozenset(statistics)
