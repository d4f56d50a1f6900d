"""Reads the lines of an artifact's file a part at a time: a bounded number of bytes, from a position on."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from tasks.errors import UserError
from tasks.storage.store import Store

#: A longer line is skipped.
LONGEST_LINE = 4 << 20


@dataclass(frozen=True)
class Lines:
    """Lines that were wanted. `next` is where to read on, None at the end of the file; `skipped` were too long."""

    lines: tuple[bytes, ...]
    next: int | None
    skipped: int


@contextmanager
def open_file(store: Store, family: str, name: str, file: str) -> Iterator[BinaryIO]:
    """A regular file of an artifact, for reading.

    FileNotFoundError where there is none; UserError for anything but a regular file, and for an artifact or a file that
    is a link out of the store.
    """
    path = store.path(family, name) / file
    if not path.resolve().is_relative_to(store.root.resolve()):
        raise UserError(f"{family}/{name}/{file} leads out of the store: it is not read.", "Put the file itself there")
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not be waited for
    with os.fdopen(handle, "rb") as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise UserError(f"{family}/{name}/{file} is not a regular file: it is not read.")
        yield opened


def read_lines(
    file: BinaryIO, after: int, is_wanted: Callable[[bytes], bool], *, most: int, most_bytes: int, most_read: int
) -> Lines:
    """The first lines from the position `after` on that are wanted: at most `most`, of `most_bytes` together.

    Ends after `most_read` bytes all the same, so that a page of a rare word costs no more than others. UserError for an
    `after` at which no line begins.
    """
    size = os.fstat(file.fileno()).st_size
    if after and not _begins_line(file, after, size):
        raise UserError(f"No line begins at {after}.", "Continue from the `next` of an answer")
    file.seek(after)
    found: list[bytes] = []
    held = skipped = 0
    at = after
    while at < size and len(found) < most and at - after < most_read:
        line, length = _line(file)
        if line is None:
            skipped += 1
        elif is_wanted(line):
            if found and held + len(line) > most_bytes:
                break
            found.append(line)
            held += len(line)
        at += length
    return Lines(tuple(found), at if at < size else None, skipped)


def _begins_line(file: BinaryIO, at: int, size: int) -> bool:
    if not 0 < at < size:
        return False
    file.seek(at - 1)
    return file.read(1) == b"\n"


def _line(file: BinaryIO) -> tuple[bytes | None, int]:
    """The next line, None for one that is too long, and the bytes it takes in the file."""
    line = file.readline(LONGEST_LINE)
    length = len(line)
    if length < LONGEST_LINE or line.endswith(b"\n"):
        return line, length
    while part := file.readline(LONGEST_LINE):
        length += len(part)
        if part.endswith(b"\n"):
            break
    return None, length
