"""Renews the lease of a slot's job beside the work, and receives cancellation in the answer.

It decides why work is stopped, and when its grace period is over; no other module does.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable

from tasks.jobs.kind import kind_named
from tasks.jobs.record import Progress, State
from tasks.jobs.stop_grace import recorded_stop_time, stop_grace_s
from tasks.ledger.client import LEASE_RENEW_S, Claim, Ledger
from tasks.paths import Places
from tasks.queues import HOUR, MINUTE
from tasks.redis_client.redis_connection import Refused, Unreachable
from tasks.storage import attempts
from tasks.storage.store import Store
from tasks.submission.checkpoints import leave_behind
from tasks.system.resilient_loop import Rounds

log = logging.getLogger("mistudio.slot")

#: Reasons that end a job as failed, and what the error is called.
_FAILURES = {"limit": "TimeLimit", "memory": "MemoryLimit", "card": "CardLost"}

#: A job that holds too much memory may bring down the machine, and one whose card is lost may wait for it for ever:
#: they have no more than this long to stop.
_SHORT_GRACE_S = 5.0


class LeaseKeeper(threading.Thread):
    """Renews a lease beside the work and keeps the first reason to stop it.

    `stop_reason` is "" while the work may continue, else "cancel", "lost", "shutdown", "limit", "stall", "memory" or
    "card".
    """

    def __init__(self, ledger: Ledger, claim: Claim, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(name=f"lease-{claim.job.id}", daemon=True)
        self.stop_reason = ""
        self._sentence = self._hint = ""
        self._ledger = ledger
        self._claim = claim
        self._clock = clock
        self._kind = kind_named(claim.job.kind)
        self._limits = claim.job.limits_in_force
        self._began_at: float | None = None
        self._progress = StallTimer()
        self._stop_requested_at: float | None = None
        self._overdue = False
        self._done = threading.Event()

    def __enter__(self) -> LeaseKeeper:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()
        self._ledger.close()

    def work_started(self) -> None:
        """From now on the job works: what it waited for before, such as a GPU, counts against no limit."""
        self._began_at = self._clock()
        self._progress.unknown()

    def request_stop(self, why: str, sentence: str = "", hint: str = "") -> None:
        """Give a reason to stop; the first one counts, but a lost lease overrides all.

        `sentence` and `hint` are for the record.
        """
        if not self.stop_reason or (why == "lost" and self.stop_reason != "lost"):
            self._stop_requested_at = self._stop_requested_at or self._clock()
            self._sentence, self._hint, self.stop_reason = sentence, hint, why

    @property
    def time_is_up(self) -> bool:
        """Whether work that was asked to stop has had its grace, or is past its hard limit, and is to be killed."""
        if self._overdue:
            return True
        return self._stop_requested_at is not None and self._clock() - self._stop_requested_at > self._grace_s

    @property
    def _grace_s(self) -> float:
        job, store = self._claim.job, Store(Places.from_environment().store)
        folder = attempts.folder_of(store, job.id, job.attempt, self._claim.token)
        grace_s = stop_grace_s(self._kind.stop_grace_s, recorded_stop_time(folder))
        return min(grace_s, _SHORT_GRACE_S) if self.stop_reason in ("memory", "card") else grace_s

    @property
    def how_killed(self) -> str:
        """What the record says of work that was killed when its time was up."""
        if self._overdue:
            return "killed"
        return f"killed: it did not stop within {self._grace_s:.3g} s of the request"

    def record_outcome(self, ledger: Ledger, how: str) -> str:
        """Record that the work was stopped and `how` it ended; "lost" if it has ended or another worker owns it."""
        if self.stop_reason == "cancel":
            return ledger.finish(self._claim, State.CANCELLED, how)
        if self.stop_reason in _FAILURES:
            message = f"{self._sentence}; {how}. {self._hint}".rstrip()
            error = {"type": _FAILURES[self.stop_reason], "message": message}
            return ledger.finish(self._claim, State.FAILED, message, error=error)
        if self.stop_reason == "stall":
            return ledger.put_back(self._claim, f"{self._sentence}; {how}", loss=True)
        if self.stop_reason == "lost":
            return "lost"
        return ledger.put_back(self._claim, f"its worker was shut down; {how}", loss=False)

    def run(self) -> None:
        """Renew and judge until the work is done."""
        rounds = Rounds(f"the care for job {self._claim.job.id}", log)
        while not self._done.wait(LEASE_RENEW_S):
            with rounds.guarded():
                self._judge_time()
                self._renew_and_judge()

    def _renew_and_judge(self) -> None:
        try:
            status = self._ledger.renew(self._claim)
            if status != "ok":
                self.request_stop(status)
            self._judge_progress()
            if self._kind.in_slot and self.time_is_up:
                self._end_slot()
        except Unreachable:
            self._progress.unknown()  # the work continues; lease and progress are judged when Redis is back
        except Refused as error:
            self._progress.unknown()
            log.warning("the lease of job %s was not renewed: %s", self._claim.job.id, error)

    def _judge_time(self) -> None:
        if self._began_at is None:
            return
        worked_s, limits = self._clock() - self._began_at, self._limits
        for limit_s in (limits.soft_s, limits.hard_s):
            if limit_s is not None and worked_s > limit_s:
                self.request_stop("limit", f"It ran for more than {_span(limit_s)}, the most its kind may")
        self._overdue = limits.hard_s is not None and worked_s > limits.hard_s

    def _judge_progress(self) -> None:
        stall_s = self._limits.stall_s
        if self._began_at is None or stall_s is None:
            return
        job = self._ledger.get(self._claim.job.id)
        if job is not None and self._progress.lasts_s(job.progress, self._clock()) > stall_s:
            where = f"in {job.progress.phase}" if job.progress else "after it began"
            self.request_stop("stall", f"no progress for {_span(stall_s)} {where}")

    def _end_slot(self) -> None:
        """Work in the slot itself that does not respond can only be ended with its slot; the pool makes a new one."""
        if self._done.is_set():
            return
        self.record_outcome(self._ledger, self.how_killed)
        job = self._ledger.get(self._claim.job.id)
        if job is not None and job.state.ended:
            leave_behind(self._ledger, Store(Places.from_environment().store), job)
        log.error("job %s did not stop when asked to; killing its slot", self._claim.job.id)
        os.kill(os.getpid(), signal.SIGKILL)


class StallTimer:
    """For how long a job's progress has been the same, as far as it could be read."""

    def __init__(self) -> None:
        self.unknown()

    def unknown(self) -> None:
        """Forget the last value: it may have changed unseen."""
        self._last: tuple[str, int] | None = None
        self._since: float | None = None

    def lasts_s(self, progress: Progress | None, now: float) -> float:
        """Seconds since phase or count last changed. The rate is no progress."""
        mark = (progress.phase, progress.done) if progress else None
        if self._since is None or mark != self._last:
            self._last, self._since = mark, now
        return now - self._since


def _span(seconds: float) -> str:
    """A limit as a person says it."""
    for length, unit in ((HOUR, "h"), (MINUTE, "min")):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"
