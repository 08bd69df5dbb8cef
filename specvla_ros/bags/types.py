"""
Message types by name: the standard ones, ours, those of installed packages, those a bag defines.

Their definitions are `.msg` files: ours beside the package, other ones in the share folder of the
package they belong to, as ROS 2 installs them.
"""

from __future__ import annotations

import os
from pathlib import Path
import re
import sys
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.typesys import get_types_from_idl, get_types_from_msg, get_typestore, Stores

from specvla_ros.errors import one_line, SpecVLAError

_ROOT = Path(__file__).resolve().parents[2]
_OWN = 'specvla_ros'


class MessageTypes:
    """Serialises, deserialises and describes messages; grows as types are asked for."""

    def __init__(self) -> None:
        self._store = get_typestore(Stores.ROS2_JAZZY)
        self._unread: dict[str, tuple[str, str]] = {}

    def define(self, name: str, text: str, notation: str) -> None:
        """
        Take a definition from a bag; it is read with the first message of that type.

        So an unreadable type, as that of service events, does no harm on an unused topic.

        :param text: the type's, with those it uses
        :param notation: 'ros2msg' or 'ros2idl'
        """
        self._unread.setdefault(name, (text, notation))

    def description(self, name: str) -> tuple[str, str]:
        """
        Return the complete definition (ros2msg) and the hash (REP-2011) of a type.

        :raises SpecVLAError: no installed package has it
        """
        self._find(name)
        text, _ = self._store.generate_msgdef(name, ros_version=2)
        return text, self._store.hash_rihs01(name)

    def make(self, name: str, **fields: Any) -> Any:
        """
        Make a message; all its fields have to be given.

        :raises SpecVLAError: no installed package has the type
        """
        self._find(name)
        return self._store.types[name](**fields)

    def serialize(self, message: Any) -> bytes:
        """Return a message as CDR, as it goes over DDS."""
        return bytes(self._store.serialize_cdr(message, message.__msgtype__))

    def deserialize(self, data: bytes, name: str) -> Any:
        """
        Read a message from CDR.

        The bag defines the type; if it doesn't, the installed package does.

        :raises SpecVLAError: it isn't one of that type, or nothing defines the type
        """
        self._learn(name)
        try:
            return self._store.deserialize_cdr(data, name)
        except Exception as error:  # noqa: BLE001 - rosbags lets out whatever damaged bytes lead to
            raise SpecVLAError(f'not a {name}: {one_line(error)}') from error

    def _learn(self, name: str) -> None:
        """Register a type from the bag's definition, or else from its `.msg` file."""
        if name in self._store.fielddefs:
            return
        if name in self._unread:
            try:
                self._register(_definitions(name, *self._unread[name]))
            except Exception as error:  # noqa: BLE001 - as above
                raise SpecVLAError(f'the bag defines the message type {name} in a way that '
                                   f"can't be read: {one_line(error)}") from error
        if name not in self._store.fielddefs:
            self._find(name)

    def _find(self, name: str) -> None:
        """Register a type from its `.msg` file, and those it is made of."""
        if name in self._store.fielddefs:
            return
        definitions = get_types_from_msg(_definition_file(name).read_text('utf-8'), name)
        for _, fields in definitions.values():
            for _, kind in fields:
                while kind[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE):
                    kind = kind[1][0]
                if kind[0] == Nodetype.NAME:
                    self._find(kind[1])
        self._register(definitions)

    def _register(self, definitions: Any) -> None:
        # What is known already stays: a bag repeats the standard types it uses.
        unknown = {name: definition for name, definition in definitions.items()
                   if name not in self._store.fielddefs}
        if unknown:
            self._store.register(unknown)


def _definitions(name: str, text: str, notation: str) -> Any:
    """Read a definition as rosbag2 stores it: in IDL, each type has a part of its own."""
    if notation != 'ros2idl':
        return get_types_from_msg(text, name)
    definitions: dict[str, Any] = {}
    for part in re.split(r'^={80}\n', text, flags=re.MULTILINE):
        head, _, body = part.partition('\n')
        if head.startswith('MSG: '):
            definitions |= get_types_from_msg(body, head.removeprefix('MSG: '))
        elif part.strip():
            definitions |= get_types_from_idl(body if head.startswith('IDL: ') else part)
    return definitions


def _definition_file(name: str) -> Path:
    package, _, kind = name.partition('/msg/')
    folders = [Path(prefix) / 'share' / package / 'msg' for prefix in (
        *filter(None, os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)), sys.prefix)]
    if package == _OWN:
        folders.insert(0, _ROOT / 'msg')
    for folder in folders:
        if kind and (path := folder / f'{kind}.msg').is_file():
            return path
    raise SpecVLAError(f'there is no definition of the message type {name}; looked for {kind}.msg '
                       f'in {", ".join(map(str, folders))}')
