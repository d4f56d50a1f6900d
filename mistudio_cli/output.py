"""The one sink of the command line: data to standard output, talk to standard error.

A pipe gets whole words and no colour, however wide; a terminal gets both within its width.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from tasks.problem import Problem

#: The exit code when nobody reads what was written; in the table of `errors` too.
READER_GONE = 141

_RED, _GREEN, _YELLOW, _CYAN, _BOLD = "31", "32", "33", "36", "1"

#: The colour of a cell that is exactly this word.
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
    "warning": _YELLOW,
    "failed": _RED,
    "fatal": _RED,
    "critical": _RED,
}

_NUMBER = re.compile(r"\d[\d.]*( .+)?")
_GAP = "  "
_LEAST_SHRUNK = 14


def data(text: str) -> None:
    """Lines of what was asked for. Ends the command quietly when nobody reads them."""
    _write(sys.stdout, text)


def data_bytes(chunk: bytes) -> None:
    """Bytes of what was asked for, as they are."""
    _guard(sys.stdout, lambda: sys.stdout.buffer.write(chunk))


def data_json(value: Any) -> None:
    """What was asked for, as JSON; a number that JSON has no word for is null, as what is unknown."""
    data(json.dumps(speakable(value), indent=2, ensure_ascii=False, allow_nan=False))


def talk(text: str) -> None:
    """A line to the person at the terminal."""
    _write(sys.stderr, text)


def ask(question: str, unasked: str) -> None:
    """Go on only if the person at the terminal says so; `unasked` is the command that does not ask."""
    import typer

    if not sys.stdin.isatty():
        raise Problem("Cannot ask for confirmation: stdin is not a terminal.", f"To confirm: {unasked}")
    if not typer.confirm(question, err=True):
        raise typer.Exit(0)


def talk_over(text: str) -> None:
    """Replace the line last talked over; nothing when standard error is no terminal."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K" + text[: terminal_width() - 1])
        sys.stderr.flush()


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under headers; the widest columns give way when a terminal is too narrow."""
    data(lay_out(headers, rows, terminal_width() if sys.stdout.isatty() else None, in_colour(sys.stdout)))


def terminal_width() -> int:
    """Columns of the terminal."""
    return max(20, shutil.get_terminal_size((80, 24)).columns)


def in_colour(stream: TextIO) -> bool:
    """Whether to colour what goes to that stream."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def lay_out(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int | None, colour: bool) -> str:
    """The lines of a table; `width` None is without bound. Columns of numbers are aligned to the right."""
    wide = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    if width is not None:
        _narrow(wide, width - len(_GAP) * (len(wide) - 1))
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(headers))]
    lines = [_line(headers, wide, right, lambda cell: _BOLD if colour else None)]
    lines += [_line(row, wide, right, lambda cell: COLOURS.get(cell) if colour else None) for row in rows]
    return "\n".join(lines)


def least_width(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """The width under which `lay_out` cuts a table off at the right."""
    wide = [min(max(map(len, column)), _LEAST_SHRUNK) for column in zip(headers, *rows, strict=True)]
    return sum(wide) + len(_GAP) * (len(wide) - 1)


def speakable(value: Any) -> Any:
    """The same with null for each number that JSON has no word for."""
    if isinstance(value, dict):
        return {key: speakable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [speakable(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _narrow(wide: list[int], room: int) -> None:
    """Take from the widest columns, evenly, until they fit; none gets so narrow that an id is cut."""
    while sum(wide) > room and max(wide) > _LEAST_SHRUNK:
        wide[wide.index(max(wide))] -= 1


def _line(cells: Sequence[str], wide: Sequence[int], right: Sequence[bool], style: Any) -> str:
    parts = []
    for cell, room, to_right in zip(cells, wide, right, strict=True):
        text = cell if len(cell) <= room else cell[: room - 1] + "…"
        padded = text.rjust(room) if to_right else text.ljust(room)
        code = style(cell)
        parts.append(f"\x1b[{code}m{padded}\x1b[0m" if code else padded)
    return _GAP.join(parts).rstrip()


def _is_number(cell: str) -> bool:
    return cell in ("", "-", "n/a") or _NUMBER.fullmatch(cell) is not None


def _write(stream: TextIO, text: str) -> None:
    _guard(stream, lambda: stream.write(text + "\n"))


def _guard(stream: TextIO, write: Callable[[], object]) -> None:
    try:
        write()
        stream.flush()
    except BrokenPipeError:
        # Nothing can be written any more, not even what the interpreter flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise SystemExit(READER_GONE) from None
