"""Messages of jobs that this worker cannot run, because another version of mistudio submitted them.

Each is held for a second, longer when it comes back, and then put at the end of its list, where a worker that can run
its job finds it. The heartbeat does so, with one request a second for all that are due (`Ledger.pass_on`). What a
worker holds that is killed gets another message like any that was lost.

A message costs Redis about ten commands each time around, so the worker takes MOST_IN_A_SECOND of a queue. One that it
can run, behind N that it cannot, is reached after somewhat more than N / 10 seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from tasks.jobs.kind_digest import digests

#: How long a job's message is held the first time, which doubles each time it comes back, and at most: maintenance
#: takes a message for lost and makes another one after `MaintenanceSettings.bell_patience_s`.
HOLD_S, LONGEST_HOLD_S = 1.0, 4.0

#: After this number of a queue within a second, the worker takes no more of that queue until the second is over.
MOST_IN_A_SECOND = 10

#: For how many jobs the worker knows how often it has held their messages: those held most recently.
_MOST_KNOWN = 10_000


class HeldMessages:
    """The jobs whose messages a worker holds. Filled by its message loop, emptied by its heartbeat."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._held: dict[str, tuple[str, float]] = {}
        self._hold_s: dict[str, float] = {}  # by job: how long its message is held, or was the last time

    def holds(self, headers: Any, queue: str) -> bool:
        """Whether a message with these headers is for another worker: then its job is remembered here."""
        if not isinstance(headers, dict) or headers.get("origin") != "mistudio":
            return False
        job_id, task, digest = (headers.get(name) for name in ("id", "task", "digest"))
        if not isinstance(job_id, str) or not isinstance(task, str) or _is_known(task, digest):
            return False
        with self._lock:
            if job_id not in self._held:
                self._held[job_id] = queue, self._clock()
                self._hold_longer(job_id)
        return True

    def is_full(self, queue: str) -> bool:
        """Whether enough of that queue was taken within the last second."""
        with self._lock:
            recent = self._clock() - 1.0
            return sum(held == queue and since > recent for held, since in self._held.values()) >= MOST_IN_A_SECOND

    def due(self) -> list[str]:
        """The jobs whose messages were held for long enough."""
        with self._lock:
            now = self._clock()
            return [
                job_id for job_id, (_, since) in self._held.items() if now - since >= self._hold_s.get(job_id, HOLD_S)
            ]

    def all(self) -> list[str]:
        """All jobs whose messages are held."""
        with self._lock:
            return list(self._held)

    def forget(self, job_ids: Iterable[str]) -> None:
        """The messages of these jobs have been put back."""
        with self._lock:
            for job_id in job_ids:
                self._held.pop(job_id, None)

    def _hold_longer(self, job_id: str) -> None:
        before_s = self._hold_s.pop(job_id, 0.0)  # its place among the keys is that of the last time
        self._hold_s[job_id] = min(2 * before_s, LONGEST_HOLD_S) or HOLD_S
        if len(self._hold_s) > _MOST_KNOWN:
            del self._hold_s[next(iter(self._hold_s))]


#: Those of this worker.
held = HeldMessages()


def _is_known(task: str, digest: Any) -> bool:
    """Whether this worker has a kind with these parameters; a message of an older version has no digest."""
    mine = digests().get(task.removeprefix("mistudio."))
    return mine is not None and digest in (mine, "", None)
