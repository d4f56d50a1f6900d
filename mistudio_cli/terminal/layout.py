"""Lays out tables as lines: within a terminal's width, whole words in a pipe, and nothing in a cell that steers it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from tasks.parsing.safe_text import visible

_RED, _GREEN, _YELLOW, _CYAN, _BOLD, _DIM = "31", "32", "33", "36", "1", "2"

#: The color of a cell that is exactly this word.
COLOURS = {
    "ok": _GREEN,
    "succeeded": _GREEN,
    "healthy": _GREEN,
    "running": _CYAN,
    "starting": _CYAN,
    "no worker": _YELLOW,
    "paused": _YELLOW,
    "cancelled": _YELLOW,
    "backoff": _YELLOW,
    "silent": _YELLOW,
    "unresponsive": _YELLOW,
    "refused": _YELLOW,
    "warning": _YELLOW,
    "failed": _RED,
    "fatal": _RED,
    "critical": _RED,
}

#: What a narrow terminal does without, of each table by its first header, the most dispensable first: a column cut off
#: at the right would be the one that says how far a job is. The state of a queue or a job is never left out.
DISPENSABLE = {
    "QUEUE": ("SLOTS", "CONSUMERS", "OLDEST", "DONE/MIN", "ETA", "RUNNING"),
    "ID": ("DEVICE", "ATTEMPT", "QUEUE", "AGE", "TAGS", "QUEUED", "DURATION", "KIND"),
    "#": ("DISK", "MEMORY", "QUEUE", "TIME", "AFTER"),
    "JOB": ("METRICS", "DURATION", "KIND", "DEVICE", "NAME"),
    "WORKER": ("LAST EXIT", "UP", "RESTARTS", "CPU", "JOB MEM", "MEMORY", "PID", "CORES", "GPUS", "QUEUES"),
    "HOST": ("VERSION", "LOAD", "CORES", "MEMORY", "CLOCK", "STORE FREE", "GPUS"),
    "GPU@HOST": ("NAME",),
    "WHEN": ("PID", "FROM"),
    "GPU": ("POWER", "TEMP", "NAME"),
    "PROFILE": ("GPUS", "CORES", "MEMORY", "FROM", "FILE", "SLOTS"),
    "NAME": ("ARCH", "MODEL", "DEAD FRAC.", "FEATURES"),
}
_LEAST_WRAPPED = 20

_NUMBER = re.compile(r"\d[\d.]*( .+)?")
_GAP = "  "
_LEAST_SHRUNK, _LEAST = 14, 4


def lay_out(
    headers: Sequence[str], rows: Sequence[Sequence[str]], width: int | None, colour: bool, *, wrap: bool = False
) -> str:
    """The lines of a table; `width` None is without bound. Columns of numbers are aligned to the right.

    With `wrap` the text of the last column continues below itself instead of being shortened.
    """
    rows = [[visible(cell) for cell in row] for row in rows]
    if wrap and width is not None:
        rows = _wrapped(headers, rows, width)
    wide = [max(map(columns, column)) for column in zip(headers, *rows, strict=True)]
    if width is not None:
        _narrow(wide, width - len(_GAP) * (len(wide) - 1))
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(headers))]
    lines = [_line(headers, wide, right, lambda cell: _BOLD if colour else None)]
    lines += [_line(row, wide, right, _style_of(row) if colour else lambda cell: None) for row in rows]
    return "\n".join(lines)


def fitting(
    headers: Sequence[str], rows: Sequence[Sequence[str]], width: int | None
) -> tuple[list[str], list[list[str]]]:
    """The table without as many of its dispensable columns, the first of them first, as it takes to fit."""
    names, kept = list(headers), [list(row) for row in rows]
    for name in filter(names.__contains__, DISPENSABLE.get(names[0], ())):
        if width is None or least_width(names, kept) <= width:
            break
        at = names.index(name)
        names, kept = names[:at] + names[at + 1 :], [row[:at] + row[at + 1 :] for row in kept]
    return names, kept


def least_width(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """The width under which `lay_out` shortens more of a table than its longest texts."""
    wide = [min(max(map(columns, column)), _LEAST_SHRUNK) for column in zip(headers, *rows, strict=True)]
    return sum(wide) + len(_GAP) * (len(wide) - 1)


def columns(text: str) -> int:
    """How many columns of a terminal the text takes: East Asian letters take two, combining marks none."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def cut(text: str, room: int) -> str:
    """The text, or as much of it as fits into `room` columns with an ellipsis."""
    if columns(text) <= room:
        return text
    kept, used = 0, 1
    while kept < len(text) and used + _columns_of(text[kept]) <= room:
        used += _columns_of(text[kept])
        kept += 1
    return text[:kept] + "…"


def _columns_of(letter: str) -> int:
    import unicodedata

    if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _wrapped(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """The rows with as many more below each as its last cell needs lines."""
    import textwrap

    before = [max(map(columns, column)) + len(_GAP) for column in list(zip(headers, *rows, strict=True))[:-1]]
    room = max(_LEAST_WRAPPED, width - sum(before))
    found = []
    for *cells, text in rows:
        first, *more = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
        found += [[*cells, first], *([*[""] * len(cells), line] for line in more)]
    return found


def _style_of(row: Sequence[str]) -> Callable[[str], str | None]:
    """The style of a row's cells; what was read long ago, of somebody who is silent since, is dimmed."""
    is_stale = any(cell.startswith("silent") for cell in row)
    return lambda cell: COLOURS.get(cell, _DIM if is_stale else None)


def _narrow(wide: list[int], room: int) -> None:
    """Take from the widest columns, evenly, until they fit; ids, which come first, are cut last of all."""
    for least in (_LEAST_SHRUNK, _LEAST):
        first = 1 if len(wide) > 1 and wide[0] <= _LEAST_SHRUNK else 0
        while sum(wide) > room and max(wide[first:]) > least:
            wide[wide.index(max(wide[first:]), first)] -= 1


def _line(cells: Sequence[str], wide: Sequence[int], right: Sequence[bool], style: Any) -> str:
    parts = []
    for cell, room, to_right in zip(cells, wide, right, strict=True):
        text = cut(cell, room)
        gap = " " * (room - columns(text))
        padded = gap + text if to_right else text + gap
        code = style(cell)
        parts.append(f"\x1b[{code}m{padded}\x1b[0m" if code else padded)
    return _GAP.join(parts).rstrip()


def _is_number(cell: str) -> bool:
    return cell in ("", "-", "n/a") or _NUMBER.fullmatch(cell) is not None
