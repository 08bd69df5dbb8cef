"""
Episodes of LIBERO's demonstrations: HDF5 files, one a task, `data/demo_0` to `demo_49`.

In LIBERO's own files picture j was taken *after* action j, so the action that belongs to it is
action j + 1, and the last picture has none: it is left out. In files made anew without the steps
that don't move (as OpenVLA's data were) pictures are of before the action; without attributes, the
file's name is the instruction. Both have the bottom row first, unless they say otherwise.
Source: LIBERO's `create_dataset`; OpenVLA's `regenerate_libero_dataset`.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from functools import partial
import json
from pathlib import Path
import re
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specvla_ros.errors import one_line, shown, SpecVLAError
from specvla_ros.recordings.episode import (
    missing_module,
    RecordedEpisode,
    Recording,
    Selection,
    sign_of,
    size_of,
)

SUFFIXES = ('.hdf5', '.h5')
_CAMERA = 'agentview_rgb'
_CONVENTIONS = ('opengl', 'opencv')  # bottom row first, top row first


def read(path: Path, selection: Selection) -> Recording:
    """
    Read the episodes of a file.

    :raises SpecVLAError: it is damaged or holds no such demonstrations, the camera has to be
        chosen, or it does not name the instruction
    """
    with _opened(path) as file:
        names = _demonstrations(path, file)
        data = file['data']
        original = 'problem_info' in data.attrs
        turned = _bottom_first(path, data)
        instruction = selection.instruction or _instruction(path, data)
        camera = _camera(path, data[names[0]]['obs'], selection.camera)
        episodes = tuple(_episode(path, name, data[name], camera, instruction, original, turned)
                         for name in names)
        shape = data[names[0]]['obs'][camera].shape
    after = "of after the action, as in LIBERO's own files" if original else \
        'of before the action, as where they were made anew'
    remark = f'pictures are taken to be {after}; {"bottom" if turned else "top"} row first'
    return Recording(path, f'demonstrations of LIBERO, {size_of(shape[1:])} from {camera}',
                     sign_of([path]), episodes, (remark,), files=(path,), camera=camera)


def _demonstrations(path: Path, file: Any) -> list[str]:
    """Return the names of the demonstrations, in the order of their numbers."""
    h5py, data = _h5py(), file.get('data')
    found = [name for name in data if name.startswith('demo_')] if isinstance(
        data, h5py.Group) else []
    for name in found:
        demo = data[name]
        if not re.fullmatch('demo_[0-9]+', name) or not isinstance(demo, h5py.Group) \
                or not isinstance(demo.get('obs'), h5py.Group) \
                or not isinstance(demo.get('actions'), h5py.Dataset):
            raise SpecVLAError(f"{path}: data/{name} is no demonstration of LIBERO's, which is "
                               'called data/demo_NUMBER and holds the group obs and the array '
                               'actions')
    if not found:
        raise SpecVLAError(f'{path} holds no demonstration data/demo_0, data/demo_1 …: give '
                           "a file of LIBERO's")
    return sorted(found, key=lambda name: int(name.removeprefix('demo_')))


def _episode(
    path: Path, name: str, demo: Any, camera: str, instruction: str, original: bool, turned: bool
) -> RecordedEpisode:
    actions = np.asarray(demo['actions'], np.float32)
    obs, steps = demo['obs'], len(np.atleast_1d(actions))
    if camera not in obs:
        raise SpecVLAError(f'{path}, {name}: there is no camera {camera} as in the first '
                           f'demonstration; there are {_cameras(obs)}')
    pictures = obs[camera].shape
    if len(pictures) != 4 or pictures[0] != steps or actions.ndim != 2 or steps < 2 \
            or not actions.shape[1]:
        raise SpecVLAError(f'{path}, {name}: actions {list(actions.shape)} and pictures '
                           f'{list(pictures)}: must be as many of each, at least two')
    if not np.isfinite(actions).all():
        raise SpecVLAError(f'{path}, {name}: an action is not a finite number')
    count = steps - 1 if original else steps
    poses = _poses(f'{path}, {name}', obs, steps)
    if poses is not None and not np.isfinite(poses).all():
        raise SpecVLAError(f'{path}, {name}: a pose is not a finite number')
    return RecordedEpisode(
        name, instruction, count, partial(_images, path, name, camera, turned),
        poses=None if poses is None else poses[:count], actions=actions[-count:])


def _images(
    path: Path, name: str, camera: str, turned: bool, start: int, stop: int
) -> Iterator[NDArray[np.uint8]]:
    with _opened(path) as file:
        pictures = file['data'][name]['obs'][camera]
        for number in range(start, stop):
            picture = pictures[number]
            yield np.ascontiguousarray(picture[::-1] if turned else picture)


def _poses(place: str, obs: Any, steps: int) -> NDArray[np.float32] | None:
    """Position and axis-angle [T, 6] of the end effector."""
    if 'ee_pos' not in obs or 'ee_ori' not in obs:
        return None
    shapes = [list(obs[name].shape) for name in ('ee_pos', 'ee_ori')]
    if shapes != [[steps, 3]] * 2:
        raise SpecVLAError(f'{place}: ee_pos {shapes[0]} and ee_ori {shapes[1]} must be '
                           f'[{steps}, 3], a row for each action')
    return np.concatenate([obs['ee_pos'], obs['ee_ori']], axis=1).astype(np.float32)


def _cameras(obs: Any) -> list[str]:
    return sorted(name for name in obs if len(getattr(obs[name], 'shape', ())) == 4)


def _camera(path: Path, obs: Any, wanted: str) -> str:
    found = _cameras(obs)
    camera = wanted or (_CAMERA if _CAMERA in found else found[0] if len(found) == 1 else '')
    if camera not in found:
        raise SpecVLAError(f'{path} has the cameras {", ".join(found) or "of nothing"}'
                           f'{f", {wanted} is none of them" if wanted else ""}: choose with '
                           '--camera')
    return camera


def _bottom_first(path: Path, data: Any) -> bool:
    said = data.attrs.get('macros_image_convention', _CONVENTIONS[0])
    if isinstance(said, bytes):
        said = said.decode(errors='replace')
    if not isinstance(said, str) or said not in _CONVENTIONS:
        raise SpecVLAError(f'{path}: macros_image_convention is {shown(said)}, must be one of '
                           f'{", ".join(_CONVENTIONS)}')
    return bool(said == _CONVENTIONS[0])


def _instruction(path: Path, data: Any) -> str:
    """What the file says; else its name, less the scene's: KITCHEN_SCENE3_turn_on_the_stove_…."""
    said: Any = ''
    if 'problem_info' in data.attrs:
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            said = json.loads(data.attrs['problem_info']).get('language_instruction', '')
        # A list of characters in some files.
        texts = said if isinstance(said, list) else [said]
        said = ''.join(texts) if all(isinstance(it, str) for it in texts) else ''
    name = re.sub(r'^.*SCENE\d*_', '', path.stem.removesuffix('_demo'))
    instruction = said.strip().strip('"')
    if not instruction and '_' in name:
        instruction = name.replace('_', ' ').strip()
    if not instruction:
        raise SpecVLAError(f'{path}: neither its attributes nor its name say what the robot was '
                           'told; give it with --instruction')
    return instruction


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file; what it makes of damage becomes one line."""
    h5py = _h5py()
    try:
        with h5py.File(path, 'r') as file:
            yield file
    except SpecVLAError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise SpecVLAError(f"{path} can't be read as demonstrations of LIBERO "
                           f'({one_line(error)}): it is damaged, or something else'
                           ) from error


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise missing_module('h5py', 'HDF5 files') from error
    return h5py
