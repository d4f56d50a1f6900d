"""Mends what got lost between the ledger and the queues: dead leases and bells nobody heard.

Every worker has one; a lock in Redis lets one of them at a time do a round.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from tasks.ledger import LEASE_TTL_S, PREFIX, Ledger

log = logging.getLogger("mistudio.reconciler")

ROUND_EVERY_S = 3.0

#: Nothing heard of Redis for so long: it was away or frozen, or this machine slept.
STANDSTILL_S = 2 * ROUND_EVERY_S

#: A bell younger than this may still be on its way.
BELL_PATIENCE_S = 5.0

_LOCK = f"{PREFIX}reconciler"
_MOST_BELLS = 500


class Reconciler:
    """One worker's share in keeping the ledger true."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        self._next_round = self._reap_from = -math.inf
        self._last_contact = clock()

    def round(self) -> None:
        """Do a round if it is time and no other worker does it. Raises Unreachable when Redis is away."""
        if self._clock() < self._next_round:
            return
        self._next_round = self._clock() + ROUND_EVERY_S
        is_mine = self._ledger.client.call("SET", _LOCK, "1", "NX", "PX", int(ROUND_EVERY_S * 900)) is not None
        self._note_contact()
        if not is_mine:
            return
        if self._clock() > self._reap_from and self._server_uptime_s() > LEASE_TTL_S:
            self._ledger.reap()
        for queue, count in self._ledger.queue_counts().items():
            if count.pending > 0:
                self._ring_again(queue, count.pending - self._ledger.messages(queue))

    def _note_contact(self) -> None:
        """When Redis or this process stood still, leases ran out that nobody could renew: their holders come first."""
        now = self._clock()
        if now - self._last_contact > STANDSTILL_S:
            self._reap_from = now + LEASE_TTL_S
        self._last_contact = now

    def _ring_again(self, queue: str, missing: int) -> None:
        """Ring for the oldest of a queue's jobs when it has more jobs than bells. A bell too many is harmless."""
        if missing <= 0:
            return
        oldest = self._ledger.queued(queue, min(missing, _MOST_BELLS))
        now = self._ledger.now()
        silent = [
            job
            for job, rung_at in zip(oldest, self._ledger.rung_at(oldest), strict=True)
            if now - max(rung_at, job.queued_at or 0) > BELL_PATIENCE_S
        ]
        if silent:
            log.info("ringing again for %d jobs of %s", len(silent), queue)
            self._ledger.ring(silent)

    def _server_uptime_s(self) -> float:
        told = self._ledger.client.call("INFO", "server")
        return next(float(line.split(":")[1]) for line in told.splitlines() if line.startswith("uptime_in_seconds:"))
