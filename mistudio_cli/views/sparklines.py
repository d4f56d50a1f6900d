"""Sparklines: series drawn as one line of blocks."""

from __future__ import annotations

from collections.abc import Sequence

from mistudio_cli.terminal import humanize
from tasks.jobs.record import MetricPoint

_BLOCKS = "▁▂▃▄▅▆▇█"
_CELLS = 40


def drawn(points: Sequence[MetricPoint]) -> dict[str, str]:
    """For each metric its newest value, its course from left to right, and between what it lay."""
    if not points:
        return {}
    newest = humanize.values(points[-1].values)
    room = max(map(len, newest.values()))
    return {name: f"{value:<{room}}  {_course(points, name)}".rstrip() for name, value in newest.items()}


def spark(values: Sequence[float | None]) -> str:
    """One block a value, the lowest for the least; a space for what is no number."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    least, span = min(known), max(known) - min(known)
    return "".join(" " if value is None else _BLOCKS[_height(value - least, span)] for value in values)


def bars(counts: Sequence[int]) -> str:
    """One block a count, its height from zero; a space where there is none."""
    most = max(counts, default=0)
    return "".join(_BLOCKS[-(-count * len(_BLOCKS) // most) - 1] if count else " " for count in counts)


def _course(points: Sequence[MetricPoint], name: str) -> str:
    points_seen = [(point.at, value) for point in points if (value := point.values.get(name)) is not None]
    if len(points_seen) < 2:
        return ""
    values = [value for _, value in points_seen]
    return f"{spark(_cells(points_seen))}  {min(values):.4g} to {max(values):.4g}"


def _cells(points: Sequence[tuple[int, float]]) -> list[float]:
    """The values on a line of cells, averaged within each; a cell without one repeats the one before."""
    first, last = points[0][0], points[-1][0]
    count = min(_CELLS, len(points))
    found: list[list[float]] = [[] for _ in range(count)]
    for at, value in points:
        found[min(count - 1, (at - first) * count // (last - first))].append(value)
    cells: list[float] = []
    for values in found:
        cells.append(sum(values) / len(values) if values else cells[-1])
    return cells


def _height(above: float, span: float) -> int:
    return min(len(_BLOCKS) - 1, int(above / span * len(_BLOCKS))) if span else 0
