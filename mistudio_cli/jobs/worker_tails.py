"""The end of the log of a worker on another host, as Redis has it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

from mistudio_cli.terminal import output
from tasks.ledger.client import Ledger
from tasks.logs.log_tails import TAIL_BYTES, TailReader, worker_key
from tasks.redis_client.redis_connection import Refused, Unreachable

_LOOK_EVERY_S = 0.5


class WorkerTail:
    """The tail of a worker's log, by its name with its host. `is_there` says whether there is one."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._reader, self._name = TailReader(ledger.client, worker_key(ledger.client, name)), name
        self._tail = self._reader.read()
        self.is_there = self._tail is not None

    def lines(self, count: int, *, forever: bool) -> Iterator[str]:
        """The last `count` lines, without their ends, then, `forever`, what is added."""
        assert self._tail is not None
        lines = _split(self._tail.text)
        if self._tail.start and count > len(lines):
            output.talk(f"Of the log of {self._name} only the last {TAIL_BYTES >> 10} KB are here.")
        yield from lines[-count:] if count else []
        position = self._tail.start + len(self._tail.text)
        while forever:
            time.sleep(_LOOK_EVERY_S)
            tail = None
            with suppress(Unreachable, Refused):  # it is read when Redis is back
                tail = self._reader.read()
            if tail is None:
                continue
            end = tail.start + len(tail.text)
            known = 0 if end < position else max(0, position - tail.start)  # after a rotation the log begins again
            yield from _split(tail.text[known:])
            position = end


def _split(text: bytes) -> list[str]:
    return text.decode("utf-8", "replace").removesuffix("\n").split("\n") if text else []
