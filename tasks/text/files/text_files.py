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
_BEGINNING = 1 << 16
#: A file of which more than one byte in this many is NUL, or not UTF-8, is no text.
_RARE = 10
#: How texts in other encodings begin; UTF-32 first, because its mark begins as that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
#: How compressed files begin, and what unpacks them.
_COMPRESSED = {
    b"\x1f\x8b\x08": "gunzip",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\xfd7zXZ\0": "unxz",
    b"BZh91AY&SY": "bunzip2",
    b"PK\x03\x04": "unzip",
}


def check_beginning(path: Path, block: bytes) -> None:
    """Raise UserError for a file that begins with this block and so is compressed, or text but not UTF-8."""
    if mark := next((mark for mark in _MARKS if block.startswith(mark)), None):
        raise UserError(f"{path.name} is {_MARKS[mark]} text, and only UTF-8 is read.", "Convert it to UTF-8")
    if magic := next((magic for magic in _COMPRESSED if block.startswith(magic)), None):
        tool = _COMPRESSED[magic]
        raise UserError(f"{path.name} is compressed, and is not unpacked.", f"Unpack it first, as with {tool}")


def check_text(path: Path) -> None:
    """Raise UserError for a file that is compressed or no UTF-8 text, as far as its beginning says so."""
    with path.open("rb") as file:
        block = file.read(_BEGINNING)
    check_beginning(path, block)
    if block.count(b"\0") * _RARE > len(block):
        raise _no_text(path)


def _no_text(path: Path) -> UserError:
    return UserError(f"{path.name} is not UTF-8 text.", "Leave it out, or convert it to UTF-8")


def count_replaced(path: Path) -> int:
    """How many places of a file are no UTF-8, and will be read as U+FFFD.

    Raises UserError for a file that is no UTF-8 text at all, and OSError as `open` does.
    """
    nul = bad = size = 0
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    tail = b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            if not size:
                check_beginning(path, block)
            size += len(block)
            nul += block.count(b"\0")
            text = decoder.decode(block)
            if "\ufffd" in text:
                bad += text.count("\ufffd")
            bad -= (tail + block).count(b"\xef\xbf\xbd")  # U+FFFD as the file itself has it
            tail = block[-2:]
    bad += decoder.decode(b"", final=True).count("\ufffd")
    if max(nul, bad) * _RARE > size:
        raise _no_text(path)
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
