"""LIBERO's stored initial states: a file a task, 50 states of the simulator each."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
from numpy.typing import NDArray

from specvla_ros.errors import SpecVLAError
from specvla_ros.libero import suites

_WAY_OUT = 'install LIBERO anew: `pip install --force-reinstall --no-deps hf-libero==0.1.4`'


def path_of(task: suites.Task) -> Path:
    """Return where the states of a task are stored."""
    return suites.package_folder() / 'init_files' / task.suite / f'{task.name}.pruned_init'


def read(path: Path, size: int | None = None) -> NDArray[np.float64]:
    """
    Return the states of a file, float64 [50, state dimension].

    The file is a pickle. Only arrays are unpickled, so a malicious file runs no code.

    :param size: state dimension of the task's scene; None = any
    :raises SpecVLAError: the file is missing, damaged, or holds something else
    """
    import torch

    # An array is pickled with these names, in numpy 1 and in numpy 2.
    core = import_module(f'numpy.{"core" if np.__version__ < "2" else "_core"}.multiarray')
    allowed = [(core._reconstruct, name) for name in (
        'numpy.core.multiarray._reconstruct', 'numpy._core.multiarray._reconstruct')]
    try:
        with torch.serialization.safe_globals([
                *allowed, np.ndarray, np.dtype, type(np.dtype(np.float64))]):
            states = torch.load(path, weights_only=True)
    except FileNotFoundError as error:
        raise SpecVLAError(f'the initial states {path} are missing; {_WAY_OUT}') from error
    except UnpicklingError as error:  # its own text tells how to read it all the same
        raise SpecVLAError(f'the initial states {path} are damaged (no plain array of float64); '
                           f'{_WAY_OUT}') from error
    except Exception as error:  # noqa: BLE001 - damaged bytes can lead to anything
        reason = next(iter(str(error).splitlines()), '') or type(error).__name__
        raise SpecVLAError(f'the initial states {path} are damaged ({reason}); {_WAY_OUT}'
                           ) from error
    shape = getattr(states, 'shape', None)
    if not isinstance(states, np.ndarray) or states.dtype != np.float64 or states.ndim != 2 or \
            len(states) != suites.N_INITIAL_STATES or size not in (None, states.shape[1]) or \
            not np.isfinite(states).all():
        found = type(states).__name__ if shape is None else f'{states.dtype} {list(shape)}'
        raise SpecVLAError(
            f'the initial states {path} are {found}, must be finite float64 '
            f'[{suites.N_INITIAL_STATES}, {size or "state dimension"}]; {_WAY_OUT}')
    return states
