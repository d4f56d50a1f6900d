"""Text from data made safe for a terminal or a log: control characters are written out, nothing steers the reader.

A name, an error or a line of somebody's file may hold escape sequences, line breaks, or the bidirectional overrides
that show one text and mean another (Boucher & Anderson 2021, "Trojan Source").
"""

from __future__ import annotations

import re
import reprlib
from typing import Any

#: C0 and C1 control characters, bidirectional embeddings, overrides and isolates, invisible separators and tags, and
#: halves of surrogate pairs, which no stream can encode.
_RISKY = "\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f"
_ANY = re.compile(f"[{_RISKY}]")
_ANY_BUT_LAYOUT = re.compile(f"(?![\n\t])[{_RISKY}]")
#: Writes no more of a value than is shown, however deep it is nested.
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxlist, _BRIEF.maxtuple, _BRIEF.maxdict, _BRIEF.maxstring = 6, 20, 20, 20, 200
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def visible(text: str) -> str:
    """The text on one line: each control character, line breaks included, as Python would write it."""
    return _ANY.sub(_written_out, text)


def visible_lines(text: str) -> str:
    """The same for a text of several lines: line breaks and tabs stay; colors and the CR of a CRLF are dropped."""
    return _ANY_BUT_LAYOUT.sub(_written_out, _COLOUR.sub("", text.replace("\r\n", "\n")))


def visible_json(text: str) -> str:
    """JSON with the same characters escaped as JSON escapes them."""
    return _ANY_BUT_LAYOUT.sub(_escaped, text)


def shown(value: Any, length: int = 80) -> str:
    """A value of somebody's file for a message: on one line, without control characters, not longer than this."""
    text = visible(_written(value))
    return text if len(text) <= length else f"{text[:length]}…"


def _written(value: Any) -> str:
    try:
        return _BRIEF.repr(value) if isinstance(value, (dict, list, tuple)) else repr(value)
    except (RecursionError, ValueError):  # a number of more digits than Python writes
        return f"a {type(value).__name__} too large to show"


def _written_out(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
