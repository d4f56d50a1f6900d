"""Which part of a job's log is of which attempt: lines of mistudio name it; what is printed between belongs to it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_BLOCK_BYTES = 1 << 16

_TEXT = rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ \S+ job=(\S+) attempt=(\d{1,9}) "
_JSON = rb'\{"time": "[^"]*", "level": "[A-Z]+", "logger": "[^"]*", "job": "([^"]*)", "attempt": (\d{1,9}), '
_NAMES_ATTEMPT = re.compile(rb"%b|%b" % (_TEXT, _JSON))


def attempt_of(line: bytes, job_id: str) -> int | None:
    """The attempt at that job which a line names, in either format of `tasks.system.log_output`; None when it names
    none.
    """
    found = _NAMES_ATTEMPT.match(line)
    if found is None or (found[1] or found[3]) != job_id.encode():
        return None
    return int(found[2] or found[4])


def read_part(path: Path, start: int, job_id: str, attempt: int) -> Iterator[bytes]:
    """The lines from the byte `start` of a job's log up to those of a later attempt. Raises OSError."""
    with path.open("rb") as log:
        log.seek(start)
        for line in log:
            if (attempt_of(line, job_id) or 0) > attempt:
                return
            yield line


def count_lines(path: Path, end: int) -> int:
    """The line ends in the first `end` bytes of a log. Raises OSError."""
    blocks = range(0, end, _BLOCK_BYTES)
    with path.open("rb") as log:
        return sum(_read(log, begin, min(begin + _BLOCK_BYTES, end)).count(b"\n") for begin in blocks)


def pass_lines(path: Path, start: int, count: int) -> tuple[int, int]:
    """How many whole lines of a log were passed from the byte `start` on, at most `count`, and where the next begins.

    Raises OSError.
    """
    passed, end = 0, start
    with path.open("rb") as log:
        log.seek(start)
        while passed < count and (block := log.read(_BLOCK_BYTES)):
            ends = min(block.count(b"\n"), count - passed)
            if ends:
                position = log.tell() - len(block)
                end = position + (block.rfind(b"\n") + 1 if passed + ends < count else _after_end(block, ends))
            passed += ends
    return passed, end


def find_last_lines(path: Path, count: int, job_id: str, attempt: int | None) -> int | None:
    """The byte of a job's log at which its last `count` whole lines begin; None when there are no more than these.

    None also unless they, and the line before them, are of that `attempt`, where it is given. Raises OSError.
    """
    with path.open("rb") as log:
        start = _start_of_last(log, count)
        if start is None or attempt is None:
            return start
        if _attempt_before(log, start, job_id) != attempt:
            return None
        log.seek(start)
        return start if all((attempt_of(line, job_id) or attempt) == attempt for line in log) else None


def _start_of_last(log: IO[bytes], count: int) -> int | None:
    """The byte after the line end with `count` line ends after it; None when there are no more than these."""
    end = log.seek(0, os.SEEK_END)
    while end > 0:
        begin = max(0, end - _BLOCK_BYTES)
        block = _read(log, begin, end)
        if (ends := block.count(b"\n")) > count:
            return begin + _after_end(block, ends - count)
        count, end = count - ends, begin
    return None


def _attempt_before(log: IO[bytes], end: int, job_id: str) -> int | None:
    """The attempt that the nearest line before that byte names; None when none does."""
    size = _BLOCK_BYTES
    while end > 0:
        begin = max(0, end - size)
        block = _read(log, begin, end)
        cut = block.find(b"\n", 0, -1) + 1 if begin else 0
        if begin and not cut:  # a line longer than this
            size *= 2
            continue
        names = (attempt_of(line, job_id) for line in reversed(block[cut:].split(b"\n")))
        if job_id.encode() in block and (named := next((name for name in names if name), None)):
            return named
        end, size = begin + cut, _BLOCK_BYTES
    return None


def _after_end(block: bytes, number: int) -> int:
    """The place after the line end of that number, from 1."""
    return len(block) - len(block.split(b"\n", number)[-1])


def _read(log: IO[bytes], begin: int, end: int) -> bytes:
    log.seek(begin)
    return log.read(end - begin)
