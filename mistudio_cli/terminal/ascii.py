"""Writes in ASCII what a terminal or pipe cannot show, so that it never ends a command."""

from __future__ import annotations

import codecs
import sys

_NAME = "mistudio.ascii"

#: Signs that this program draws with, in ASCII; anything else becomes an escape as in JSON.
_SIGNS = {"…": "...", "░": ".", "»": ">>", "«": "<<", "±": "+/-", "→": "->", "–": "-"} | dict.fromkeys("▁▂▃▄▅▆▇█", "#")


def write_ascii_where_needed() -> None:
    """From now on standard output and error take every text, whatever their encoding."""
    codecs.register_error(_NAME, _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_NAME)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_shown, error.object[error.start : error.end])), error.end


def _shown(sign: str) -> str:
    if sign in _SIGNS:
        return _SIGNS[sign]
    code = ord(sign)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000  # two halves, as JSON has them
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
