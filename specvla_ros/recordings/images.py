"""Episodes of pictures: folders of PNG or JPEG files, and .npz files with an array of frames."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from specvla_ros.errors import SpecVLAError
from specvla_ros.natural_order import natural
from specvla_ros.pictures import decode_picture
from specvla_ros.recordings.episode import RecordedEpisode, Recording, Selection, sign_of

SUFFIXES = ('.png', '.jpg', '.jpeg')
INSTRUCTION = 'instruction.txt'


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures of a folder, in the order of their names: 2.png before 10.png."""
    return sorted((file for file in folder.iterdir()
                   if file.suffix.lower() in SUFFIXES and not file.is_dir()), key=natural)


def folders_of_pictures(folder: Path) -> list[Path]:
    """Return this folder if there are pictures in it, else the folders in it that have some."""
    if picture_files(folder):
        return [folder]
    return sorted((each for each in folder.iterdir() if each.is_dir() and picture_files(each)),
                  key=natural)


def read_picture(file: Path) -> NDArray[np.uint8]:
    """
    Read a colour picture, uint8 [H, W, 3].

    :raises SpecVLAError: it can't be read, or is none
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SpecVLAError(f"{file} can't be read: {error.strerror}") from error
    return decode_picture(data, str(file))


def read_arrays(path: Path, name: str = '') -> tuple[NDArray[np.uint8], str | None]:
    """
    Read an .npz file: `images`, uint8 [N, H, W, 3] RGB, and `instruction` if there is one.

    :param name: of the file, for messages
    :raises SpecVLAError: it is none such
    """
    name = name or str(path)
    try:
        with np.load(path, allow_pickle=False) as content:
            images, said = content['images'], content.get('instruction')
    except Exception as error:  # KeyError, BadZipFile, zlib.error ...: as the damage has it
        raise SpecVLAError(f"{name} can't be read as an .npz file with an array "
                           "'images'") from error
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 \
            or 0 in images.shape[1:]:
        raise SpecVLAError(f'{name}: images is {images.dtype} {list(images.shape)}, must '
                           'be uint8 [N, H, W, 3]')
    if said is not None and (said.ndim or said.dtype.kind != 'U'):
        raise SpecVLAError(f'{name}: instruction is {said.dtype} {list(said.shape)}, '
                           'must be one text')
    return images, None if said is None else str(said)


def read(path: Path, selection: Selection) -> Recording:
    """
    Read a folder of pictures, one of such folders (an episode each), or an .npz file.

    What the robot was told stands in `instruction.txt` in the folder or the one above it, unless
    it is given.

    :raises SpecVLAError: there is no picture, or no instruction
    """
    if path.is_file():
        images, said = read_arrays(path)
        instruction = _instruction(selection.instruction or (said or '').strip(), path)
        episode = RecordedEpisode('frames', instruction, len(images), partial(_of_array, path))
        return Recording(path, 'array of frames', sign_of([path]), (episode,), files=(path,))
    folders = folders_of_pictures(path)
    files = [file for folder in folders for file in picture_files(folder)]
    episodes = tuple(_episode(folder, path, selection) for folder in folders)
    return Recording(path, 'folder of pictures' if folders == [path] else
                     f'{len(folders)} folders of pictures', sign_of(files), episodes,
                     files=tuple(files))


def _episode(folder: Path, root: Path, selection: Selection) -> RecordedEpisode:
    files = picture_files(folder)
    said = selection.instruction or _written(folder) or (_written(root) if folder != root else '')
    name = folder.name if folder != root else 'pictures'
    return RecordedEpisode(
        name, _instruction(said, folder), len(files), partial(_of_files, files))


def _written(folder: Path) -> str:
    path = folder / INSTRUCTION
    try:
        return path.read_text(encoding='utf-8').strip() if path.is_file() else ''
    except (OSError, ValueError) as error:
        raise SpecVLAError(f"{path} can't be read as text: {error}") from error


def _instruction(said: str, place: Path) -> str:
    if not said:
        raise SpecVLAError(f'{place} has no instruction; give it with --instruction, or write it '
                           f'to {INSTRUCTION} beside the pictures')
    return said


def _of_files(files: list[Path], start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
    return map(read_picture, files[start:stop])


def _of_array(path: Path, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
    yield from read_arrays(path)[0][start:stop]
