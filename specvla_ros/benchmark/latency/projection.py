"""
Speed without weights: a random model of a given shape, whose drafts are accepted by a table.

Every pass does its real work: towers, prefill, drafter, verification. The tokens of a random model
mean nothing, so a published distribution decides how many drafts of a pass are accepted. The
times are therefore real, and the speed-up is a projection.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from specvla_ros.configuration import DecoderConfig
from specvla_ros.errors import SpecVLAError

if TYPE_CHECKING:
    import torch

    from specvla_ros.openvla.config import OpenVLAConfig

TABLE = Path(__file__).parent / 'data' / 'spec_vla_table2.csv'
SOURCE = 'Spec-VLA, arXiv 2507.22424, Table 2'
SHAPES = ('7b', 'embedded')
RULES = ('strict', 'relaxed')


@dataclass(frozen=True, slots=True)
class PublishedAcceptance:
    """
    A published distribution: how many drafts a verification pass keeps.

    :param shares: by rule, the probability of 0, 1, 2 … drafts, bonus not counted
    """

    name: str
    shares: dict[str, tuple[float, ...]]

    def of(self, config: DecoderConfig) -> tuple[float, ...]:
        """Return the distribution of a decoder: by its own rule, or the only one there is."""
        if len(self.shares) == 1:
            return next(iter(self.shares.values()))
        exact = config.rule.name == 'strict' or config.rule.settings.get('r') == 0
        return self.shares['strict' if exact else 'relaxed']


def read_acceptance(name: str) -> PublishedAcceptance:
    """
    Read `SUITE` or `SUITE:RULE` from the published table.

    :raises SpecVLAError: no such row; lists those there are
    """
    with open(TABLE, newline='') as file:
        rows = list(csv.reader(line for line in file if not line.startswith('#')))[1:]
    table: dict[str, dict[str, tuple[float, ...]]] = {}
    for suite, rule, *percent in rows:
        counts = np.array(percent, float)
        table.setdefault(suite, {})[rule] = tuple(counts / counts.sum())
    suite, _, rule = name.partition(':')
    if suite not in table or rule not in ('', *RULES):
        raise SpecVLAError(f'--accept-from {name}: must be one of {", ".join(table)}, with or '
                           f'without :{" or :".join(RULES)} behind it')
    return PublishedAcceptance(name, {rule: table[suite][rule]} if rule else table[suite])


def read_shape(name: str) -> OpenVLAConfig:
    """
    Return the dimensions called `7b` or `embedded`, or those of a config.json.

    :raises ValueError: neither of them, or no OpenVLA
    """
    from specvla_ros.embedded import DEFAULT_CHECKPOINT
    from specvla_ros.openvla.checkpoint import read_config
    from specvla_ros.openvla.config import OpenVLAConfig

    if name == '7b':  # what the published config.json names; the rest are its defaults
        return OpenVLAConfig.from_dict({
            'model_type': 'openvla', 'vision_backbone_id': 'dinosiglip-vit-so-224px'})
    folder = DEFAULT_CHECKPOINT if name == 'embedded' else Path(name)
    if not folder.is_dir():
        raise SpecVLAError(f'--shape {name}: must be {" or ".join(SHAPES)}, or a folder with the '
                           'config.json of an OpenVLA')
    return OpenVLAConfig.from_dict(read_config(folder))


def check_memory(needed: int, device: torch.device) -> None:
    """Raise SpecVLAError unless the device has room for the weights, in bytes."""
    there = _free_bytes(device)
    if needed > there:
        raise SpecVLAError(f'the weights need {needed / 1e9:.1f} GB, {device} has '
                           f'{there / 1e9:.1f} GB free; give a smaller --shape or --dtype')


def _free_bytes(device: torch.device) -> int:
    if device.type == 'cuda':
        import torch
        return torch.cuda.mem_get_info(device)[0]
    # Not the free pages: what the kernel would take back from its caches counts as well.
    for line in Path('/proc/meminfo').read_text().splitlines():
        if line.startswith('MemAvailable:'):
            return 1024 * int(line.split()[1])
    raise OSError('/proc/meminfo has no MemAvailable')
