"""The ends of growing logs in Redis, for those who read them on another host.

A tail is one string: a header with the position of its first byte in the log and whether the log is over, then the last
TAIL_BYTES of the log, or up to twice as many. It expires KEPT_S after it was last written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.logs.log_masking import masked
from tasks.redis_client.redis_connection import Client

TAIL_BYTES, KEPT_S = 1 << 16, 3600

_POSITION_DIGITS = 16
_HEADER_BYTES = _POSITION_DIGITS + 1
_GROWS, _IS_OVER = "+", "."

#: A quiet log's tail is kept alive so often.
_REFRESH_S = 600.0

#: A line that has not ended is left for the next look, unless it is longer.
_LONG_LINE = 1 << 12


@dataclass(frozen=True)
class Tail:
    """The end of a log: `text` from its byte `start` on. `is_over` when nothing will be added."""

    start: int
    text: bytes
    is_over: bool


def attempt_key(client: Client, job_id: str, attempt: int) -> str:
    """The key of the tail of that attempt's part of a job's log."""
    return client.key(f"log:{job_id}:{attempt}")


def worker_key(client: Client, worker: str) -> str:
    """The key of the tail of a worker's log, by its name with its host."""
    return client.key(f"worker-log:{worker}")


def remove_tails(client: Client, job_id: str, attempts: int) -> None:
    """Remove the tails of a job that had `attempts` attempts."""
    if attempts:
        client.call("DEL", *(attempt_key(client, job_id, attempt) for attempt in range(1, attempts + 1)))


class TailReader:
    """Reads one tail, and its text only when it has changed."""

    def __init__(self, client: Client, key: str) -> None:
        self._client, self._key = client, key
        self._seen: list[object] = []

    def read(self, known: int = 0) -> Tail | None:
        """The tail if it has changed since the last call; None when it has not, or is not there.

        The text of one that still grows, and ends at the byte `known` of the log, is not read.
        """
        seen = self._client.batch([("STRLEN", self._key), ("GETRANGE", self._key, 0, _HEADER_BYTES - 1)])
        length, header = seen
        if seen == self._seen or not isinstance(length, int) or not length:
            return None
        self._seen = seen
        begin = _parse(str(header))
        if begin is not None and known and begin.start + length - _HEADER_BYTES == known and not begin.is_over:
            return None
        return _parse(self._client.call("GET", self._key) or "")


def _parse(value: str) -> Tail | None:
    """The tail in a string of Redis; None when that is none."""
    position, flag, text = value[:_POSITION_DIGITS], value[_POSITION_DIGITS:_HEADER_BYTES], value[_HEADER_BYTES:]
    if not (position.isascii() and position.isdecimal() and len(position) == _POSITION_DIGITS and flag):
        return None
    return Tail(int(position), text.encode("utf-8", "replace"), flag == _IS_OVER)


class TailWriter:
    """Sends what is added to a log file to its tail: of what was added since the last call no more than TAIL_BYTES.

    What does not reach Redis is read from the file again, so nothing is held in memory.
    """

    def __init__(self, client: Client, key: str, start: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._key, self._clock = client, key, clock
        self._start = start  # of this log in its file
        self._end = start  # of what the tail has
        self._length: int | None = None  # of the value; None: it is to be written whole
        self._is_there = False
        self._written_at = 0.0

    @property
    def is_there(self) -> bool:
        """Whether the tail has been written at all."""
        return self._is_there

    def send(self, path: Path, *, to_the_end: bool = False) -> None:
        """Send what was added; a line that has not ended only with `to_the_end`.

        Raises OSError when the file cannot be read, Unreachable and Refused; then the next call sends a whole tail.
        """
        length, self._length = self._length, None
        with path.open("rb") as log:
            size = log.seek(0, 2)
            if size < self._end:  # another file is at the path
                self._start = self._end = 0
                length = None
            begin = max(self._end, size - TAIL_BYTES)
            if length is None or begin > self._end or length + size - begin > _HEADER_BYTES + 2 * TAIL_BYTES:
                length, begin = None, max(self._start, size - TAIL_BYTES)
            log.seek(begin)
            text = log.read(size - begin)
        if not to_the_end:
            text = _whole_lines(text)
        if length is None and begin > self._start:
            cut = text.find(b"\n") + 1
            begin, text = begin + cut, text[cut:]
        self._length = self._write(length, begin, masked(text))
        self._end = begin + len(text)
        if length is not None and self._length is None:  # the tail was not as it was left
            self.send(path, to_the_end=to_the_end)

    def close(self) -> None:
        """Mark the tail as that of a log that is over. Raises Unreachable and Refused."""
        if self._length is not None and self._is_there:
            self._client.batch(
                [("SETRANGE", self._key, _POSITION_DIGITS, _IS_OVER), ("EXPIRE", self._key, KEPT_S)],
            )

    def _write(self, length: int | None, begin: int, text: bytes) -> int | None:
        """Write the tail whole, or add to a value of that length; the length it has then, None if it is not as left."""
        if length is None:
            if not text:
                return None
            header = f"{begin - self._start:0{_POSITION_DIGITS}d}{_GROWS}".encode()
            self._client.call("SET", self._key, header + text, "EX", KEPT_S)
            self._is_there, self._written_at = True, self._clock()
            return _HEADER_BYTES + len(text)
        expected = length + len(text)
        if text and self._client.call("APPEND", self._key, text) != expected:
            return None
        if self._clock() - self._written_at > _REFRESH_S:
            self._written_at = self._clock()
            return expected if self._client.call("EXPIRE", self._key, KEPT_S) else None
        return expected


def _whole_lines(text: bytes) -> bytes:
    end = text.rfind(b"\n") + 1
    return text if len(text) - end > _LONG_LINE else text[:end]
