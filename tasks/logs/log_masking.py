"""The text of a log as it leaves its host: UTF-8 with secrets masked at unchanged length, so that offsets stay valid.

The lines of mistudio itself are masked when they are written; what a library prints past logging is not.
"""

from __future__ import annotations

import codecs

from tasks.parsing.redact import redact

_SAME_LENGTH = "mistudio-same-length"


def _question_marks(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "?" * (error.end - error.start), error.end


codecs.register_error(_SAME_LENGTH, _question_marks)


def masked(block: bytes) -> bytes:
    """Whole lines without secrets; a byte that is not UTF-8 becomes a question mark. As long as before."""
    text = block.decode("utf-8", _SAME_LENGTH)
    if redact(text) == text:
        return text.encode()
    return b"".join(_masked_line(line) for line in block.splitlines(keepends=True))


def _masked_line(line: bytes) -> bytes:
    text = line.decode("utf-8", _SAME_LENGTH)
    if (without := redact(text)) == text:
        return text.encode()
    content = line.rstrip(b"\r\n")
    fitted = without.rstrip("\r\n").encode()[: len(content)].ljust(len(content), b"*")
    return fitted.decode("utf-8", _SAME_LENGTH).encode() + line[len(content) :]
