"""Writes a frame to the terminal: only the cells that differ from the frame before, with cursor addressing."""

from __future__ import annotations

from collections.abc import Sequence

from mistudio_cli.terminal.layout import columns
from mistudio_cli.top.frame.text import Line, Look, Span, ansi

_CLEAR = "\x1b[m\x1b[2J"
_TO_END_OF_LINE = "\x1b[K"


class Screen:
    """Knows what the terminal shows; `look` is what it can show."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._shown: list[Line] | None = None

    def forget(self) -> None:
        """What is on the screen is not known any more: the next frame is written whole."""
        self._shown = None

    def changes(self, lines: Sequence[Line]) -> str:
        """What to write so that the terminal shows these lines."""
        written = [] if self._shown is not None else [_CLEAR]
        before = self._shown or []
        for row, line in enumerate(lines):
            old = before[row] if row < len(before) else ()
            if line != old:
                written.append(self._change(row, line, old))
        written += [f"\x1b[{row + 1};1H{_TO_END_OF_LINE}" for row in range(len(lines), len(before)) if before[row]]
        self._shown = list(lines)
        return "".join(written)

    def _change(self, row: int, line: Line, old: Line) -> str:
        """The spans from the first that differs to the last; what is beyond the end of the line is erased."""
        first, last = _difference(line, old)
        column = 1 + sum(columns(span.text) for span in line[:first])
        written = [f"\x1b[{row + 1};{column}H"]
        for span in line[first:last]:
            written.append(ansi(span, self._look))
            column += columns(span.text)
            if not span.text.isascii():  # terminals disagree on the width of some letters
                written.append(f"\x1b[{row + 1};{column}H")
        is_whole = last == len(line)
        return "".join(written) + (_TO_END_OF_LINE if is_whole and _width(line) < _width(old) else "")


def _difference(line: Line, old: Line) -> tuple[int, int]:
    """Where the spans of a line begin and end to differ from the old ones."""
    first = 0
    while first < min(len(line), len(old)) and line[first] == old[first]:
        first += 1
    last = len(line)
    if len(line) == len(old) and _width(line[first:]) == _width(old[first:]):
        while last > first and line[last - 1] == old[last - 1]:
            last -= 1
        if any(columns(a.text) != columns(b.text) for a, b in zip(line[first:last], old[first:last], strict=True)):
            last = len(line) if _width(line[first:last]) != _width(old[first:last]) else last
    return first, last


def _width(line: Sequence[Span]) -> int:
    return sum(columns(span.text) for span in line)
