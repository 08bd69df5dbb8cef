"""
Files that a person or another process writes, read by type: one line for what can't be.

YAML and JSON know mappings, lists and a few scalars; what reads them here wants a dataclass whose
fields are of their types. `openvla.json_file` does the same for a checkpoint's files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import Field, fields, MISSING
from functools import lru_cache
import json
from pathlib import Path
import sys
from types import UnionType
from typing import (
    Any,
    ClassVar,
    get_args,
    get_origin,
    get_type_hints,
    Literal,
    Protocol,
    TypeGuard,
    TypeVar,
    Union,
)

import yaml

from specvla_ros.errors import one_line, shown, SpecVLAError


class Dataclass(Protocol):
    """Any dataclass, as `fields` takes it."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


T = TypeVar('T', bound=Dataclass)


def read_yaml(path: Path) -> dict[str, Any]:
    """
    Content of a YAML file that holds one mapping.

    Raises FileNotFoundError, or SpecVLAError naming the file: no UTF-8, no YAML, a key twice in
    one mapping, no mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file')
    try:
        content = yaml.load(path.read_text(encoding='utf-8'), _UniqueKeys)
    except RecursionError as error:
        raise SpecVLAError(f'{path}: not YAML: nested too deeply') from error
    except (yaml.YAMLError, ValueError, TypeError) as error:  # of dates and numbers, the latter
        raise SpecVLAError(f'{path}: not YAML: {one_line(error)}') from error
    if not isinstance(content, dict):
        raise SpecVLAError(f'{path}: holds {type(content).__name__}, must be a mapping')
    return content


class _UniqueKeys(yaml.SafeLoader):
    """Safe YAML in which a key stands once: of two, the last would hold without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Make a mapping of a node."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f'key {shown(name)} stands twice', node.start_mark)
        return super().construct_mapping(node, deep)


def read_json(path: Path) -> dict[str, Any]:
    """
    Content of a JSON file that holds one object.

    Raises FileNotFoundError, or SpecVLAError naming the file: no UTF-8, no JSON, no object.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except RecursionError as error:
        raise SpecVLAError(f'{path}: not JSON: nested too deeply') from error
    except ValueError as error:
        raise SpecVLAError(f'{path}: not JSON: {error}') from error
    if not isinstance(content, dict):
        raise SpecVLAError(f'{path}: holds {type(content).__name__}, must be an object')
    return content


def typed(cls: type[T], content: object, place: str) -> T:
    """
    Make a dataclass of an object read from a file, each value of its field's type.

    A list becomes a tuple, an int a float. place: what messages begin with. Raises SpecVLAError
    naming the key for one that is missing, unknown, or whose value is of another type.
    """
    if not isinstance(content, Mapping):
        raise SpecVLAError(f'{place}: holds {shown(content)}, must be an object')
    hints = _hints(cls)
    known = {setting.name: setting for setting in fields(cls)}
    required = {name for name, setting in known.items()
                if setting.default is MISSING and setting.default_factory is MISSING}
    missing, unknown = sorted(required - set(content)), sorted(map(str, set(content) - set(known)))
    if missing or unknown:
        raise SpecVLAError(f'{place}: missing keys {missing}, unknown keys {unknown}; there are '
                           f'{sorted(known)}')
    values = {name: value_of(hints[name], value, f'{place}: {name}')
              for name, value in content.items()}
    with naming(place):
        return cls(**values)


def value_of(hint: Any, value: object, name: str) -> Any:
    """Return a value read from a file as a type; raises SpecVLAError if it is another's."""
    try:
        return _of_type(hint, value)
    except TypeError:
        raise SpecVLAError(f'{name} is {shown(value)}, must be {_words(hint)}') from None


_hints = lru_cache(get_type_hints)


def _of_type(hint: Any, value: Any) -> Any:
    """Return a value read from a file as a type; raises TypeError if it is another's."""
    origin, inside = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        for one in inside:
            with suppress(TypeError):
                return _of_type(one, value)
    elif origin is Literal:
        if isinstance(value, str) and value in inside:
            return value
    elif origin is tuple and isinstance(value, (list, tuple)):
        types = inside[:1] * len(value) if inside[-1] is ... else inside
        if len(types) == len(value):
            return tuple(map(_of_type, types, value))
    elif origin in (dict, Mapping) and isinstance(value, dict):
        return {_of_type(inside[0], key): _of_type(inside[1], one) for key, one in value.items()}
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif hint is float and is_number(value):
        return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise TypeError


def _words(hint: Any) -> str:
    """Return a type as a message names it."""
    names = {int: 'a whole number', float: 'a number', str: 'a string', bool: 'true or false',
             type(None): 'null', Path: 'a path'}
    if hint in names:
        return names[hint]
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return ' or '.join(map(_words, inside))
    if origin is Literal:
        return f'one of {", ".join(map(repr, inside))}'
    if origin is tuple:
        return f'a list, each {_words(inside[0])}'
    return 'an object'


@contextmanager
def naming(place: object) -> Iterator[None]:
    """Put the file before the message of a ValueError, and make it a SpecVLAError."""
    try:
        yield
    except ValueError as error:
        raise SpecVLAError(f'{place}: {error}') from error


def check_keys(
    path: Path,
    content: Mapping[str, object],
    required: Collection[str],
    optional: Collection[str] = (),
) -> None:
    """Refuse a mapping that lacks a key or has one that means nothing."""
    missing = sorted(set(required) - set(content))
    unknown = sorted(str(key) for key in set(content).difference(required, optional))
    if missing or unknown:
        raise SpecVLAError(
            f'{path}: missing keys {missing}, unknown keys {unknown}; must have '
            f'{sorted(required)}'
        )


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of a file is a number: no true or false, no int beyond what floats hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, float) or abs(value) <= sys.float_info.max
