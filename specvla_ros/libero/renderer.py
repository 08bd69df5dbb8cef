"""
The renderer that MuJoCo is told to use, and a clear error if it can't.

MuJoCo reads MUJOCO_GL when it is imported. robosuite sets it to egl when that is imported, unless
it is osmesa or glx, and opens EGL: so MuJoCo comes first, and what the user has set is put back.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import subprocess
import sys

from specvla_ros.errors import one_line, SpecVLAError

VARIABLE = 'MUJOCO_GL'
DEFAULT = 'osmesa'  # in software, without a display
# What MuJoCo takes on Linux: glfw and glx need a display, egl a GPU.
BACKENDS = ('osmesa', 'egl', 'glfw', 'glx')
TIMEOUT_S = 120.0
# For a process of its own: a driver may crash. Renders a red ball and says with what.
PROBE = """
import os, sys
from specvla_ros.libero.renderer import check_setting
try:
    check_setting()  # as the simulator does
    import mujoco
    model = mujoco.MjModel.from_xml_string('''<mujoco><worldbody><light pos="0 0 3"/>
    <geom type="sphere" size=".2" rgba="1 0 0 1"/>
    <camera name="c" pos="0 -1 0" xyaxes="1 0 0 0 0 1"/></worldbody></mujoco>''')
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = mujoco.Renderer(model, 64, 64)
    renderer.update_scene(data, camera='c')
    pixel = renderer.render()[32, 32]
    assert pixel[0] > 2 * pixel[1], f'a red ball came out as {pixel}'
    print('MuJoCo', mujoco.__version__, 'with MUJOCO_GL=' + os.environ['MUJOCO_GL'], flush=True)
except Exception as error:
    print(f'{type(error).__name__}: {error}', file=sys.stderr, flush=True)
    os._exit(1)
os._exit(0)  # a renderer that is torn down, or was never made, prints tracebacks
"""
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
    reason = one_line(error)
    return RendererError(
        f'MuJoCo cannot render with {VARIABLE}={os.environ.get(VARIABLE)} ({reason}): install '
        f'libosmesa6 (`apt-get install libosmesa6`) and unset {VARIABLE}, or set it to egl on a '
        'machine with a GPU, or to glfw where there is a display')


def check_renderer() -> None:
    """
    Render a ball in a process of its own, as the simulator would.

    :raises RendererError: MuJoCo can't, with what MUJOCO_GL was and what helps
    """
    check_setting()
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get('PYTHONPATH'))))
    try:
        done = subprocess.run([sys.executable, '-c', PROBE], capture_output=True, text=True,
                              timeout=TIMEOUT_S, env=os.environ | {'PYTHONPATH': path})
    except subprocess.TimeoutExpired as error:
        raise renderer_error(f'no picture within {TIMEOUT_S:.0f} s') from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise renderer_error(said[-1] if said else f'exit code {done.returncode}')
