"""`top` on a terminal without cursor addressing: the whole picture as plain text, again and again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from mistudio_cli.terminal import output
from mistudio_cli.top.frame.paint import paint
from mistudio_cli.top.frame.text import plain, to_ascii
from mistudio_cli.top.reading import parts_of
from mistudio_cli.top.tty.terminal import is_unicode
from mistudio_cli.top.view import View

if TYPE_CHECKING:
    from mistudio_cli.monitor.snapshot import Snapshot

#: Where lines scroll there is room for everything.
_ROWS = 200


def show_plainly(read: Callable[[], Snapshot], interval_s: float) -> None:
    """Print what `read` returns at each interval, until Ctrl-C."""
    with suppress(KeyboardInterrupt):
        _print_again_and_again(read, interval_s)


def _print_again_and_again(read: Callable[[], Snapshot], interval_s: float) -> None:
    view, is_first = View(has_keys=False), True
    while True:
        began = time.monotonic()
        parts = parts_of(read(), began).at(began, interval_s)
        frame = paint(parts, output.terminal_width(), _ROWS, view)
        view.widths = frame.widths
        lines = [plain(line) for line in frame.lines if line]
        shown = lines if is_unicode(sys.stdout.encoding) else [to_ascii(line) for line in lines]
        output.styled("\n".join(shown if is_first else ["", *shown]))
        is_first = False
        time.sleep(max(0.0, interval_s - (time.monotonic() - began)))
