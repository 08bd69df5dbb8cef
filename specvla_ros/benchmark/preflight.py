"""
What can be known to go wrong is known before anything is written, and before hours of work.

A policy is checked by everything its folders say, down to the shapes of the weights, which
themselves are not read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

from specvla_ros.benchmark import machine, probes
from specvla_ros.benchmark.arguments import PolicyArgs
from specvla_ros.configuration import DecoderConfig, load_dataset
from specvla_ros.errors import SpecVLAError
from specvla_ros.libero import suites

RENDER_TIMEOUT_S = 120.0


def statistics_of(args: PolicyArgs) -> frozenset[str]:
    """
    Return the keys of the statistics that a checkpoint has.

    :raises ValueError, FileNotFoundError: it can't be read
    """
    from specvla_ros.openvla.checkpoint import read_config, read_norm_stats

    folder, _ = machine.checkpoint_folders(args.checkpoint, args.drafter)
    return frozenset(read_norm_stats(folder, read_config(folder)))


def check_policy(args: PolicyArgs, decoders: Iterable[DecoderConfig]) -> frozenset[str]:
    """
    Check a checkpoint, its drafter, and how they are to be used; return its statistics' keys.

    :raises ValueError, FileNotFoundError: what is wrong and what is allowed
    """
    import torch

    from specvla_ros.decoding.acceptance import make_rule
    from specvla_ros.decoding.drafters import (
        check_drafter,
        EagleHead,
        GLANCE_FOLDER,
        GlanceHead,
        make_drafter,
    )
    from specvla_ros.openvla.checkpoint import check_weights, read_config
    from specvla_ros.openvla.config import OpenVLAConfig
    from specvla_ros.openvla.layout import slots
    from specvla_ros.openvla.model import OpenVLA
    from specvla_ros.openvla.prompt import load_tokenizer
    from specvla_ros.openvla.quantization import check_quantization
    from specvla_ros.policy import resolve_device, resolve_dtype

    folder, beside = machine.checkpoint_folders(args.checkpoint, args.drafter)
    device = resolve_device(args.device)
    check_quantization(args.quantization, device, resolve_dtype(args.dtype))
    config = OpenVLAConfig.from_dict(read_config(folder))
    keys = statistics_of(args)
    load_tokenizer(folder, config)
    with torch.device('meta'):
        model = OpenVLA(config)
    check_weights(folder, slots(model.state_dict()), config.vision_config)
    heads: Mapping[str, Any] = {
        'eagle': lambda: EagleHead.from_pretrained(beside, model),
        'glance': lambda: GlanceHead.from_pretrained(beside / GLANCE_FOLDER, model)}
    for decoder in decoders:
        make_rule(decoder.rule.name, decoder.rule.settings)
        check_drafter(decoder, beside or folder / 'drafter')
        make_drafter(decoder.drafter.name, decoder.drafter.settings_on(device.type), heads)
    return keys


def check_key(keys: Collection[str], wanted: str | None) -> str:
    """
    Return the statistics' key to use where no suite says which.

    :raises ValueError: the checkpoint has no such key, or several of which none is named
    """
    if wanted is None and len(keys) == 1:
        wanted, = keys
    if wanted not in keys:
        said = 'one has to be chosen' if wanted is None else f'{wanted} is none of them'
        raise SpecVLAError(f'--unnorm-key: the checkpoint has the statistics '
                           f'{", ".join(sorted(keys)) or "of nothing"}, and {said}')
    load_dataset(wanted)
    return wanted


def keys_of_suites(names: Sequence[str], keys: Collection[str], wanted: str | None
                   ) -> dict[str, str]:
    """
    Return the statistics' key of each suite, all with a configuration; see `statistics_keys`.

    :raises ValueError: as that, or nothing says what the actions of a key mean
    """
    found = suites.statistics_keys(names, keys, wanted)
    for key in found.values():
        load_dataset(key)
    return found


def check_simulator(tasks: Mapping[str, Sequence[int]]) -> None:
    """
    Check LIBERO's assets, the stored states of the tasks by suite, and the renderer.

    :raises ValueError, OSError: what is missing or damaged, and what to do
    """
    from specvla_ros.libero import initial_states
    from specvla_ros.libero.assets import installed_assets
    from specvla_ros.libero.renderer import check_setting

    check_setting()
    installed_assets()
    for suite, numbers in tasks.items():
        for number in numbers:
            initial_states.read(initial_states.path_of(suites.task(suite, number)))
    check_renderer()


def check_renderer() -> None:
    """
    Render a ball in a process of its own, as the simulator would.

    :raises SpecVLAError: MuJoCo can't, with what MUJOCO_GL was and what helps
    """
    from specvla_ros.libero.renderer import check_setting, renderer_error

    check_setting()
    root = str(Path(__file__).resolve().parents[2])
    known = os.environ.get('PYTHONPATH')
    try:
        done = subprocess.run(
            [sys.executable, '-c', probes.RENDERER], capture_output=True, text=True,
            timeout=RENDER_TIMEOUT_S, env=os.environ | {
                'PYTHONPATH': os.pathsep.join(filter(None, (root, known)))})
    except subprocess.TimeoutExpired as error:
        raise renderer_error(f'no picture within {RENDER_TIMEOUT_S:.0f} s') from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise renderer_error(said[-1] if said else f'exit code {done.returncode}')
