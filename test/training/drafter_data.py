"""A tiny random target with its words about the tiny data set."""

from pathlib import Path

import torch

from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training.regenerate import RegenerateArgs
from specvla_ros.training.shape import new_target
from specvla_ros.training.tokenizer import build_tokenizer, prompt_text
from test.training.conftest import INSTRUCTIONS, SUITE, TINY


def write_target(folder: Path, seed: int = 0) -> Path:
    """Write a random target whose words depend on what it sees and was fed."""
    tokenizer = build_tokenizer([prompt_text(text) for text in INSTRUCTIONS], 300)
    model: OpenVLA = new_target(TINY, tokenizer, 300, seed)
    with torch.no_grad():
        model.lm_head.weight.mul_(50)  # distributions with a clear favourite
    model.norm_stats = {SUITE: {'action': {
        'q01': [-1.0] * 6 + [0.0], 'q99': [1.0] * 7, 'mask': [True] * 6 + [False]}}}
    model.save_pretrained(folder)
    return folder


def regenerate_args(tmp_path: Path, data: Path, **changes) -> RegenerateArgs:
    """Arguments that put everything under `tmp_path`."""
    settings = dict(target=tmp_path / 'target', data=data, out=tmp_path / 'words', batch=5)
    return RegenerateArgs(**(settings | changes))
