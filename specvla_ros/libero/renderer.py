"""
Which renderer MuJoCo is told to use, and what to say where it can't.

MuJoCo reads MUJOCO_GL when it is imported. robosuite sets it to egl when that is imported, unless
it is osmesa or glx, and opens EGL: so MuJoCo comes first, and what the user has set is put back.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os

from specvla_ros.errors import SpecVLAError

VARIABLE = 'MUJOCO_GL'
DEFAULT = 'osmesa'  # in software, without a display
# What MuJoCo takes on Linux: glfw and glx need a display, egl a GPU.
BACKENDS = ('osmesa', 'egl', 'glfw', 'glx')
_LET_ALONE = 'glx'  # with this, robosuite neither changes the setting nor opens a renderer


class RendererError(SpecVLAError):
    """MuJoCo has no way to render on this machine."""


def check_setting() -> str:
    """
    Return the backend that is asked for; set the default where none is.

    :raises RendererError: MuJoCo knows no such backend
    """
    said = os.environ.get(VARIABLE, '').strip()
    backend = said.lower() or DEFAULT
    if backend not in BACKENDS:
        raise RendererError(f'{VARIABLE} is {said!r}, must be one of {", ".join(BACKENDS)}; unset '
                            f'it for {DEFAULT}, which needs neither display nor GPU')
    os.environ[VARIABLE] = backend
    return backend


@contextlib.contextmanager
def importing_robosuite() -> Iterator[None]:
    """
    Import MuJoCo with the backend that is asked for, and keep robosuite from another one.

    :raises RendererError: there is no such backend, or its library isn't there
    """
    backend = check_setting()
    try:
        import mujoco  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name == 'mujoco':
            raise
        raise renderer_error(error) from error
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        raise renderer_error(error) from error
    os.environ[VARIABLE] = _LET_ALONE
    try:
        yield
    finally:
        os.environ[VARIABLE] = backend


def renderer_error(error: object) -> RendererError:
    """Return what to say where rendering fails."""
    reason = ' '.join(str(error).split())
    return RendererError(
        f'MuJoCo cannot render with {VARIABLE}={os.environ.get(VARIABLE)} ({reason}): install '
        f'libosmesa6 (`apt-get install libosmesa6`) and unset {VARIABLE}, or set it to egl on a '
        'machine with a GPU, or to glfw where there is a display')
