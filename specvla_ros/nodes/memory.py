"""What the process holds in memory, and giving it back; no ROS in it."""

import ctypes
import gc
import os
from pathlib import Path
import sys

_MB = 1e6


def resident_mb() -> float:
    """Return the process's resident memory, MB."""
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / _MB


def gpu_mb() -> float:
    """Return what torch's tensors hold on the GPU, MB; 0 where torch uses none."""
    cuda = _cuda_in_use()
    return cuda.memory_allocated() / _MB if cuda else 0.0


def give_back() -> None:
    """Hand freed memory back to the system and the GPU."""
    gc.collect()  # caches and the models that own them refer to each other
    if cuda := _cuda_in_use():
        cuda.empty_cache()
    # glibc keeps freed blocks of up to 32 MB for itself otherwise (M_MMAP_THRESHOLD is dynamic).
    ctypes.CDLL(None).malloc_trim(0)


def _cuda_in_use() -> object | None:
    """torch.cuda if this process has used a GPU; asking never makes it use one."""
    torch = sys.modules.get('torch')
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
