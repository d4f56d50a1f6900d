"""One reader of the ledger for many who ask at once, as the clients of `serve` do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mistudio_cli.machine.background_reading import BackgroundReading, Reading
from mistudio_cli.monitor.collector.sources import read_ledger
from tasks.ledger.client import Ledger
from tasks.ledger.overview import Overview, Wanted
from tasks.redis_client.redis_connection import Silent
from tasks.settings import current

#: After no answer in its patience, requests are answered with that for so long, while the ledger is tried again.
_SILENCE_HOLDS_S = 1.0


class SharedLedger:
    """The ledger over one connection, read for as many as ask: none of them waits longer than one patience.

    What is answered was read after it was asked for, so whoever has just submitted a job finds it.
    """

    def __init__(self, open_ledger: Callable[[], Ledger], wanted: Wanted, patience_s: float | None = None) -> None:
        self._open_ledger, self._wanted = open_ledger, wanted
        self._patience_s: float = current("read_patience") if patience_s is None else patience_s
        self._ledger: Ledger | None = None
        self._reading = BackgroundReading("the ledger", self._read, self._patience_s)
        self._mutex = threading.Lock()
        self._silent_until = float("-inf")

    def overview(self) -> Overview:
        """Everything in the ledger. Raises Unreachable, Silent among them, or Refused, within the patience."""
        asked_at = time.monotonic()
        while True:
            self._begin()
            found = self._reading.reading()
            if isinstance(found.error, Silent) and time.monotonic() < self._silent_until:
                raise found.error
            self._reading.wait(asked_at + self._patience_s - time.monotonic())
            found = self._reading.reading()
            if found.error is not None and not self._reading.is_under_way:
                raise found.error
            if found.value is not None and _began_at(found) >= asked_at:
                return found.value
            if time.monotonic() >= asked_at + self._patience_s:
                raise self._silence()

    def _begin(self) -> None:
        with self._mutex:  # two threads must not begin at once
            self._reading.begin()

    def _read(self) -> Overview:
        try:
            if self._ledger is None:
                self._ledger = self._open_ledger()
            seen = read_ledger(self._ledger, self._wanted, self._patience_s)
        except Silent:
            self._silent_until = time.monotonic() + _SILENCE_HOLDS_S
            raise
        self._silent_until = float("-inf")
        return seen

    def _silence(self) -> Silent:
        shown = "Redis" if self._ledger is None else self._ledger.client.address.shown
        return Silent(f"{shown} does not answer (waited {self._patience_s:g} s)")


def _began_at(found: Reading[Overview]) -> float:
    return time.monotonic() - (found.age_s or 0.0)
