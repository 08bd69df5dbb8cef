"""The files that a report is left in: JSON, and whatever is drawn or written of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from specvla_ros import files
from specvla_ros.benchmark.report import Report

REPORT = 'report.json'


def leave(
    document: Report, folder: Path, json_path: Path | None, console: Console,
    others: Mapping[str, Callable[[Path], None]] | None = None,
) -> None:
    """
    Write a report to `report.json`, and where `--json` says; then the others, each by its name.

    Each path is printed, whole however wide the screen, as soon as its file is there.

    :raises SpecVLAError: full disk and the like
    """
    for path in filter(None, (folder / REPORT, json_path)):
        files.write_json(path, document)
        tell(path, console)
    for name, write in (others or {}).items():
        write(folder / name)
        tell(folder / name, console)


def tell(path: Path, console: Console) -> None:
    """Print the path of a file that was written, as it is."""
    console.print(str(path), style='cyan', highlight=False, markup=False, soft_wrap=True)
