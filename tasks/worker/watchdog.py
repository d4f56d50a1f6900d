"""The watchdog: a thread that watches the worker's parent, its stopped slots and its own end, whatever Celery waits
for.

Celery's main thread may wait for Redis, or in a pool that ends for the result of every message, also of one whose slot
will never send it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

import psutil
from celery.worker import state as celery_state

from tasks.ledger.client import LEASE_TTL_S
from tasks.runner.liveness_pipe import wake_when_parent_dies
from tasks.system.resilient_loop import Rounds
from tasks.worker.frozen_slots import StoppedSlots
from tasks.worker.slot_locks import CANNOT_START_JOBS, WorkerLock

log = logging.getLogger("mistudio.worker")

_LOOK_EVERY_S, _LOOK_AT_SLOTS_EVERY_S = 1.0, 3.0

#: How long a worker that was asked to stop may run on after its last job, or keep a slot that is frozen.
MAY_TIDY_S = 5.0


#: After this many consecutive jobs that could not begin, a worker ends with an exit code that its supervisor knows.
MOST_FAULTS = 3


class ParentWatch:
    """Whoever started this process; if it is stopped it wakes when they die, to see that they did.

    A supervisor says who it is: it may have died before this process could look.
    """

    def __init__(self) -> None:
        self._pid = int(os.environ.get("MISTUDIO_SUPERVISOR") or os.getppid())
        wake_when_parent_dies()

    def lives(self) -> bool:
        """Whether they are still there."""
        return os.getppid() == self._pid


class Guard(threading.Thread):
    """Asks the worker to stop when its parent is gone, and ends it when it was asked to and runs no job any more."""

    def __init__(self, worker_lock: WorkerLock, parent: ParentWatch) -> None:
        super().__init__(name="guard", daemon=True)
        self._worker_lock, self._parent = worker_lock, parent
        self._stopped_slots, self._look_at_slots_at = StoppedSlots(), 0.0
        self._last_busy_at = time.monotonic()
        self._rounds = Rounds("a look at this worker", log)

    def run(self) -> None:
        """Watch for as long as the worker lives."""
        while True:
            time.sleep(_LOOK_EVERY_S)
            for look in (self._give_up_stopped_slots, self._repair_lock, self._see_to_faults, self._see_to_the_end):
                with self._rounds.guarded():
                    look()

    def _repair_lock(self) -> None:
        if self._worker_lock.repair():
            log.warning("files of this worker's lock were removed: created again")

    def _see_to_faults(self) -> None:
        """A worker that cannot begin jobs is replaced: at once, or by another one beside its last jobs."""
        faults = self._worker_lock.faults
        if faults.in_a_row < MOST_FAULTS or is_shutting_down():
            return
        log.error("%d jobs in a row could not be begun (%s): ending, to be replaced", faults.in_a_row, faults.last)
        if self._worker_lock.is_busy():
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._end(CANNOT_START_JOBS)

    def _see_to_the_end(self) -> None:
        if not is_shutting_down() and not self._parent.lives():
            log.warning("the parent process is gone: draining")
            os.kill(os.getpid(), signal.SIGTERM)
        if not is_shutting_down() or self._worker_lock.is_busy():
            self._last_busy_at = time.monotonic()
        elif time.monotonic() - self._last_busy_at > MAY_TIDY_S:
            log.warning("there has been no job for %g s, but Celery does not end: ending without it", MAY_TIDY_S)
            self._end(os.EX_OK)

    def _give_up_stopped_slots(self) -> None:
        if time.monotonic() >= self._look_at_slots_at:
            self._look_at_slots_at = time.monotonic() + _LOOK_AT_SLOTS_EVERY_S
            for message in self._stopped_slots.kill(MAY_TIDY_S if is_shutting_down() else LEASE_TTL_S):
                log.warning(message)

    def _end(self, code: int) -> None:
        for child in psutil.Process().children():
            child.kill()
        self._worker_lock.close()
        os._exit(code)


def is_shutting_down() -> bool:
    """Whether this worker was asked to stop, at once or after its jobs."""
    codes = (celery_state.should_stop, celery_state.should_terminate)
    return any(code is not None and code is not False for code in codes)  # 0 is one: the exit code of a good end
