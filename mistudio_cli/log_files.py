"""Reading log files from their end: the last lines, and what is added afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

_BLOCK = 1 << 14
_LOOK_EVERY_S = 0.2


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a text file, without their ends; none when it cannot be read."""
    try:
        return _tail(path, count)[0]
    except OSError:
        return []


def follow(paths: Mapping[str, Path], count: int, *, forever: bool) -> Iterator[tuple[str, str]]:
    """Pairs of name and line: the last `count` lines of each file, then, `forever`, what is added to any of them.

    A file that is not there yet is waited for; one that became shorter is read from its start.
    """
    read_to: dict[str, int] = {}
    for name, path in paths.items():
        try:
            lines, read_to[name] = _tail(path, count)
        except FileNotFoundError:
            lines, read_to[name] = [], 0
        yield from ((name, line) for line in lines)
    while forever:
        time.sleep(_LOOK_EVERY_S)
        for name, path in paths.items():
            lines, read_to[name] = _added(path, read_to[name])
            yield from ((name, line) for line in lines)


def _tail(path: Path, count: int) -> tuple[list[str], int]:
    """The last lines, and up to where the file has been read."""
    with path.open("rb") as file:
        start = end = file.seek(0, 2)
        tail = b""
        while start > 0 and tail.count(b"\n") <= count:
            start = max(0, start - _BLOCK)
            file.seek(start)
            tail = file.read(end - start)
    lines = _lines(tail)
    return lines[-count:] if count else [], end


def _added(path: Path, start: int) -> tuple[list[str], int]:
    """Whole lines after `start`, and where the next one begins."""
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) < start:
                start = 0
            file.seek(start)
            whole, end, _ = file.read().rpartition(b"\n")
    except FileNotFoundError:
        return [], 0
    return _lines(whole), start + len(whole) + len(end)


def _lines(text: bytes) -> list[str]:
    return text.decode("utf-8", "replace").removesuffix("\n").split("\n") if text else []
