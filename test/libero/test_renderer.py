"""What MUJOCO_GL is, what it may be, and that nobody but the user sets it."""
import os
import subprocess
import sys

import pytest

from specvla_ros.libero.renderer import (
    check_renderer,
    check_setting,
    importing_robosuite,
    RendererError,
)

# In a process of its own: MuJoCo reads the setting once.
AFTER_ROBOSUITE = """
import os
from specvla_ros.libero.renderer import importing_robosuite
with importing_robosuite():
    import robosuite
import mujoco.gl_context
print(os.environ['MUJOCO_GL'], mujoco.gl_context.GLContext.__module__)
"""


@pytest.mark.parametrize('said, backend', [
    ('', 'osmesa'), (' ', 'osmesa'), (None, 'osmesa'), ('OSMesa ', 'osmesa'), ('egl', 'egl'),
    ('glfw', 'glfw'), ('glx', 'glx')])
def test_the_backend_that_is_asked_for(monkeypatch, said, backend):
    monkeypatch.setenv('MUJOCO_GL', said or '')
    if said is None:
        monkeypatch.delenv('MUJOCO_GL')
    assert check_setting() == os.environ['MUJOCO_GL'] == backend


@pytest.mark.parametrize('said', ['vulkan', 'off', '0', '1', 'cgl', 'osmesa,egl'])
def test_a_backend_that_does_not_exist_is_refused_before_mujoco_is_imported(monkeypatch, said):
    monkeypatch.setenv('MUJOCO_GL', said)
    with pytest.raises(RendererError, match=f"MUJOCO_GL is '{said}', must be one of osmesa, egl"):
        with importing_robosuite():
            raise AssertionError('must not be reached')
    assert os.environ['MUJOCO_GL'] == said


@pytest.mark.parametrize('backend', ['glfw', 'osmesa'])
def test_robosuite_does_not_change_it(backend):
    done = subprocess.run([sys.executable, '-c', AFTER_ROBOSUITE], capture_output=True, text=True,
                          env=os.environ | {'MUJOCO_GL': backend})
    assert done.stdout.split() == [backend, f'mujoco.{backend}'], done.stderr


@pytest.mark.skipif(bool(os.environ.get('DISPLAY')), reason='glfw may work where a display is')
def test_what_cannot_render_is_named_as_it_was_set(monkeypatch):
    monkeypatch.setenv('MUJOCO_GL', 'glfw')
    with pytest.raises(RendererError, match='cannot render with MUJOCO_GL=glfw .*egl on a machine '
                                            'with a GPU') as error:
        check_renderer()
    assert '\n' not in str(error.value)
    assert '_mjr_context' not in str(error.value)  # what its clean-up stumbles over


def test_what_can_render_is_let_through(monkeypatch):
    monkeypatch.setenv('MUJOCO_GL', 'osmesa')
    check_renderer()
