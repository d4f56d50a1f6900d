"""The terminal: what it can do, and its modes, which are taken and given back any number of times."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mistudio_cli.top.frame.text import Look

_LEAST_COLORS = 8

#: Names of terminals without cursor addressing, for machines without a description of terminals.
_DUMB = ("", "dumb", "unknown")


@dataclass(frozen=True)
class Abilities:
    """What a terminal can do. `is_addressed`: has a cursor that can be put anywhere, by the sequences of ECMA-48."""

    is_addressed: bool
    has_other_screen: bool
    hides_cursor: bool
    has_mouse: bool
    colors: int


def abilities(name: str, fd: int) -> Abilities:
    """What the terminal of that name (TERM) can do; one that is not described counts as an ordinary one."""
    if name in _DUMB:
        return Abilities(False, False, False, False, 0)
    try:
        import curses

        curses.setupterm(name, fd)
    except Exception:  # noqa: BLE001 - no curses, or no description: both have errors of their own
        return Abilities(True, True, True, True, _LEAST_COLORS)
    return Abilities(
        is_addressed=(curses.tigetstr("cup") or b"").startswith(b"\x1b[%i%p1%d;%p2%dH"),
        has_other_screen=bool(curses.tigetstr("smcup")),
        hides_cursor=bool(curses.tigetstr("civis")),
        has_mouse=bool(curses.tigetstr("kmous")),
        colors=curses.tigetnum("colors"),
    )


def look_of(able: Abilities) -> Look:
    """Colors unless NO_COLOR says otherwise or there are fewer than eight; ASCII where the encoding has no blocks."""
    color = able.colors >= _LEAST_COLORS and not os.environ.get("NO_COLOR")
    return Look(color, is_unicode(sys.stdout.encoding))


def is_unicode(encoding: str | None) -> bool:
    """Whether an encoding has the signs that the screen is drawn with."""
    return (encoding or "").lower().replace("-", "").startswith("utf")


class Terminal:
    """Takes over the terminal with `enter` and gives it back with `leave`; both may be called at any time.

    `check` raises Ended where a signal that ends the program has come.
    """

    def __init__(self, able: Abilities, check: Callable[[], None]) -> None:
        self._able, self._check = able, check
        self._out = sys.stdout.fileno()
        self._in = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._before: list[Any] | None = None
        self.is_writing = False

    @property
    def keys(self) -> int | None:
        """The descriptor that keys come from; None where there is no keyboard."""
        return self._in

    def size(self) -> tuple[int, int]:
        """Columns and rows; those of the last known size are not kept: a terminal without a size has 80 by 24."""
        try:
            size = os.get_terminal_size(self._out)
        except OSError:
            return 80, 24
        return size.columns or 80, size.lines or 24

    def enter(self) -> None:
        """Read single keys without showing them, and show the other screen without a cursor."""
        if self._in is not None:
            import termios
            import tty

            try:
                self._before = self._before or termios.tcgetattr(self._in)
                tty.setcbreak(self._in, termios.TCSADRAIN)  # a background process is stopped here, before it writes
            except termios.error as error:  # its window is closed
                raise OSError(*error.args) from error
        other, cursor = "\x1b[?1049h" * self._able.has_other_screen, "\x1b[?25l" * self._able.hides_cursor
        mouse = "\x1b[?1000h\x1b[?1006h" * self._able.has_mouse
        self.write(f"{other}{cursor}\x1b[?7l{mouse}")

    def leave(self) -> None:
        """Give the terminal back as it was. Raises nothing: it may be gone."""
        if self._in is not None:
            import termios

            with suppress(termios.error, OSError):  # where Ctrl-S has stopped it nothing could be written
                termios.tcflow(self._in, termios.TCOOFF)  # TCOON alone starts only what this has stopped
                termios.tcflow(self._in, termios.TCOON)
        last = "" if self._able.has_other_screen else f"\x1b[{self.size()[1]};1H\r\n"
        other, cursor = "\x1b[?1049l" * self._able.has_other_screen, "\x1b[?25h" * self._able.hides_cursor
        mouse = "\x1b[?1006l\x1b[?1000l" * self._able.has_mouse
        with suppress(OSError):
            self._write_all(f"\x1b[m{mouse}\x1b[?7h{last}{other}{cursor}")
        if self._in is not None and self._before is not None:
            with suppress(termios.error, OSError):  # its window is closed
                termios.tcsetattr(self._in, termios.TCSADRAIN, self._before)

    def write(self, text: str) -> None:
        """Write all of it. Raises OSError when the terminal is gone, and Ended as a signal wants it."""
        self.is_writing = True
        try:
            self._check()  # a signal that came before this line does not interrupt the write
            self._write_all(text)
        finally:
            self.is_writing = False

    def _write_all(self, text: str) -> None:
        rest = text.encode(sys.stdout.encoding or "ascii", "replace")
        while rest:
            rest = rest[os.write(self._out, rest) :]

    def has_keys(self) -> bool:
        """Whether `read` returns at once. Keys that were pressed before Ctrl-Z are lost, or went to the shell."""
        return self._in is not None and self._in in select.select([self._in], [], [], 0)[0]

    def read(self) -> bytes:
        """The bytes of the keys that were pressed; none when the terminal is gone."""
        assert self._in is not None
        try:
            return os.read(self._in, 4096)
        except OSError:
            return b""
