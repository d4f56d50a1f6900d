"""Mends what got lost between the ledger and the queues: dead leases and bells nobody heard.

Every worker has one; a lock in Redis lets one of them at a time do a round.
"""

from __future__ import annotations

import logging
import time

from tasks.ledger import PREFIX, Ledger

log = logging.getLogger("mistudio.reconciler")

ROUND_EVERY_S = 3.0

#: A bell younger than this may still be on its way.
BELL_PATIENCE_S = 5.0

_LOCK = f"{PREFIX}reconciler"
_MOST_BELLS = 500


class Reconciler:
    """One worker's share in keeping the ledger true."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._next_round = 0.0

    def round(self) -> None:
        """Do a round if it is time and no other worker does it. Raises Unreachable when Redis is away."""
        if time.monotonic() < self._next_round:
            return
        self._next_round = time.monotonic() + ROUND_EVERY_S
        if self._ledger.client.call("SET", _LOCK, "1", "NX", "PX", int(ROUND_EVERY_S * 900)) is None:
            return
        self._ledger.reap()
        for queue, count in self._ledger.queue_counts().items():
            if count.pending > 0:
                self._ring_again(queue, count.pending - self._ledger.messages(queue))

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
