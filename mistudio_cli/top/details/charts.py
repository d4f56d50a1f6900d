"""Curves of metrics as charts of braille dots, two by four in a character, with the values of their axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mistudio_cli.top.frame.text import Line, Span, clean

#: Bits of the dots of a braille character, from the upper to the lower, of its left and its right column.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_ROWS, _WIDEST, _NARROWEST = 5, 72, 4


@dataclass(frozen=True)
class Chart:
    """A curve: its name, and its points as position and value."""

    name: str
    points: tuple[tuple[float, float], ...]


def drawn(chart: Chart, room: int) -> list[Line]:
    """The chart in lines of at most `room` columns; its name and last value alone where there is nothing to draw."""
    points = [(at, value) for at, value in chart.points if math.isfinite(at) and math.isfinite(value)]
    if not points:
        return [(Span(f"{clean(chart.name)}: no values", "dim"),)]
    title: Line = (Span(clean(chart.name), "bold"), Span(f"  {points[-1][1]:.4g} at {points[-1][0]:g}"))
    low, high = min(value for _, value in points), max(value for _, value in points)
    labels = [f"{high:.4g}", *[""] * (_ROWS - 2), f"{low:.4g}"]
    margin = max(map(len, labels)) + 1
    cells = min(_WIDEST, room - margin - 1)
    if len(points) < 2 or cells < _NARROWEST:
        return [title]
    rows = _dotted(points, cells, low, high)
    axis = [(Span(f"{label:>{margin - 1}} │"), Span(row, "info")) for label, row in zip(labels, rows, strict=True)]
    first, last = f"{points[0][0]:g}", f"{points[-1][0]:g}"
    gap = max(1, cells - len(first) - len(last))
    return [title, *axis, (Span(" " * margin + "└" + first + " " * gap + last, "dim"),)]


def _dotted(points: Sequence[tuple[float, float]], cells: int, low: float, high: float) -> list[str]:
    """The rows of characters. Values in one column of dots are averaged; columns between points are filled in."""
    across, down = cells * 2, _ROWS * 4
    levels = _levels(points, across)
    canvas = [[0] * cells for _ in range(_ROWS)]
    span = high - low
    before: int | None = None
    for x, value in enumerate(levels):
        y = down - 1 - round((value - low) / span * (down - 1)) if span else down // 2
        for dot in range(min(y, y if before is None else before), max(y, y if before is None else before) + 1):
            canvas[dot // 4][x // 2] |= _DOTS[x % 2][dot % 4]
        before = y
    return ["".join(chr(0x2800 + bits) for bits in row) for row in canvas]


def _levels(points: Sequence[tuple[float, float]], across: int) -> list[float]:
    """A value for each column of dots, on straight lines between the points."""
    first, last = points[0][0], points[-1][0]
    levels, number = [], 0
    for x in range(across):
        at = first + (last - first) * x / (across - 1)
        while number < len(points) - 2 and points[number + 1][0] < at:
            number += 1
        (x0, y0), (x1, y1) = points[number], points[number + 1]
        share = min(1.0, max(0.0, (at - x0) / (x1 - x0))) if x1 > x0 else 1.0
        levels.append(y0 + (y1 - y0) * share)
    return levels
