"""Which format a folder or file is of, by what stands in it; read by that format's reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from specvla_ros.bags.folder import folders_with_bags, is_storage
from specvla_ros.errors import SpecVLAError
from specvla_ros.recordings import bag, collected, images, lerobot, libero_hdf5
from specvla_ros.recordings.episode import Recording, Selection
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
        selection names a camera or a topic, and none of them has such
    """
    found: dict[Path, Recording] = {}
    readers = [_reader(path) for path in paths]
    for option, those in _CHOICES.items():
        if not any(reader in those for reader, _ in readers):
            refuse_unused(selection, (option,), f'there is no {_SAID[those]} among the recordings')
    for reader, parts in readers:
        for recording in (reader.read(part, selection) for part in parts):
            if recording.path.resolve() in found:
                raise SpecVLAError(f'{recording.path} is given twice: leave one out')
            found[recording.path.resolve()] = replace(recording, mirrored=selection.mirrored)
    empty = [str(recording.path) for recording in found.values() if not recording.frames]
    if empty:
        raise SpecVLAError(f'there is no frame in {", ".join(empty)}: leave it out')
    return list(found.values())


def _reader(path: Path) -> tuple[ModuleType, Sequence[Path]]:
    """Return the first format whose signs are there, and which parts of the path are of it."""
    if not path.exists():
        raise SpecVLAError(f'there is no {path}: give a bag, a data set, or a folder of '
                           'episodes or of pictures')
    if path.is_file():
        return _reader_of_file(path), [path]
    if (path / INFO).is_file():
        return lerobot, [path]
    if any(next(path.rglob(name), None) for name in _RLDS):
        raise SpecVLAError(f'{path} is an RLDS data set (TFRecords), which only TensorFlow reads: '
                           'convert it to a LeRobot data set')
    if demos := sorted(file for file in path.iterdir() if file.suffix in libero_hdf5.SUFFIXES):
        return libero_hdf5, demos
    if collected.episode_files(path):
        return collected, [path]
    if images.folders_of_pictures(path):
        return images, [path]
    if bags := folders_with_bags(path):
        return bag, bags
    raise SpecVLAError(f'{path} is no recording that can be read; these are: {", ".join(FORMATS)}')


def _reader_of_file(path: Path) -> ModuleType:
    if path.suffix in libero_hdf5.SUFFIXES:
        return libero_hdf5
    if path.suffix == '.npz':
        return collected if path.stem.startswith('seed') else images
    if is_storage(path):
        return bag
    raise SpecVLAError(f'{path} is no recording that can be read; these are: '
                       f'{", ".join(FORMATS)}, and single .mcap, .db3, .hdf5 and .npz files')
