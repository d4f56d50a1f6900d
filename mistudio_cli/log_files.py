"""Log files: their last lines, what is added afterwards, and their rotation by size.

A log is rotated by renaming: NAME.log becomes NAME.log.1, that NAME.log.2 and so on. Those who write follow by
themselves (`tasks.system.log_output`), so no line is lost; those who read here follow too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import IO

from tasks.paths import Places

#: A log is rotated when it holds more than LARGEST_BYTES; KEPT earlier ones are kept.
LARGEST_BYTES, KEPT = 10_000_000, 3

_DAY_S = 86_400.0
_BLOCK = 1 << 14
_LOOK_EVERY_S = 0.2


def rotate_all(places: Places) -> None:
    """Rotate the logs of a home that have become too large; those of jobs belong to their jobs and stay."""
    for path in (*places.logs.glob("*.log"), places.history):
        with suppress(OSError):  # it will be tried again, and a full disk is said elsewhere
            rotate(path)


def rotate(path: Path, larger_than: int = LARGEST_BYTES, kept: int = KEPT) -> None:
    """Make room for a new file at `path` if this one has more bytes. What was the oldest is gone. Raises OSError."""
    if not path.is_file() or path.stat().st_size <= larger_than:
        return
    free = next((number for number in range(1, kept) if not earlier(path, number).exists()), kept)
    files = [path, *(earlier(path, number) for number in range(1, free + 1))]
    for old, new in reversed([*pairwise(files)]):
        old.replace(new)
    path.touch(mode=0o600)  # a log that says nothing for a while is still a log


def bound_job_logs(places: Places, most_bytes: float) -> None:
    """Remove the logs of jobs that were written to longest ago until the others hold no more bytes.

    One that was written to in the last day stays: its job may run. By this host's clock, which wrote them.
    """
    found = [(path.stat().st_mtime, path.stat().st_size, path) for path in places.job_log("any").parent.glob("*.log")]
    room = most_bytes
    for written_at, size, path in sorted(found, reverse=True):
        room -= size
        if room < 0 and time.time() - written_at > _DAY_S:
            path.unlink(missing_ok=True)


def earlier(path: Path, number: int) -> Path:
    """Where a log went when it had been rotated `number` times."""
    return path.with_name(f"{path.name}.{number}")


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log, without their ends, from the file before it too if need be; none if unreadable."""
    try:
        with path.open("rb") as file:
            lines = _tail(file, count)
    except OSError:
        return []
    missing = count - len(lines)
    with suppress(OSError), earlier(path, 1).open("rb") as file:
        lines = [*_tail(file, missing), *lines] if missing > 0 else lines
    return lines


def follow(paths: Mapping[str, Path], count: int, *, forever: bool) -> Iterator[tuple[str, str]]:
    """Pairs of name and line: the last `count` lines of each log, then, `forever`, what is added to any of them.

    A file that is not there yet is waited for; one that was rotated is read to its end, and then the new one.
    """
    readers = {name: _Reader(path) for name, path in paths.items()}
    try:
        for name, path in paths.items():
            readers[name].skip()
            yield from ((name, line) for line in last_lines(path, count))
        while forever:
            time.sleep(_LOOK_EVERY_S)
            for name, reader in readers.items():
                yield from ((name, line) for line in reader.added())
    finally:
        for reader in readers.values():
            reader.close()


class _Reader:
    """Reads what is added to a log, through rotations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._half = b""

    def skip(self) -> None:
        """Begin with what comes from now on."""
        if self._open():
            assert self._file is not None
            self._file.seek(0, os.SEEK_END)

    def added(self) -> list[str]:
        """Whole lines that were added since."""
        lines: list[str] = []
        while self._file is not None or self._open():
            assert self._file is not None
            is_old = self._is_old(self._file)  # before the last look: what is written until then is read
            text = self._half + self._file.read()
            whole, end, self._half = text.rpartition(b"\n")
            lines += _lines(whole + end)
            if not is_old:
                return lines
            lines += _lines(self._half)
            self.close()
        return lines

    def close(self) -> None:
        """Forget the file."""
        if self._file is not None:
            self._file.close()
        self._file, self._half = None, b""

    def _open(self) -> bool:
        with suppress(FileNotFoundError):
            self._file = self._path.open("rb")
        return self._file is not None

    def _is_old(self, file: IO[bytes]) -> bool:
        """Whether another file is at the path now, or this one was cut short."""
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False  # renamed just now: the new one is not there yet
        return not os.path.samestat(there, os.fstat(file.fileno())) or there.st_size < file.tell()


def _tail(file: IO[bytes], count: int) -> list[str]:
    start = end = file.seek(0, os.SEEK_END)
    tail = b""
    while start > 0 and tail.count(b"\n") <= count:
        start = max(0, start - _BLOCK)
        file.seek(start)
        tail = file.read(end - start)
    lines = _lines(tail)
    return lines[-count:] if count else []


def _lines(text: bytes) -> list[str]:
    return text.decode("utf-8", "replace").removesuffix("\n").split("\n") if text else []
