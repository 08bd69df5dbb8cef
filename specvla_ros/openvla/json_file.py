"""
JSON of a checkpoint, read by type.

A key of another type than it must have would show up much later, as a failed operation on
tensors, or not at all. Here every value is read by its type. A value of another type is
refused in one line: the file, the key, the value found, the values allowed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
import json
import math
from pathlib import Path
import reprlib
from typing import Any, Final

from .errors import CheckpointError, one_line

REQUIRED: Final = object()
_MOST: Final = 2**31 - 1
_BYTE_ORDER_MARK: Final = b'\xef\xbb\xbf'

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 8


def shown(value: object) -> str:
    """Return a value as a message shows it: one short line, whatever it is."""
    return one_line(_SHORT.repr(value))


def is_there(path: Path) -> bool:
    """Whether a folder names a file; a link to nothing is one that can't be read, not absent."""
    return path.exists() or path.is_symlink()


def read_object(path: Path) -> dict[str, Any]:
    """
    Read a file that holds one JSON object.

    Raises FileNotFoundError, or CheckpointError naming the file, for one that can't be read: no
    UTF-8, no JSON, a key twice in one object (readers differ in which one holds), no object.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not path.is_symlink():
            raise
        link = f', it is a link to {path.readlink()}' if path.is_symlink() else ''
        raise CheckpointError(f'{path} can not be read: {error.strerror}{link}') from error
    if data.startswith(_BYTE_ORDER_MARK):
        raise CheckpointError(
            f'{path} is not valid JSON: it begins with a byte-order mark, save it without')
    try:
        content = json.loads(data.decode('utf-8'), object_pairs_hook=_object)
    except RecursionError as error:
        raise CheckpointError(f'{path} is not valid JSON: nested too deeply') from error
    except ValueError as error:  # no UTF-8, no JSON, a number of thousands of digits
        raise CheckpointError(
            f'{path} is not valid JSON: {error if data.strip() else "it is empty"}') from error
    if not isinstance(content, dict):
        raise CheckpointError(f'{path} holds a {type(content).__name__}, must be a JSON object')
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'key {shown(twice)} stands twice in one object')
    return content


@contextmanager
def within(place: str) -> Iterator[None]:
    """Put the place, a file, before the message of a CheckpointError that does not name it."""
    try:
        yield
    except CheckpointError as error:
        if str(error).startswith(place):
            raise
        raise CheckpointError(f'{place}: {error}') from error


class Fields:
    """
    The values of a JSON object by key, each of the type it is asked for.

    A key with null counts as absent, as transformers' configurations have it. Without a default
    a key is required. All methods raise CheckpointError.

    content: what should be an object. file: what messages begin with. path: the keys that lead to
    the object within its file.
    """

    def __init__(self, content: object, file: str, path: str = '') -> None:
        self.file, self.path = file, path
        if not isinstance(content, Mapping):
            raise self.error(f'{path or "content"} is {shown(content)}, must be a JSON object',
                             whole=True)
        self.content = content

    def error(self, message: str, whole: bool = False) -> CheckpointError:
        """Return the error that says something of this object, or of the whole file."""
        path = f'{self.path} ' if self.path and not whole else ''
        return CheckpointError(f'{self.file}: {path}{message}')

    def integer(
        self, key: str, default: Any = REQUIRED, *, least: int = 1, most: int = _MOST
    ) -> Any:
        """Return an int of a range; True and 1.0 are none."""
        value = self._value(key, default)
        if value is default:
            return value
        if not _is_integer(value) or not least <= value <= most:
            self.refuse(key, _range_of_integers(least, most))
        return value

    def number(
        self, key: str, default: Any = REQUIRED, *, above: float = -math.inf,
        most: float = math.inf,
    ) -> Any:
        """Return a finite float, above one bound and up to another."""
        value = self._value(key, default)
        if value is default:
            return value
        number = finite(value)
        if number is None or not above < number <= most:
            low = f' above {above:g}' if above > -math.inf else ''
            high = f', at most {most:g}' if most < math.inf else ''
            self.refuse(key, f'a finite number{low}{high}')
        return number

    def flag(self, key: str, default: Any = REQUIRED) -> Any:
        """Return a bool; 1 and 'true' are none."""
        value = self._value(key, default)
        if value is not default and not isinstance(value, bool):
            self.refuse(key, 'true or false')
        return value

    def text(
        self, key: str, default: Any = REQUIRED, allowed: Collection[str] | None = None
    ) -> Any:
        """Return a string that is not empty, one of those allowed if these are given."""
        value = self._value(key, default)
        if value is default:
            return value
        if not isinstance(value, str) or not value or (allowed and value not in allowed):
            self.refuse(key, 'a string' if allowed is None else _one_of(allowed))
        return value

    def items(self, key: str, default: Any = REQUIRED, count: int | None = None) -> Any:
        """Return a list, of a length if one is given."""
        value = self._value(key, default)
        if value is default:
            return value
        if not isinstance(value, list) or count not in (None, len(value)):
            self.refuse(key, 'a list' if count is None else f'a list of {count}')
        return value

    def section(self, key: str) -> Fields:
        """Return the object under a key; an absent one is empty."""
        value = self._value(key, None)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            self.refuse(key, 'a JSON object')
        return Fields(value, self.file, f'{self.path} {key}'.strip())

    def only(self, key: str, *allowed: Any, why: str = '') -> None:
        """Refuse a value that is not one of those allowed, in value and type; absent is right."""
        value = self.content.get(key)
        if value is not None and not any(
            value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed
        ):
            self.refuse(key, ' or '.join([*map(_json, allowed), 'absent']), why)

    def known(self, keys: Collection[str], ignored: Collection[str] = ()) -> None:
        """
        Refuse keys that mean nothing here: they may change what is computed.

        ignored: keys that change nothing. Those that begin with an underscore are private to
        the program that wrote them.
        """
        for key, value in self.content.items():
            if value is None or key in keys or key in ignored or str(key).startswith('_'):
                continue
            raise self.error(
                f'has an unknown key {shown(key)} with {shown(value)}: it may change what the '
                'model computes, and nothing here reads it; take it out if it changes nothing')

    def refuse(self, key: str, allowed: str, why: str = '') -> None:
        """Raise CheckpointError for the value of a key, saying what is allowed, and why."""
        raise self.error(f'{key} is {shown(self.content.get(key))}, must be {allowed}'
                         f'{": " if why else ""}{why}')

    def _value(self, key: str, default: Any) -> Any:
        value = self.content.get(key)
        if value is not None:
            return value
        if default is REQUIRED:
            raise self.error(f'lacks {key}')
        return default


def finite(value: object) -> float | None:
    """Return a JSON number as a float; None for what is none, or not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _range_of_integers(least: int, most: int) -> str:
    if most == _MOST:
        return 'a positive integer' if least == 1 else f'an integer, at least {least}'
    if least == 1:
        return f'a positive integer, at most {most}'
    return f'an integer from {least} to {most}'


def _one_of(allowed: Collection[str]) -> str:
    names = [repr(name) for name in allowed]
    return names[0] if len(names) == 1 else f'one of {", ".join(names)}'


def _json(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool) or value is None else repr(value)
