"""The arguments of `specvla bench`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from specvla_ros.benchmark.arguments import PolicyArgs

REPLAYED = ('ar', 'strict', 'relaxed')  # with random weights: Spec-VLA's table has no others
PEERS = ('generate', 'generate-sdpa', 'generate-compiled')


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchArgs(PolicyArgs):
    """Latency per action and stage, decoders and peers side by side in one run."""

    decoder: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Preset of config/decoders or a YAML file; give it again for more. Default: ar, auto and
    auto_relaxed; with random weights ar, strict and relaxed. `ar`, the baseline, always takes
    part."""
    peer: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """transformers' generate on the same weights: `generate` (eager attention), `generate-sdpa`,
    `generate-compiled` (static cache, torch.compile); give it again for more. Default: none."""
    suite: str = ''
    """LIBERO suite whose tasks are looked at. Default: one that the checkpoint was trained on,
    libero_object first."""
    tasks: tuple[int, ...] = (0, 3, 6)
    """Task numbers; the observations are shared out among them."""
    frames: Path | None = None
    """Folder of colour pictures (PNG, JPEG), or .npz file with `images` uint8 [N, H, W, 3] RGB, in
    the order of time, to look at instead of LIBERO."""
    instruction: str | None = None
    """Instruction that belongs to --frames."""
    execute_steps: int | None = None
    """Control steps of an action that would be executed, 1 to the chunk. This is also how many
    control steps lie between observations, those of --frames included. Default: what the
    checkpoint recommends, else all."""
    observations: int = 30
    """Frames, at most."""
    repeats: int = 2
    """How many times all look at all frames."""
    threads: int | None = None
    """Torch threads. Default: the cores there are."""
    seed: int = 0
    """Of the order on each observation, the starts in LIBERO, random weights and intervals."""
    random_weights: bool = False
    """Random weights of the dimensions --shape, on made-up frames, instead of a checkpoint."""
    shape: str = '7b'
    """Dimensions of random weights: 7b (15 GB in bfloat16), embedded, or a folder that has the
    config.json of an OpenVLA."""
    accept_from: str = 'libero_object'
    """With random weights, accepted drafts are drawn from this row of Spec-VLA's Table 2:
    SUITE (strict or relaxed as the decoder is), SUITE:strict or SUITE:relaxed."""
    out: Path | None = None
    """Folder for what the bench leaves. Default: runs/bench-<date and time>."""
    json: Path | None = None
    """Also write the report here, for machines."""
