"""A property of a module that is made at its first use."""

from __future__ import annotations

from functools import cached_property
from typing import TypeVar

T = TypeVar('T')


class lazy_property(cached_property[T]):
    """
    A ``cached_property`` for an ``nn.Module``.

    An AttributeError while it is made would be lost: ``nn.Module.__getattr__`` answers it with
    "the module has no such attribute". It becomes a RuntimeError that says what was missing.
    """

    # No class is asked for the property itself, as cached_property would allow.
    def __get__(self, instance: object, owner: type | None = None) -> T:  # type: ignore[override]
        """Return the value, made at the first call."""
        try:
            return super().__get__(instance, owner)
        except AttributeError as error:
            raise RuntimeError(f'cannot make {self.attrname}: {error}') from error
