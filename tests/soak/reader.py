"""Those who use a home's ledger all the time while it is struck at, and wait while Redis is away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mistudio_cli.redis import redis_server
from tasks.errors import UserError
from tasks.ledger.client import Ledger
from tasks.paths import Places
from tasks.redis_client.redis_connection import Refused, Unreachable
from tasks.storage.store import Store
from tests.conftest import patient_client


@contextmanager
def ledger_of(places: Places) -> Iterator[Ledger]:
    """The home's own ledger."""
    ledger = Ledger(patient_client(redis_server.own_url(places)))
    try:
        yield ledger
    finally:
        ledger.close()


class Visitor(threading.Thread):
    """Comes again and again until it is asked to stop; `trouble` is what it was refused though nothing was wrong."""

    def __init__(self, name: str, places: Places, every_s: float) -> None:
        super().__init__(name=name, daemon=True)
        self.trouble: list[str] = []
        self._places, self._every_s = places, every_s
        self._ending = threading.Event()

    def __enter__(self) -> Visitor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Come no more."""
        self._ending.set()
        self.join()

    def run(self) -> None:
        """Come again and again; while Redis is away, for nothing."""
        store = Store(self._places.store)
        with ledger_of(self._places) as ledger:
            while not self._ending.wait(self._every_s):
                try:
                    self.visit(ledger, store)
                except (Unreachable, Refused):  # whether what was asked for is done, is not known
                    continue
                except UserError as problem:
                    self.trouble.append(str(problem))

    def visit(self, ledger: Ledger, store: Store) -> None:
        """What is done each time."""
        raise NotImplementedError
