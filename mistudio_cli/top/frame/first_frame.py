"""The frame that is shown before anything is read, and before what reads and paints is imported."""

from __future__ import annotations

from mistudio_cli.top.frame.footer import KEYS, footer_of
from mistudio_cli.top.frame.text import Line, Span, fitted
from mistudio_cli.top.view import View


def first_frame(columns: int, rows: int, view: View) -> list[Line]:
    """That it is being read, and the keys if there are any: `rows` lines, none longer than `columns`."""
    lines: list[Line] = [(), *[()] * (rows - 1)]
    if view.has_keys:
        lines[-1] = footer_of(view, columns, KEYS)
    lines[0] = fitted((Span("reading …", "bold"),), columns)
    return lines
