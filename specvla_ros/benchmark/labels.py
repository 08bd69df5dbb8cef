"""Labels beside points of a plot, where they meet neither each other nor the points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
import math
from typing import Any

# How far from its point a label may stand, in points of 1/72 inch: as near as there is room.
_DISTANCES = (9, 16, 24, 34, 46, 60, 80, 105, 135, 170, 210, 260)
_ANGLES = tuple(math.radians(angle) for angle in (
    35, -35, 145, -145, 90, -90, 0, 180, 60, -60, 120, -120, 15, -15, 165, -165))
_LED = 20  # from this distance on, a line leads from the label to its point
_MARK = 7  # half the width of a point's mark, 1/72 inch
_FONT_SIZE = 9

Box = tuple[float, float, float, float]  # left, low, right, high


@dataclass(frozen=True, slots=True)
class Point:
    """A point to label; x_span, y_span: ends of its intervals. All in the axis' data."""

    x: float
    y: float
    label: str
    colour: str
    x_span: tuple[float, float]
    y_span: tuple[float, float]


def place_labels(axis: Any, points: Sequence[Point]) -> list[Any]:
    """
    Write a label beside each point, clear of all points, intervals and other labels.

    The axes must have been drawn once, and not move any more.

    :returns: the labels, matplotlib's annotations, in the order of the points
    """
    figure = axis.figure
    renderer, scale = figure.canvas.get_renderer(), figure.dpi / 72
    places = [axis.transData.transform((point.x, point.y)) for point in points]
    taken = [box for point in points for box in _boxes_of(axis, point, scale)]
    frame = axis.get_window_extent(renderer)
    inside = frame.x0, frame.y0, frame.x1, frame.y1
    made = []
    for point, at in zip(points, places, strict=True):
        x, y, colour = point.x, point.y, point.colour
        note = axis.annotate(point.label, (x, y), (0, 0), textcoords='offset points', color=colour,
                             fontsize=_FONT_SIZE, zorder=4, annotation_clip=False)
        extent = note.get_window_extent(renderer)
        size = extent.width + 2 * scale, extent.height + scale  # with some air
        box, distance = _free_place(at, size, taken, inside, scale)
        taken.append(box)
        note.set_position(((box[0] - at[0]) / scale, (box[1] - at[1]) / scale))
        if distance >= _LED:
            end = (min(max(at[0], box[0]), box[2]), min(max(at[1], box[1]), box[3]))
            axis.annotate('', (x, y), ((end[0] - at[0]) / scale, (end[1] - at[1]) / scale),
                          textcoords='offset points', zorder=2, arrowprops={
                              'arrowstyle': '-', 'color': colour, 'lw': 0.8, 'shrinkB': 0})
        made.append(note)
    return made


def _boxes_of(axis: Any, point: Point, scale: float) -> list[Box]:
    """Return where a point's mark and its two intervals are, pixels."""
    corners = axis.transData.transform([
        (point.x, point.y), (point.x_span[0], point.y_span[0]),
        (point.x_span[1], point.y_span[1])])
    (x, y), (left, low), (right, high) = corners.tolist()
    half, thin = _MARK * scale, scale
    return [(x - half, y - half, x + half, y + half), (left, y - thin, right, y + thin),
            (x - thin, low, x + thin, high)]


def _free_place(at: Sequence[float], size: tuple[float, float], taken: Sequence[Box],
                inside: Box, scale: float) -> tuple[Box, float]:
    """Return the nearest box, in pixels, that meets no other; else the one that meets least."""
    best: tuple[Box, float] = ((0.0, 0.0, *size), 0.0)
    least = math.inf
    for distance, box in _boxes(at, size, scale):
        met = sum(_overlap(box, other) for other in taken)
        outside = size[0] * size[1] - _overlap(box, inside)
        if (cost := met + outside) < least:
            best, least = (box, distance), cost
        if not met and outside < 1:
            return box, distance
    return best


def _boxes(at: Sequence[float], size: tuple[float, float], scale: float
           ) -> Iterator[tuple[float, Box]]:
    """Yield places around a point, the nearest first: (distance, box)."""
    width, height = size
    for distance in _DISTANCES:
        for angle in _ANGLES:
            x = at[0] + scale * distance * math.cos(angle)
            y = at[1] + scale * distance * math.sin(angle)
            # The side that looks at the point is the one that stands there.
            left = x - width * (1 - math.cos(angle)) / 2
            low = y - height * (1 - math.sin(angle)) / 2
            yield distance, (left, low, left + width, low + height)


def _overlap(one: Box, other: Box) -> float:
    """Return the area that two boxes share, pixels²."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
