"""Options that are given but play no part beside others: they are refused, not ignored."""

from collections.abc import Iterable
from dataclasses import fields, MISSING
from typing import Any

from specvla_ros.errors import SpecVLAError


def refuse_unused(args: Any, names: Iterable[str], reason: str, prefix: str = '') -> None:
    """
    Raise a SpecVLAError for the first of these options that is given.

    :param args: the arguments of a command, a dataclass
    :param names: fields of it; one that holds its default counts as not given
    :param reason: why they play no part, as 'LIBERO is not played with --bag'
    :param prefix: what stands before a name on the command line, as 'shape.' of a part
    """
    defaults = {field.name: field.default if field.default_factory is MISSING
                else field.default_factory() for field in fields(args)}
    for name in names:
        value = getattr(args, name)
        if value != defaults[name]:
            raise SpecVLAError(f'{_written(prefix + name, value)} has no effect: {reason}; leave '
                               'it out')


def _written(name: str, value: Any) -> str:
    """Return an option as it was typed in."""
    option = '--' + name.replace('_', '-')
    if isinstance(value, bool):
        return option if value else f'--no-{option[2:]}'
    values = value if isinstance(value, tuple) else (value,)
    return ' '.join((option, *(f'{it:g}' if isinstance(it, float) else str(it) for it in values)))
