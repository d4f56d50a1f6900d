"""What is stuck in a worker: the only place that gives up a stopped slot, or a worker that waits for nothing.

A slot that was stopped (SIGSTOP) renews no lease, so its job goes elsewhere; but it keeps its place in the pool. And a
pool that ends waits for the result of every bell, also of one whose slot will never send it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

import psutil
from celery.worker import state as celery_state

from tasks.ledger import LEASE_TTL_S
from tasks.seat import Seat

log = logging.getLogger("mistudio.worker")

_LOOK_EVERY_S, _LOOK_AT_SLOTS_EVERY_S = 1.0, 5.0

#: How long a worker that was told to end may go on after its last job has ended.
MAY_TIDY_S = 5.0


class StuckWatch(threading.Thread):
    """Looks after a worker's slots, and ends the worker when it was told to end and has no job any more.

    A thread, because Celery waits in the main one, sometimes within a signal handler.
    """

    def __init__(self, seat: Seat) -> None:
        super().__init__(name="stuck-watch", daemon=True)
        self._seat = seat

    def run(self) -> None:
        """Watch for as long as the worker lives."""
        stopped_slots, look_at_slots_at = StoppedSlots(), 0.0
        last_busy_at = time.monotonic()
        while True:
            time.sleep(_LOOK_EVERY_S)
            now = time.monotonic()
            if now >= look_at_slots_at:
                look_at_slots_at = now + _LOOK_AT_SLOTS_EVERY_S
                for told in stopped_slots.kill():
                    log.warning(told)
            if not told_to_end() or self._seat.is_busy():
                last_busy_at = now
            elif now - last_busy_at > MAY_TIDY_S:
                self._end()

    def _end(self) -> None:
        log.warning("the last job ended %g s ago, but the pool still waits for a slot: ending", MAY_TIDY_S)
        for child in psutil.Process().children():
            child.kill()
        self._seat.leave()
        os._exit(os.EX_OK)


class StoppedSlots:
    """The children of this process that were found stopped, and since when."""

    def __init__(self, patience_s: float = LEASE_TTL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._stopped_at: dict[psutil.Process, float] = {}

    def kill(self) -> list[str]:
        """Kill those that have been stopped for longer than a lease lives; returns a sentence for each.

        One that a debugger holds is let alone. Call it every few seconds.
        """
        now = self._clock()
        stopped = [child for child in psutil.Process().children() if _is_stopped(child)]
        self._stopped_at = {child: self._stopped_at.get(child, now) for child in stopped}
        told = []
        for child, since in self._stopped_at.items():
            if now - since > self._patience_s:
                child.kill()
                told.append(
                    f"slot {child.pid} had been stopped (SIGSTOP) for {now - since:.0f} s: killed, for a new one"
                )
        return told


def told_to_end() -> bool:
    """Whether this worker was told to end, at once or after its jobs."""
    codes = (celery_state.should_stop, celery_state.should_terminate)
    return any(code is not None and code is not False for code in codes)  # 0 is one: the exit code of a good end


def _is_stopped(child: psutil.Process) -> bool:
    try:
        return child.status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False
