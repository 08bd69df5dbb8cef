"""Whose small operations a device runs: Triton's where it can, else torch's."""

from __future__ import annotations

from functools import cache
import warnings

import torch

from .errors import one_line
from .small_operations import SmallOperations


@cache
def small_operations(device: torch.device) -> SmallOperations:
    """
    Return the fastest implementation that runs on a device.

    Triton compiles its kernels here, with the C compiler of the machine. Where it can't, a
    warning says why and torch's are taken.
    """
    if device.type != 'cuda':
        return SmallOperations()
    try:
        from .triton_operations import TritonOperations

        made = TritonOperations()
        with torch.cuda.device(device), torch.inference_mode():
            made.gated(torch.ones(1, 4, device=device))
    except Exception as error:  # what Triton raises is of many kinds, and none stops the model
        reason = one_line(error, 200)
        warnings.warn(
            f'Triton does not run on {device} ({type(error).__name__}: {reason}): small kernels '
            "are torch's, and a pass of a 7B takes about a tenth longer; install torch's own "
            'triton and a C compiler', stacklevel=2)
        return SmallOperations()
    return made
