"""What Celery workers reply themselves, asked over a connection of its own, and where that differs from the ledger."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from mistudio_cli.machine.background_reading import Reading
from mistudio_cli.monitor.celery_workers import CeleryWorkers, inspect
from mistudio_cli.monitor.health.disagreements import Disagreement, Disagreements
from tasks.fleet.celery_inspect import WAIT_S
from tasks.ledger.client import Ledger
from tasks.redis_client.redis_connection import Client, NotPermitted

_TOPICS = ("active", "reserved", "stats", "queues")


class CeleryPart:
    """Asks the workers on the Redis of the ledger that `opened` returns, by a client of its own: replies take time."""

    def __init__(self, opened: Callable[[], Ledger], patience_s: float) -> None:
        self._opened, self._patience_s = opened, patience_s
        self._client: Client | None = None
        self._may_not_ask = False
        self._disagreements, self._compared = Disagreements(), None
        self._comparing = threading.Lock()

    def ask(self) -> CeleryWorkers | None:
        """The workers' replies; None for a user of Redis who may not ask. Raises Unreachable or Refused."""
        if self._client is None:
            self._client = Client(self._opened().client.address, WAIT_S + self._patience_s)
        if not self._may_not_ask:
            try:
                return inspect(self._client, _TOPICS)
            except NotPermitted:  # of a Redis user who only reads: nothing is wrong, and nothing is known
                self._may_not_ask = True  # each refusal is an entry in the log of Redis
        return None

    def disagreements(self, asked: Reading[Any], supervised: Sequence[dict[str, Any]]) -> tuple[Disagreement, ...]:
        """Where the replies have disagreed with the ledger for a while; nothing is known while nobody can be asked.

        `supervised` are the workers of this home's supervisor.
        """
        if asked.value is None or asked.error is not None:
            return ()
        with self._comparing:
            if asked.value is not self._compared:
                self._compared = asked.value
                self._disagreements.update(asked.value, {worker["name"]: worker["queues"] for worker in supervised})
            return self._disagreements.lasting

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._client is not None:
            self._client.close()
