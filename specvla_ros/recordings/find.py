"""Which format a folder or file is of, by what stands in it; read by that format's reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from specvla_ros.bags.folder import folders_with_bags, is_storage
from specvla_ros.errors import SpecVLAError
from specvla_ros.recordings import bag, collected, images, lerobot, libero_hdf5
from specvla_ros.recordings.episode import Recording, Selection
from specvla_ros.recordings.lerobot_files import INFO

_RLDS = ('features.json', 'dataset_info.json', '*.tfrecord*')
FORMATS = ('rosbag2 folders', 'LeRobot data sets (v2.1, v3.0)', "LIBERO's HDF5 demonstrations",
           'folders of `specvla collect`', 'folders of PNG or JPEG pictures')


def open_recordings(paths: Sequence[Path], selection: Selection) -> list[Recording]:
    """
    Read what the paths hold: of a folder of several recordings, each.

    :raises SpecVLAError: one is not there, of no known format or damaged, or is given twice
    """
    found: dict[Path, Recording] = {}
    for path in paths:
        for recording in _read(path, selection):
            if recording.path.resolve() in found:
                raise SpecVLAError(f'{recording.path} is given twice: leave one out')
            found[recording.path.resolve()] = replace(recording, mirrored=selection.mirrored)
    empty = [str(recording.path) for recording in found.values() if not recording.frames]
    if empty:
        raise SpecVLAError(f'there is no frame in {", ".join(empty)}: leave it out')
    return list(found.values())


def _read(path: Path, selection: Selection) -> list[Recording]:
    """Read one path by the first format whose signs are there."""
    if not path.exists():
        raise SpecVLAError(f'there is no {path}: give a bag, a data set, or a folder of '
                           'episodes or of pictures')
    if path.is_file():
        return [_read_file(path, selection)]
    if (path / INFO).is_file():
        return [lerobot.read(path, selection)]
    if any(next(path.rglob(name), None) for name in _RLDS):
        raise SpecVLAError(f'{path} is an RLDS data set (TFRecords), which only TensorFlow reads: '
                           'convert it to a LeRobot data set')
    if demos := sorted(file for file in path.iterdir() if file.suffix in libero_hdf5.SUFFIXES):
        return [libero_hdf5.read(file, selection) for file in demos]
    if collected.episode_files(path):
        return [collected.read(path, selection)]
    if images.folders_of_pictures(path):
        return [images.read(path, selection)]
    if bags := folders_with_bags(path):
        return [bag.read(each, selection) for each in bags]
    raise SpecVLAError(f'{path} is no recording that can be read; these are: {", ".join(FORMATS)}')


def _read_file(path: Path, selection: Selection) -> Recording:
    if path.suffix in libero_hdf5.SUFFIXES:
        return libero_hdf5.read(path, selection)
    if path.suffix == '.npz':
        module = collected if path.stem.startswith('seed') else images
        return module.read(path, selection)
    if is_storage(path):
        return bag.read(path, selection)
    raise SpecVLAError(f'{path} is no recording that can be read; these are: '
                       f'{", ".join(FORMATS)}, and single .mcap, .db3, .hdf5 and .npz files')
