"""What a report is made of, whatever it is written as: sections, tables and cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal['ours', 'paper', 'missing']


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure and, in small, its interval and count."""

    main: str
    small: str = ''


@dataclass(frozen=True, slots=True)
class TableLine:
    """A row of a table; kind: whose figures they are."""

    kind: Kind
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table; its lines have as many cells as there are headings, or fewer."""

    headings: tuple[str, ...]
    lines: tuple[TableLine, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, what to know before reading, a table, and the file of its figure."""

    title: str
    text: str
    table: ReportTable | None = None
    figure: str = ''


def line(kind: Kind, *cells: Cell | str) -> TableLine:
    """Return a row of cells; a string is a cell without interval."""
    return TableLine(kind, tuple(Cell(cell) if isinstance(cell, str) else cell for cell in cells))


def figure_cell(figure: Mapping[str, Any] | None, form: str = '.2f', scale: float = 1.0,
                unit: str = '') -> Cell:
    """Return a figure of `acceptance_figures` as a cell; '–' where there is none."""
    if figure is None or figure['value'] is None:
        return Cell('–')
    small = ', '.join(filter(None, (interval_text(figure['interval'], form, scale),
                                    f'n {figure["n"]:,}')))
    return Cell(f'{scale * figure["value"]:{form}}{unit}', small)


def interval_text(interval: Sequence[float] | None, form: str, scale: float = 1.0) -> str:
    """Return an interval's ends, or why there is none."""
    if interval is None:
        return 'no interval'
    signed = any(end < 0 for end in interval)
    return ('…' if signed else '–').join(f'{scale * end:{form}}' for end in interval)
