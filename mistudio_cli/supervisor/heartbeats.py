"""Heartbeats of a home's workers, read from the ledger, and how the supervisor asks its Redis."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mistudio_cli.supervisor.child import Child, Clock
from mistudio_cli.supervisor.states import Status
from tasks.ledger.client import Ledger
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.redis_client import redis_connection

REDIS_AWAY_PAUSE_S = 1.0

#: One that does not answer costs a timeout each time, in which the supervisor changes nothing.
REDIS_SILENT_PAUSE_S = 5.0

#: How often workers that run are listened for; one that starts is at every tick.
CHECK_ALL_EVERY_S = 5.0

T = TypeVar("T")


class HeartbeatMonitor:
    """The heartbeats in one Redis. `run_apart` runs what may wait for Redis: the daemon's loop listens meanwhile."""

    def __init__(self, clock: Clock) -> None:
        self.run_apart: Callable[[Callable[[], Any]], Any] = _at_once
        self._clock = clock
        self._url: str | None = None
        self._ledger: Ledger | None = None
        self._full_check_at = self._ask_at = -math.inf
        self._was_unreachable = False

    def connect_to(self, broker_url: str) -> None:
        """Read heartbeats from this Redis from now on."""
        if broker_url != self._url:
            self.close()
            self._url, self._ledger = broker_url, Ledger(redis_connection.connect(broker_url, timeout_s=1.0))

    @property
    def ledger(self) -> Ledger | None:
        """The ledger there; None until there are workers."""
        return self._ledger

    def is_at(self, broker_url: str) -> bool:
        """Whether this is the Redis that it reads."""
        return broker_url == self._url

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._ledger is not None:
            self._ledger.close()

    def listen(self, children: Sequence[Child]) -> None:
        """Give each child its latest heartbeat: one with its name and the pid of its process."""
        now = self._clock()
        is_full_check = now >= self._full_check_at
        waited_for = [child for child in children if is_full_check or child.status is Status.STARTING]
        if not waited_for:
            return
        heartbeats = self.ask(
            lambda ledger: {(heartbeat.name, heartbeat.pid): heartbeat for heartbeat in ledger.heartbeats(math.inf)}
        )
        if heartbeats is None:
            return
        if is_full_check:
            self._full_check_at = now + CHECK_ALL_EVERY_S
        if self._was_unreachable:
            self._was_unreachable = False
            for child in children:
                child.excuse()
        self._update(waited_for, heartbeats)

    def ask(self, question: Callable[[Ledger], T]) -> T | None:
        """What a question to the ledger returns; None when Redis is away, or was less than a pause ago.

        So a Redis that does not answer costs one timeout in REDIS_SILENT_PAUSE_S, however many have questions.
        """
        ledger = self._ledger
        if ledger is None or self._clock() < self._ask_at:
            return None
        try:
            answer: T = self.run_apart(lambda: question(ledger))
        except (redis_connection.Unreachable, redis_connection.Refused) as error:
            pause_s = REDIS_SILENT_PAUSE_S if isinstance(error, redis_connection.Silent) else REDIS_AWAY_PAUSE_S
            self._ask_at, self._was_unreachable = self._clock() + pause_s, True
            return None
        return answer

    def busy(self) -> frozenset[str]:
        """Names of the workers of this machine that run jobs, without the host; none when Redis is away."""
        host = socket.gethostname()
        try:
            holders = () if self._ledger is None else self.run_apart(self._ledger.holders)
        except (redis_connection.Unreachable, redis_connection.Refused):
            return frozenset()
        return frozenset(name.removesuffix(f"@{host}") for name, _ in holders)

    def _update(self, children: Sequence[Child], heartbeats: dict[tuple[str, int], WorkerHeartbeat]) -> None:
        host = socket.gethostname()
        for child in children:
            name = f"{child.spec.name}@{host}"
            heartbeat = heartbeats.get((name, child.pid or 0))
            child.refusal = heartbeat.refused or None if heartbeat is not None else None
            if heartbeat is not None and not heartbeat.refused:
                child.heartbeat_received(heartbeat.consumed_at)


def _at_once(question: Callable[[], T]) -> T:
    return question()
