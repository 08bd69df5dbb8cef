"""report.html of a replay: one file with the figures, the plots and a look at the recording."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import simplejpeg

from specvla_ros import files
from specvla_ros.benchmark.report import Report
from specvla_ros.benchmark.report_tables import provenance, shown_lines

_HEIGHT = 180  # of the pictures, pixels
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light; }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1f2933; background: #f4f5f7; margin: 0; }}
main {{ max-width: 1200px; margin: 0 auto; padding: 2rem 1rem 4rem; }}
h1 {{ font-size: 1.6rem; margin: 0; }} h2 {{ font-size: 1.1rem; margin: 0 0 .6rem; }}
p {{ margin: .2rem 0; color: #52606d; }}
.warning {{ color: #8d2b0b; background: #ffefe6; border-radius: 6px; padding: .4rem .8rem; }}
section {{ background: #fff; border-radius: 10px; padding: 1.2rem; margin-top: 1.2rem;
  box-shadow: 0 1px 3px #0002; overflow-x: auto; }}
table {{ border-collapse: collapse; min-width: 50%; }}
th, td {{ padding: .25rem 1.4rem .25rem 0; text-align: right;
  font-variant-numeric: tabular-nums; }}
th:first-child, td:first-child {{ text-align: left; white-space: pre; }}
thead th {{ border-bottom: 2px solid #1f2933; }}
tbody tr:nth-child(even) {{ background: #f9fafb; }}
img {{ max-width: 100%; }} .strip {{ display: flex; gap: .4rem; }}
figure {{ margin: 0; flex: 1; }} figcaption {{ font-size: .8rem; color: #52606d; }}
.strip img {{ border-radius: 4px; display: block; width: 100%; }}
code {{ font-size: .8rem; word-break: break-all; }}
</style></head><body><main>
<h1>{title}</h1>
{head}
<section><h2>Recording</h2><div class="strip">{strip}</div></section>
<section><h2>Decoders on the same frames</h2>{table}</section>
{plots}
<section><h2>Where these figures come from</h2>{origin}</section>
</main></body></html>
"""


def write_page(path: Path, document: Report, title: str,
               pictures: Sequence[tuple[int, np.ndarray]], plots: Sequence[Path]) -> None:
    """
    Write the page; everything is inside, so it can be sent around as it is.

    :param pictures: (when it came, ns; uint8 [H, W, 3] RGB); plots: PNG files to put in
    :raises SpecVLAError: the file cannot be written
    """
    page = _PAGE.format(
        title=escape(title), head=_head(document), strip=_strip(pictures),
        table=_table(document), origin=_origin(document),
        plots=''.join(f'<section><img alt="" src="{_inline(plot.read_bytes(), "png")}"></section>'
                      for plot in plots))
    with files.whole_file(path) as temporary:
        temporary.write_text(page, encoding='utf-8')


def _head(document: Report) -> str:
    bag, config = document['bag'], document['config']
    told = '; '.join(f'“{instruction}”' for instruction in bag['instructions'])
    parts = f', in {bag["segments"]} parts' if bag['segments'] > 1 else ''
    way = 'over ROS 2 topics' if config['ros'] else 'in one process, without ROS'
    made = [f'<p>{bag["duration_s"]:.1f} s of {escape(config["image_topic"])}{parts}: '
            f'{escape(told)}. Replayed {way}.</p>']
    if bag['missing']:
        made.append(f'<p class="warning">The bag is not whole: {escape(bag["missing"])}</p>')
    return ''.join(made)


def _strip(pictures: Sequence[tuple[int, np.ndarray]]) -> str:
    begin = pictures[0][0]
    return ''.join(
        f'<figure><img alt="" src="{_inline(_thumbnail(image), "jpeg")}">'
        f'<figcaption>{(received - begin) * 1e-9:.2f} s</figcaption></figure>'
        for received, image in pictures)


def _thumbnail(image: np.ndarray) -> bytes:
    import cv2
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(1, round(width * _HEIGHT / height)), _HEIGHT),
                       interpolation=cv2.INTER_AREA)
    return simplejpeg.encode_jpeg(small, quality=85, colorspace='RGB', colorsubsampling='420')


def _inline(content: bytes, kind: str) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


def _table(document: Report) -> str:
    rows = document['rows']
    head = ''.join(f'<th>{escape(row["decoder"])}</th>' for row in rows)
    body = ''.join(
        f'<tr><td>{escape(name)}</td>'
        + ''.join(f'<td>{escape(cell)}</td>' for cell in cells) + '</tr>'
        for name, cells in shown_lines(rows))
    return f'<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>'


def _origin(document: Report) -> str:
    hashes = ''.join(f'<p>tokens of {escape(row["decoder"])}: <code>{row["tokens_sha256"]}</code>'
                     '</p>' for row in document['rows'])
    lines = ''.join(f'<p>{escape(line)}</p>' for line in provenance(document).splitlines())
    return (f'{lines}<p>bag: <code>{document["bag"]["sha256"]}</code></p>{hashes}'
            f'<p>command: <code>{escape(" ".join(document["command"]))}</code></p>')
