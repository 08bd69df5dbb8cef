"""What a command shows while it works: a bar on a terminal, and lines anywhere."""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_Live = TypeVar('_Live', bound='LiveProgress')


def terminal_bar(
    console: Console, *columns: ProgressColumn, kind: type[Progress] = Progress,
    transient: bool = False, speed_estimate_period: float = 30.0,
) -> Progress:
    """Make a bar that is drawn on a terminal, and nowhere else: a log file gets no bar."""
    return kind(*columns, console=console, transient=transient,
                speed_estimate_period=speed_estimate_period, disable=not console.is_terminal)


def titled_columns() -> tuple[ProgressColumn, ...]:
    """Return the columns of a bar with a title, its count, the time so far and an estimate."""
    return (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TimeRemainingColumn())


def episode_columns(*more: ProgressColumn) -> tuple[ProgressColumn, ...]:
    """Return the columns of a bar that counts episodes; `more` stand behind the count."""
    return (BarColumn(), MofNCompleteColumn(), TextColumn('episodes'), *more,
            TimeElapsedColumn(), TextColumn('left'), TimeRemainingColumn())


def say(console: Console, line: str) -> None:
    """Print a line as it is, whole however wide the screen."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


class LiveProgress:
    """A bar that is drawn as long as this is entered, and lines that are printed above it."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar

    def __enter__(self: _Live) -> _Live:
        """Start drawing."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing."""
        self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line above the bar; a terminal breaks it where it ends, a file never."""
        console = self._bar.console
        console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)
