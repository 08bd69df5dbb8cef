"""A report as Markdown, and as one HTML file that needs no other."""

from __future__ import annotations

import base64
from collections.abc import Sequence
import html
from pathlib import Path
import re

from specvla_ros.benchmark.episodes.paper.contents import Cell, ReportTable, Section, TableLine

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 78rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
p { max-width: 55rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #444; white-space: nowrap; } tr { border-bottom: 1px solid #ddd; }
tr.first { border-top: 2px solid #999; }
tr.paper td { background: #f3f1ea; font-style: italic; } tr.missing td { color: #888; }
small { display: block; color: #666; font-style: normal; } code { font-size: .92em; }
img { max-width: 100%; margin: 1rem 0; }
"""


def markdown(title: str, text: str, sections: Sequence[Section]) -> str:
    """Return the report as Markdown; figures are files beside it."""
    parts = [f'# {title}', text]
    for section in sections:
        parts += [f'## {section.title}', section.text]
        if section.table is not None:
            parts.append(_markdown_table(section.table))
        if section.figure:
            parts.append(f'![{section.title}]({section.figure})')
    return '\n\n'.join(parts) + '\n'


def _markdown_table(table: ReportTable) -> str:
    lines = [_markdown_row(table.headings), '|' + '---|' * len(table.headings)]
    for each in table.lines:
        cells = [_markdown_cell(cell, each) for cell in each.cells]
        lines.append(_markdown_row(cells + [''] * (len(table.headings) - len(cells))))
    return '\n'.join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in cells)} |'


def _markdown_cell(cell: Cell, of: TableLine) -> str:
    main = f'*{cell.main}*' if of.kind == 'paper' and cell.main else cell.main
    if not cell.small:
        return main
    return f'{main}: {cell.small}' if of.kind == 'missing' else f'{main} ({cell.small})'


def page(title: str, text: str, sections: Sequence[Section], folder: Path) -> str:
    """
    Return the report as one HTML file, with the figures in it.

    :param folder: where the figures are
    """
    parts = [f'<h1>{html.escape(title)}</h1>', _paragraph(text)]
    for section in sections:
        parts += [f'<h2>{html.escape(section.title)}</h2>', _paragraph(section.text)]
        if section.figure:
            data = base64.b64encode((folder / section.figure).read_bytes()).decode()
            parts.append(f'<img alt="{html.escape(section.title)}" '
                         f'src="data:image/png;base64,{data}">')
        if section.table is not None:
            parts.append(_html_table(section.table))
    return ('<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width">\n'
            f'<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n'
            + '\n'.join(parts) + '\n</html>\n')


def _html_table(table: ReportTable) -> str:
    rows = [f'<tr>{"".join(f"<th>{html.escape(name)}</th>" for name in table.headings)}</tr>']
    group = None
    for each in table.lines:
        # A line above where the first column begins another group.
        first, group = each.cells[0].main != group, each.cells[0].main
        cells = [_html_cell(cell) for cell in each.cells]
        left = len(table.headings) - len(cells)
        if left:  # what is missing takes the rest of the row
            cells[-1] = cells[-1].replace('<td>', f'<td colspan="{left + 1}">', 1)
        rows.append(f'<tr class="{each.kind}{" first" if first else ""}">{"".join(cells)}</tr>')
    return '<div class="wide"><table>\n' + '\n'.join(rows) + '\n</table></div>'


def _html_cell(cell: Cell) -> str:
    small = f'<small>{_inline(cell.small)}</small>' if cell.small else ''
    return f'<td>{_inline(cell.main)}{small}</td>'


def _paragraph(text: str) -> str:
    return f'<p>{_inline(text)}</p>'


def _inline(text: str) -> str:
    """Turn the little Markdown that texts have into HTML."""
    text = html.escape(text, quote=False)
    for mark, tag in ((r'`([^`]+)`', 'code'), (r'\*\*([^*]+)\*\*', 'strong'),
                      (r'\*([^*]+)\*', 'em')):
        text = re.sub(mark, rf'<{tag}>\1</{tag}>', text)
    return text
