"""
The picture of one moment: the camera frame, and how the action was decoded.

A decoder's column holds its name, the camera frame, the action's tokens as chips and the counts.
Chips of one pass are underlined together: blue ones are the target's own choice, green ones drafts
it accepted. Orange ones, behind the last pass, are tokens that the target never saw.

An action of several control steps has a row of chips for each. Those that were not executed,
as the next action said these steps again, are drawn small.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import functools
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from specvla_ros.benchmark.records import ActionRecord

BACKGROUND, PANEL, LINE = '#12151a', '#1c2129', '#39424f'
TEXT, DIM = '#eceff3', '#a3adba'
TARGET, DRAFT, UNVERIFIED, UNKNOWN = '#3d6fb4', '#2a9d63', '#c96a1b', '#2b323d'
SOLVED, UNSOLVED, CRASHED = '#2a9d63', '#c96a1b', '#c0392b'
DIMENSIONS = ('x', 'y', 'z', 'rx', 'ry', 'rz', 'grip')
COLUMN_WIDTH, MARGIN = 448, 20
TITLE_HEIGHT, CHIPS_HEIGHT, COUNTS_HEIGHT, HEADER_HEIGHT = 48, 92, 64, 92
COLUMN_HEIGHT = TITLE_HEIGHT + COLUMN_WIDTH + CHIPS_HEIGHT + COUNTS_HEIGHT
MIN_WIDTH = 2 * COLUMN_WIDTH + 3 * MARGIN  # the header needs that much


@dataclass(frozen=True, slots=True)
class EpisodeFilm:
    """
    One episode as the video needs it.

    :param decoder: preset's name, the column's title
    :param method: what stands behind it, e.g. `eagle + bins, r = 9`
    :param frames: JPEG of the camera frame at each action
    :param bins: int [T][L], the tokens as bins; of several control steps those that were sent
    :param actions: one record per frame
    :param crash: None if the episode ran to its end
    """

    decoder: str
    method: str
    frames: Sequence[bytes]
    bins: Sequence[Sequence[int]]
    actions: Sequence[ActionRecord]
    success: bool
    crash: str | None
    max_steps: int

    @property
    def times_ms(self) -> np.ndarray:
        """Time of each action, milliseconds [T]."""
        return np.array([action.stage_ms['total'] for action in self.actions])

    @property
    def has_chunks(self) -> bool:
        """Whether an action is of several control steps."""
        return any(action.steps is not None for action in self.actions)

    def steps_until(self, index: int) -> int:
        """Return the control steps that were executed until the end of an action."""
        return sum(1 if it.steps is None else it.steps for it in self.actions[:index + 1])


@dataclass(frozen=True, slots=True)
class Moment:
    """Which action a column shows, how many of its passes are done, and whether it has ended."""

    index: int
    passes: int
    ended: bool


@functools.cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib and so is there on every machine."""
    import matplotlib

    name = 'DejaVuSans-Bold.ttf' if bold else 'DejaVuSans.ttf'
    path = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / name
    return ImageFont.truetype(str(path), size)


def tokens_per_pass(action: ActionRecord) -> list[int]:
    """
    Return how many of the L tokens each pass gained, the prefill first.

    A pass ends with the bonus, which is the target's own. (`acceptance_lengths` may be sorted:
    what comes over ROS is a histogram.) Tokens that the target never saw stand behind them, as if
    a pass of their own.
    """
    gained, since = [], 0
    for source in action.sources:
        since += 1
        if source == 'target':
            gained.append(since)
            since = 0
    return [*gained, since] if since else gained


def draw_column(film: EpisodeFilm, moment: Moment) -> Image.Image:
    """Return one decoder's column, RGB, COLUMN_WIDTH × COLUMN_HEIGHT pixels."""
    picture = Image.new('RGB', (COLUMN_WIDTH, COLUMN_HEIGHT), PANEL)
    pen = ImageDraw.Draw(picture)
    _draw_title(pen, film)
    frame = Image.open(io.BytesIO(film.frames[moment.index])).convert('RGB')
    picture.paste(frame.resize((COLUMN_WIDTH, COLUMN_WIDTH), Image.Resampling.LANCZOS),
                  (0, TITLE_HEIGHT))
    if moment.ended:
        _draw_outcome(pen, film)
    action = film.actions[moment.index]
    top = TITLE_HEIGHT + COLUMN_WIDTH
    _draw_chips(pen, action, film.bins[moment.index], moment.passes, top)
    _draw_counts(pen, film, moment, top + CHIPS_HEIGHT)
    return picture


def _draw_title(pen: ImageDraw.ImageDraw, film: EpisodeFilm) -> None:
    middle = TITLE_HEIGHT // 2
    bold = font(24, bold=True)
    pen.text((14, middle), film.decoder, TEXT, bold, anchor='lm')
    room = COLUMN_WIDTH - 42 - pen.textlength(film.decoder, bold)
    method = _fit(pen, film.method, 16, room, bold=False)
    pen.text((COLUMN_WIDTH - 14, middle + 1), method, DIM, font(16), anchor='rm')


def _draw_outcome(pen: ImageDraw.ImageDraw, film: EpisodeFilm) -> None:
    seconds = film.times_ms.sum() / 1000
    n = f'{len(film.actions)} actions'
    if film.has_chunks:
        n = f'{film.steps_until(len(film.actions))} steps in {n}'
    text, colour = (f'solved: {n}, {seconds:.1f} s', SOLVED) if film.success else \
        ('crashed', CRASHED) if film.crash is not None else (f'not solved: {n}', UNSOLVED)
    box = (0, TITLE_HEIGHT + COLUMN_WIDTH - 44, COLUMN_WIDTH, TITLE_HEIGHT + COLUMN_WIDTH)
    pen.rectangle(box, colour)
    pen.text((COLUMN_WIDTH // 2, box[1] + 22), text, 'white', font(20, bold=True), anchor='mm')


def _draw_chips(pen: ImageDraw.ImageDraw, action: ActionRecord, bins: Sequence[int], passes: int,
                top: int) -> None:
    """Draw the L tokens, row by row where the action is a chunk of several steps."""
    length = len(action.sources)
    per_row = min(length, len(DIMENSIONS))
    n_rows = -(-length // per_row)
    gap, left = 6, 12
    width = (COLUMN_WIDTH - 2 * left + gap) / per_row
    labelled = n_rows == 1
    first = top + (26 if labelled else 8)
    height = (CHIPS_HEIGHT - 22 - (first - top)) / n_rows if not labelled else 38
    position = 0
    for number, gained in enumerate(tokens_per_pass(action)):
        for index in range(position, position + gained):
            x = left + (index % per_row) * width
            y = first + (index // per_row) * height
            known = number < passes
            colour = _colour(action, index) if known else UNKNOWN
            box = (x, y, x + width - gap, y + height - (3 if n_rows > 1 else 0))
            if action.steps is not None and index // per_row >= action.steps:
                box = _middle_of(box)
            pen.rounded_rectangle(box, 6 if labelled else 2, colour)
            if labelled:
                centre = (box[0] + box[2]) / 2
                name = DIMENSIONS[index] if length == len(DIMENSIONS) else str(index)
                pen.text((centre, top + 14), name, DIM, font(15), anchor='mm')
                if known:
                    pen.text((centre, (box[1] + box[3]) / 2), str(bins[index]), 'white',
                             font(17, bold=True), anchor='mm')
        if labelled and number < passes and gained:
            y = first + height + 8
            x0, x1 = left + position * width, left + (position + gained) * width - gap
            pen.line((x0, y, x1, y), DIM, 2)
            name = f'pass {number}' if number and gained > 1 else str(number or 'prefill')
            if position >= length - action.unverified:
                name = 'no pass' if gained > 1 else '–'
            pen.text(((x0 + x1) / 2, y + 11), name, DIM, font(13), anchor='mm')
        position += gained
    if action.steps is not None:
        text = f'{action.steps} of {n_rows} control steps executed'
        pen.text((COLUMN_WIDTH // 2, top + CHIPS_HEIGHT - 11), text, DIM, font(13), anchor='mm')


def _middle_of(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Return a box a third as wide, in its middle."""
    third = (box[2] - box[0]) / 3
    return box[0] + third, box[1], box[2] - third, box[3]


def _colour(action: ActionRecord, index: int) -> str:
    """Return the colour of an action's token."""
    if index >= len(action.sources) - action.unverified:
        return UNVERIFIED
    return TARGET if action.sources[index] == 'target' else DRAFT


def _draw_counts(pen: ImageDraw.ImageDraw, film: EpisodeFilm, moment: Moment, top: int) -> None:
    shown = film.actions[:moment.index + 1]
    action = shown[-1]
    lengths = [n for done in shown for n in done.acceptance_lengths]
    length = f'{np.mean(lengths):.2f}' if lengths else '–'
    elapsed = film.times_ms[:moment.index + 1].sum() / 1000
    pen.line((12, top, COLUMN_WIDTH - 12, top), LINE, 1)
    cells = [('step', f'{film.steps_until(moment.index)}'), ('passes', f'{action.target_passes}'),
             ('tokens/pass', length), ('this action', f'{action.stage_ms["total"]:.0f} ms'),
             ('time so far', f'{elapsed:.1f} s')]
    starts = (12, 72, 140, 246, 350)
    for (label, value), x in zip(cells, starts):
        pen.text((x, top + 17), label, DIM, font(14), anchor='lm')
        pen.text((x, top + 43), value, TEXT, font(19, bold=True), anchor='lm')


def canvas_size(columns: int) -> tuple[int, int]:
    """Return width and height of the whole picture, both even as H.264 wants them."""
    width = max(MIN_WIDTH, columns * (COLUMN_WIDTH + MARGIN) + MARGIN)
    return width + width % 2, HEADER_HEIGHT + COLUMN_HEIGHT + MARGIN + COLUMN_HEIGHT % 2


def draw_canvas(columns: Sequence[Image.Image], title: str, subtitle: str, clock: str
                ) -> Image.Image:
    """Put columns side by side under the instruction, the legend and the clock."""
    width, height = canvas_size(len(columns))
    canvas = Image.new('RGB', (width, height), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    clock_width = pen.textlength(clock, font(22, bold=True))
    room = width - 3 * MARGIN - clock_width
    pen.text((MARGIN, 30), _fit(pen, title, 26, room), TEXT, font(26, bold=True), anchor='lm')
    pen.text((width - MARGIN, 30), clock, TEXT, font(22, bold=True), anchor='rm')
    pen.text((MARGIN, 68), subtitle, DIM, font(16), anchor='lm')
    x: float = width - MARGIN
    for text, colour in (('unverified', UNVERIFIED), ('accepted draft', DRAFT),
                         ("target's own token", TARGET)):
        x -= pen.textlength(text, font(16))
        pen.text((x, 68), text, DIM, font(16), anchor='lm')
        pen.rounded_rectangle((x - 26, 60, x - 8, 76), 4, colour)
        x -= 50
    left = (width - len(columns) * (COLUMN_WIDTH + MARGIN) + MARGIN) // 2
    for number, column in enumerate(columns):
        canvas.paste(column, (left + number * (COLUMN_WIDTH + MARGIN), HEADER_HEIGHT))
    return canvas


def _fit(pen: ImageDraw.ImageDraw, text: str, size: int, room: float, bold: bool = True) -> str:
    """Shorten a text to the room there is."""
    if pen.textlength(text, font(size, bold)) <= room:
        return text
    while text and pen.textlength(text + '…', font(size, bold)) > room:
        text = text[:-1]
    return text.rstrip() + '…'
