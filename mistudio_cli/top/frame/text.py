"""Styled text for one line of the screen: spans, their width in columns, and their escape sequences."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from mistudio_cli.terminal.humanize import one_line
from mistudio_cli.terminal.layout import columns, cut

#: Longer texts are cut before anything else is done with them: no screen shows more.
LONGEST = 400

#: Combining marks on one letter; more of them paint over other lines.
_MARKS = 3

#: SGR codes of the styles, with colors and without.
_IN_COLOR = {
    "bold": "1",
    "dim": "2",
    "reverse": "7",
    "good": "32",
    "info": "36",
    "warn": "33",
    "bad": "31",
    "alarm": "1;31",
}
_WITHOUT_COLOR = {"bold": "1", "reverse": "7", "alarm": "1", "bad": "1", "warn": "1"}

_ASCII = str.maketrans(
    {"…": ">", "█": "#", "░": ".", "·": "|", "↑": "^", "↓": "v", "─": "-", "│": "|", "└": "+", "⠀": " "}
)


@dataclass(frozen=True)
class Span:
    """A piece of a line in one style ("" is plain)."""

    text: str
    style: str = ""


Line = tuple[Span, ...]


@dataclass(frozen=True)
class Look:
    """What the terminal can show: colors, and characters beyond ASCII."""

    color: bool = True
    unicode: bool = True


def clean(text: str) -> str:
    """The text on one line, with nothing in it that steers a terminal or changes the width of what is beside it."""
    text = one_line(text[:LONGEST])
    return text if text.isascii() else "".join(_printable(text))


def _printable(text: str) -> Iterable[str]:
    """Without joiners, marks and variation selectors whose effect on the width terminals disagree about."""
    marks = _MARKS  # none at the start, where it would combine with what is before the text
    for letter in text:
        category = unicodedata.category(letter)
        if category in ("Mn", "Me"):
            marks += 1
            if marks <= _MARKS and not 0xFE00 <= ord(letter) <= 0xFE0F:
                yield letter
        elif category in ("Cn", "Co"):
            yield "?"
        elif category != "Cf":
            marks = 0
            yield letter


def width(line: Iterable[Span]) -> int:
    """The columns that a line takes."""
    return sum(columns(span.text) for span in line)


def fitted(line: Line, room: int) -> Line:
    """The line, or what fits of it into N columns, with an ellipsis at the end."""
    if width(line) <= room:
        return line
    kept: list[Span] = []
    for span in line:
        if (wide := columns(span.text)) > room:
            return (*kept, Span(cut(span.text, room), span.style)) if room > 0 else tuple(kept)
        kept.append(span)
        room -= wide
    return tuple(kept)


def wrapped(span: Span, room: int) -> list[Line]:
    """A span as several lines, each at most so wide, broken at spaces where there are any."""
    if columns(span.text) <= room:
        return [(span,)]
    found: list[Line] = []
    rest = span.text
    while rest:
        kept = used = 0
        while kept < len(rest) and used + (wide := columns(rest[kept])) <= room:
            used, kept = used + wide, kept + 1
        kept = max(1, kept)
        space = rest.rfind(" ", 0, kept + 1) if kept < len(rest) else -1
        if rest[: space + 1].strip():
            kept = space
        found.append((Span(rest[:kept], span.style),))
        rest = rest[kept:].removeprefix(" ")
    return found


def plain(line: Iterable[Span]) -> str:
    """The text of a line alone."""
    return "".join(span.text for span in line).rstrip()


def styled(line: Iterable[Span], style: str) -> Line:
    """The whole line in one style."""
    return (Span("".join(span.text for span in line), style),)


def ansi(span: Span, look: Look) -> str:
    """The span with its escape sequences."""
    text = span.text if look.unicode else to_ascii(span.text)
    code = (_IN_COLOR if look.color else _WITHOUT_COLOR).get(span.style)
    return f"\x1b[{code}m{text}\x1b[m" if code else text


def to_ascii(text: str) -> str:
    """The text in ASCII and as wide: signs that this program draws with, and a question mark per column for others."""
    return _BEYOND.sub(lambda found: "?" * columns(found[0]), _braille_to_dots(text.translate(_ASCII)))


_BEYOND = re.compile("[^\x20-\x7e]")
_BRAILLE = re.compile("[⠁-⣿]")


def _braille_to_dots(text: str) -> str:
    return _BRAILLE.sub("*", text)
