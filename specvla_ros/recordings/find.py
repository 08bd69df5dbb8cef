"""Which format a folder or file is of, by what stands in it; read by that format's reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from specvla_ros.bags.folder import folders_with_bags, is_storage
from specvla_ros.errors import SpecVLAError
from specvla_ros.recordings import bag, collected, images, lerobot, libero_hdf5
from specvla_ros.recordings.doubles import check_camera, refuse_doubles
from specvla_ros.recordings.episode import check_instruction, Recording, Selection
from specvla_ros.recordings.lerobot_files import INFO
from specvla_ros.unused_options import refuse_unused

_BAGS, _DATA_SETS = (bag,), (lerobot, libero_hdf5)
_SAID = {_BAGS: 'bag', _DATA_SETS: 'data set with cameras to choose from'}
# Who reads which part of a `Selection`; the rest is for all.
_CHOICES = {'image_topic': _BAGS, 'instruction_topic': _BAGS, 'camera': _DATA_SETS}
_RLDS = ('features.json', 'dataset_info.json', '*.tfrecord*')
FORMATS = ('rosbag2 folders', 'LeRobot data sets (v2.1, v3.0)', "LIBERO's HDF5 demonstrations",
           'folders of `specvla collect`', 'folders of PNG or JPEG pictures')


def open_recordings(paths: Sequence[Path], selection: Selection) -> list[Recording]:
    """
    Read what the paths hold: of a folder of several recordings, each.

    :raises SpecVLAError: one is not there, of no known format or damaged, or is given twice; the
        selection names a camera or a topic, and none of them has such, or an instruction without
        a word; recordings of one format are of several cameras
    """
    check_instruction(selection.instruction)
    found: list[Recording] = []
    first: dict[ModuleType, Recording] = {}  # of each format
    readers = [_reader(path) for path in paths]
    for option, those in _CHOICES.items():
        if not any(reader in those for reader, _ in readers):
            refuse_unused(selection, (option,), f'there is no {_SAID[those]} among the recordings')
    for reader, parts in readers:
        for recording in (reader.read(part, selection) for part in parts):
            if not recording.frames:
                raise SpecVLAError(f'there is no frame in {recording.path}: leave it out')
            option = '--image-topic' if reader in _BAGS else '--camera'
            check_camera(recording, first.setdefault(reader, recording), option)
            found.append(replace(recording, mirrored=selection.mirrored))
    refuse_doubles(found)
    return found


def _reader(path: Path) -> tuple[ModuleType, Sequence[Path]]:
    """Return the first format whose signs are there, and which parts of the path are of it."""
    if not path.exists():
        raise SpecVLAError(f'there is no {path}: give a bag, a data set, or a folder of '
                           'episodes or of pictures')
    if not path.is_dir():
        return _reader_of_file(path), [path]
    if (path / INFO).is_file():
        return lerobot, [path]
    if any(next(path.rglob(name), None) for name in _RLDS):
        raise SpecVLAError(f'{path} is an RLDS data set (TFRecords), which only TensorFlow reads: '
                           'convert it to a LeRobot data set')
    if demos := sorted(file for file in path.iterdir() if _is_hdf5(file)):
        return libero_hdf5, demos
    if collected.episode_files(path):
        return collected, [path]
    if images.folders_of_pictures(path):
        return images, [path]
    if bags := folders_with_bags(path):
        return bag, bags
    raise SpecVLAError(f'{path} is no recording that can be read; these are: {", ".join(FORMATS)}')


def _reader_of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise SpecVLAError(f'{path} is neither a file nor a folder, and no recording that can be '
                           'read')
    if _is_hdf5(path):
        return libero_hdf5
    if path.suffix == '.npz':
        return collected if path.stem.startswith('seed') else images
    if is_storage(path):
        return bag
    raise SpecVLAError(f'{path} is no recording that can be read; these are: '
                       f'{", ".join(FORMATS)}, and single .mcap, .db3, .hdf5 and .npz files')


def _is_hdf5(path: Path) -> bool:
    return path.suffix.lower() in libero_hdf5.SUFFIXES and path.is_file()
