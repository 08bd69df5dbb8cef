"""Settings classes by the names that presets give them, one file each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
import importlib
from pkgutil import iter_modules
from typing import cast, TypeVar

from specvla_ros.errors import SpecVLAError
from specvla_ros.typed_files import Dataclass

T = TypeVar('T')


class Registry(Mapping[str, type[T]]):
    """
    The settings classes of one kind, by name.

    A class registers itself where it is defined. Before the first look-up all files of the kind's
    package are imported, so a new file there needs no other line. A class of another package is
    known once its module is imported.

    kind: what errors call it. package: the package whose files are imported.
    """

    def __init__(self, kind: str, package: str) -> None:
        self._kind, self._package = kind, package
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """
        Register the decorated dataclass under this name.

        Raises SpecVLAError if another class has the name, or if it can't stand in a preset.
        """
        def add(settings: type[T]) -> type[T]:
            what = f'{settings.__module__}.{settings.__qualname__}'
            if not name.isidentifier():
                raise SpecVLAError(
                    f'{self._kind} {name!r} of {what}: a name has letters, digits and _ only')
            if not is_dataclass(settings):
                raise SpecVLAError(
                    f'{self._kind} {name}: {what} is no dataclass; write @dataclass below the '
                    'line that registers it')
            other = self._classes.get(name, settings)
            if (theirs := f'{other.__module__}.{other.__qualname__}') != what:
                raise SpecVLAError(
                    f'{self._kind} {name} is {theirs} already; give {what} another name')
            self._classes[name] = settings
            return settings

        return add

    def make(self, name: str, settings: Mapping[str, object]) -> T:
        """
        Make the settings dataclass registered as ``name``.

        Raises SpecVLAError for an unknown name or setting, listing what there is.
        """
        if name not in self:
            raise SpecVLAError(f'{self._kind} is {name!r}, must be one of {sorted(self)}')
        # A registry of a Protocol: that each of its classes is a dataclass, ``register`` checks.
        allowed = [it.name for it in fields(cast('type[Dataclass]', self[name]))]
        unknown = sorted(set(settings) - set(allowed))
        if unknown:
            raise SpecVLAError(
                f'{self._kind} {name} has no setting {", ".join(map(str, unknown))}; it has '
                f'{", ".join(allowed) or "none"}'
            )
        return self[name](**settings)

    def __getitem__(self, name: str) -> type[T]:
        self._import_all()
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        self._import_all()
        return iter(sorted(self._classes))

    def __len__(self) -> int:
        self._import_all()
        return len(self._classes)

    def _import_all(self) -> None:
        package = importlib.import_module(self._package)
        for module in iter_modules(package.__path__):
            importlib.import_module(f'{self._package}.{module.name}')
