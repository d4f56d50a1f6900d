"""Text files: which bytes of one are UTF-8, and its documents."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from tasks.errors import UserError
from tasks.text.files.skipped_counts import SkippedCounts

#: A longer text file becomes several documents, cut at line ends.
PIECE_CHARS = 4 << 20
_BLOCK = 1 << 20
#: A file of which more than one byte in this many is NUL, or not UTF-8, is no text.
_RARE = 10
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def count_replaced(path: Path) -> int:
    """How many places of a file are no UTF-8, and will be read as U+FFFD.

    Raises UserError for a file that is no UTF-8 text at all, and OSError as `open` does.
    """
    nul = bad = size = 0
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    tail = b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            if not size and block.startswith(_UTF_16):
                raise UserError(f"{path.name} is UTF-16 text, and only UTF-8 is read.", "Convert it to UTF-8")
            size += len(block)
            nul += block.count(b"\0")
            text = decoder.decode(block)
            if "\ufffd" in text:
                bad += text.count("\ufffd")
            bad -= (tail + block).count(b"\xef\xbf\xbd")  # U+FFFD as the file itself has it
            tail = block[-2:]
    bad += decoder.decode(b"", final=True).count("\ufffd")
    if max(nul, bad) * _RARE > size:
        raise UserError(f"{path.name} is not UTF-8 text.", "Leave it out, or convert it to UTF-8")
    return bad


def text_documents(path: Path, counts: SkippedCounts) -> Iterator[str]:
    """A text file's document as it was written, or its pieces when it is long; an empty one is counted."""
    rest, pieces = "", 0
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        while chunk := file.read(PIECE_CHARS):
            chunk = rest + chunk
            rest = ""
            if len(chunk) >= PIECE_CHARS:
                cut = chunk.rfind("\n") + 1 or len(chunk)
                chunk, rest = chunk[:cut], chunk[cut:]
            if chunk.strip():
                pieces += 1
                yield chunk
    if rest.strip():
        pieces += 1
        yield rest
    counts.empty_rows += pieces == 0
    counts.split_files += pieces > 1
