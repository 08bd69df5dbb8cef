"""Find the storage files of a bag: metadata.yaml lists them, or their names show it."""

from __future__ import annotations

from dataclasses import dataclass
import os
from pathlib import Path
import re
from typing import Any

import yaml

from specvla_ros.bags.storage import COMPRESSED, SUFFIXES
from specvla_ros.errors import one_line, SpecVLAError
from specvla_ros.natural_order import natural

METADATA = 'metadata.yaml'
_INFORMATION = 'rosbag2_bagfile_information'
_NAMED = 10  # bags at most that an error names


@dataclass(frozen=True, slots=True)
class BagFiles:
    """
    What a bag consists of.

    files: in the order of time, all there. missing: what isn't there, a line each.
    messages: how many there are by metadata.yaml; None where it doesn't say.
    """

    files: tuple[Path, ...]
    missing: tuple[str, ...] = ()
    messages: int | None = None


def find_files(path: Path) -> BagFiles:
    """
    Return the storage files of a bag: a folder, its metadata.yaml, or one storage file.

    :raises SpecVLAError: there are none, or they are of more than one bag
    :raises OSError: the folder can't be read
    """
    if not path.exists():
        raise SpecVLAError(f'there is no bag {path}')
    if path.is_file():
        return BagFiles((path,)) if path.name != METADATA else _of_folder(path.parent)
    return _of_folder(path)


def is_storage(path: Path) -> bool:
    """Whether a file is one of a bag, or its metadata.yaml, by its name."""
    return path.name == METADATA or path.name.removesuffix(COMPRESSED).endswith(SUFFIXES)


def folders_with_bags(folder: Path) -> list[Path]:
    """Return the folders with a bag's files, this one or below it, in the order of their names."""
    def fail(error: OSError) -> None:
        raise error

    return sorted({Path(place) for place, _, names in os.walk(folder, onerror=fail)
                   for name in names if is_storage(Path(name))})


def _of_folder(folder: Path) -> BagFiles:
    if not (folder / METADATA).is_file():
        bag = _only_bag(folder)
        if bag != folder:
            return _of_folder(bag)
        return BagFiles(_together(folder, _stored(folder)), (f'{METADATA} is missing',))
    try:
        names, messages = _listed(folder / METADATA)
    except (ValueError, LookupError, TypeError, yaml.YAMLError) as error:
        problem = one_line(error)
        stored = _together(folder, _stored(folder))
        return BagFiles(stored, (f'{METADATA} is damaged ({problem})',))
    places = {name: _place(folder, name) for name in names}
    files = tuple(place for place in places.values() if place is not None)
    absent = [name for name, place in places.items() if place is None]
    missing: tuple[str, ...] = (f'{", ".join(absent)} of {METADATA} is missing',) if absent else ()
    if not files:  # of a bag whose files were renamed
        files = _together(folder, _stored(folder), missing[0] if missing else '')
        missing = (f'{missing[0]}, read instead: {", ".join(file.name for file in files)}',)
    return BagFiles(files, missing, messages)


def _listed(metadata: Path) -> tuple[list[str], int | None]:
    """Return the files a metadata.yaml lists, and how many messages it counts."""
    content: Any = yaml.safe_load(metadata.read_text(encoding='utf-8'))
    if not isinstance(content, dict) or not isinstance(content.get(_INFORMATION), dict):
        raise ValueError(f'it has no {_INFORMATION}')
    information = content[_INFORMATION]
    names = information['relative_file_paths']
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ValueError(f'relative_file_paths is {names!r}, must be a list of names')
    messages = information.get('message_count')
    # Before version 4 a name began with that of the folder.
    return [Path(name).name for name in names], messages if isinstance(messages, int) else None


def _place(folder: Path, name: str) -> Path | None:
    """Return where a listed file is; it may have been packed or unpacked since."""
    for other in (name, name + COMPRESSED, name.removesuffix(COMPRESSED)):
        if (folder / other).is_file():
            return folder / other
    return None


def _stored(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.is_file()
                   and path.name.removesuffix(COMPRESSED).endswith(SUFFIXES)), key=natural)


def _together(folder: Path, stored: list[Path], missing: str = '') -> tuple[Path, ...]:
    """
    Return the files if they are of one bag: NAME_0, NAME_1 … of one kind.

    :raises SpecVLAError: there are none, or they are of several bags
    """
    if not stored:
        raise SpecVLAError(f'{folder} is no bag: {missing or "it holds only " + METADATA}; there '
                           f'is no file that ends in {" or ".join(SUFFIXES)}')
    if len({_bag_of(path) for path in stored}) > 1:
        raise SpecVLAError(f'{folder} holds the files of several bags: '
                           f'{", ".join(path.name for path in stored)}; give one of them')
    return tuple(stored)


def _only_bag(folder: Path) -> Path:
    """
    Return the only folder with a bag, this one or one below it: a bag grows in NAME.part/NAME.

    :raises SpecVLAError: there is none, or there are several
    """
    bags = folders_with_bags(folder)
    if not bags:
        raise SpecVLAError(f'{folder} is no bag: it holds neither {METADATA} nor a file that '
                           f'ends in {" or ".join(SUFFIXES)}')
    if len(bags) > 1:
        names = [str(bag.relative_to(folder)) for bag in bags[:_NAMED]]
        names += ['…'] * (len(bags) > _NAMED)
        raise SpecVLAError(f'{folder} holds {len(bags)} bags: {", ".join(names)}; give one of '
                           'them')
    return bags[0]


def _bag_of(path: Path) -> tuple[str, ...]:
    """Name and kind of the bag that a file is of, by its name alone."""
    name, suffix = os.path.splitext(path.name.removesuffix(COMPRESSED))
    return re.sub(r'_\d+$', '', name), suffix, '' if re.search(r'_\d+$', name) else path.name
