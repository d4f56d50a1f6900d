"""Messages of jobs that this worker cannot run, because another version of mistudio submitted them.

Each is held for a second and then put at the end of its list, where a worker that can run its job finds it. The
heartbeat does so (`Ledger.pass_on`), so that it costs no round trip of its own. What a worker holds that is killed gets
another message like any that was lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from tasks.kind_digest import digests

#: The least time between two messages of one job that this worker puts back.
HOLD_S = 1.0

#: With this number of a queue held, the worker takes no more of that queue until some have been put back.
MOST_HELD = 100


class HeldMessages:
    """The jobs whose messages a worker holds. Filled by its message loop, emptied by its heartbeat."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._held: dict[str, tuple[str, float]] = {}

    def holds(self, headers: Any, queue: str) -> bool:
        """Whether a message with these headers is for another worker: then its job is remembered here."""
        if not isinstance(headers, dict) or headers.get("origin") != "mistudio":
            return False
        job_id, task, digest = (headers.get(name) for name in ("id", "task", "digest"))
        if not isinstance(job_id, str) or not isinstance(task, str) or _is_known(task, digest):
            return False
        with self._lock:
            self._held.setdefault(job_id, (queue, self._clock()))
        return True

    def is_full(self, queue: str) -> bool:
        """Whether enough of that queue is held."""
        with self._lock:
            return sum(held == queue for held, _ in self._held.values()) >= MOST_HELD

    def due(self) -> list[str]:
        """The jobs whose messages were held for long enough."""
        with self._lock:
            return [job_id for job_id, (_, since) in self._held.items() if self._clock() - since >= HOLD_S]

    def all(self) -> list[str]:
        """All jobs whose messages are held."""
        with self._lock:
            return list(self._held)

    def forget(self, job_ids: Iterable[str]) -> None:
        """The messages of these jobs have been put back."""
        with self._lock:
            for job_id in job_ids:
                self._held.pop(job_id, None)


#: Those of this worker.
held = HeldMessages()


def _is_known(task: str, digest: Any) -> bool:
    """Whether this worker has a kind with these parameters; a message of an older version has no digest."""
    mine = digests().get(task.removeprefix("mistudio."))
    return mine is not None and digest in (mine, "", None)
