"""Whether the machines of a cluster hold the same weights: no disk is shared, so each is asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import os
from pathlib import Path

from specvla_ros.errors import SpecVLAError
from specvla_ros.hashing import folder_sha256

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class SameFolders:
    """Folders of weights and their hashes; one inside the package is looked for in the package."""

    sha256: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, folders: Iterable[Path]) -> SameFolders:
        """Hash folders of this machine; raise FileNotFoundError where one is not there."""
        found = []
        for folder in folders:
            path = folder.resolve()
            if path.is_relative_to(_PACKAGE):
                path = path.relative_to(_PACKAGE)
            found.append((str(path), folder_sha256(folder)))
        return cls(tuple(found))

    def check(self) -> None:
        """
        Hold this machine's folders against them.

        :raises SpecVLAError: one is not there, or holds something else
        """
        for name, wanted in self.sha256:
            path, host = _PACKAGE / name, os.uname().nodename  # an absolute name stays as it is
            try:
                found = folder_sha256(path)
            except FileNotFoundError as error:
                raise SpecVLAError(f'on {host}: {error}; copy the folder to the same place on '
                                   'each machine of the cluster') from error
            if found != wanted:
                raise SpecVLAError(
                    f'{path} on {host} holds other weights (sha256 {found[:12]}, on the machine '
                    f'that leads {wanted[:12]}): copy the same folder to each machine of the '
                    'cluster')
