"""The context of a running job for its kind, in a runner and in a worker's slot."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from tasks.jobs.kind import MAX_METRICS, Stopped
from tasks.jobs.record import MetricPoint, Progress
from tasks.ledger.client import Claim, Ledger
from tasks.redis_client.redis_retry import patient
from tasks.runner.reporter import Reporter
from tasks.storage import attempts
from tasks.storage.store import Store

log = logging.getLogger("mistudio.job")

#: How often a job's progress is written to the ledger, whatever its pace.
REPORT_EVERY_S = 1.0


@dataclass
class RunContext:
    """What a kind's `run` sees of the world; see `tasks.jobs.kind.Context`."""

    claim: Claim
    ledger: Ledger
    store: Store
    home: Path
    device: str
    stop_requested: Callable[[], bool]
    reporter: Reporter
    _phase: tuple[str, float, int] = field(default=("", 0.0, 0))
    _reported_at: float = 0.0
    _measured: MetricPoint | None = None

    def __post_init__(self) -> None:
        job = self.claim.job
        self.job_id, self.name, self.attempt = job.id, job.name, job.attempt
        self.begins = not self.store.work_folder(job.id).exists()
        if job.from_checkpoint:
            attempts.hand_over(self.store, job.from_checkpoint, job.id)
        if patient(self.ledger).renew(self.claim) == "lost":
            raise attempts.Superseded(job.id)
        self.workdir = attempts.begin(self.store, job.id, job.attempt, self.claim.token)
        self.output = self.workdir / attempts.OUTPUT

    def stopping(self) -> bool:
        """Whether the job was asked to stop."""
        return self.stop_requested()

    def live_jobs(self) -> set[str]:
        """Ids of all jobs that have not ended, and of those whose checkpoint one of them will take over."""
        return self.ledger.live_jobs()

    def seconds_since_end(self, job_ids: Sequence[str]) -> dict[str, float | None]:
        """How long ago these jobs ended, by the ledger's clock; None for one that has not, none for an unknown one."""
        now, jobs = self.ledger.now(), self.ledger.many(job_ids)
        return {job.id: now - job.finished_at if job.state.ended and job.finished_at else None for job in jobs if job}

    def metrics(self, at: int, values: Mapping[str, float | None]) -> None:
        """What was measured, for the next report; ValueError for too many."""
        if len(values) > MAX_METRICS:
            raise ValueError(f"{len(values)} metrics are more than {MAX_METRICS}")
        self._measured = MetricPoint(at, {name: _short(value) for name, value in values.items()})

    def note(self, sentence: str) -> None:
        """Write a sentence about the job's progress to its log and its history."""
        log.info("%s", sentence)
        self.reporter.note(sentence)

    def progress(self, phase: str, done: int, total: int | None = None, unit: str = "") -> None:
        """Report progress; raises Stopped once the job was asked to stop."""
        if self.stop_requested():
            raise Stopped
        now = time.monotonic()
        if phase != self._phase[0]:
            self._phase, self._reported_at = (phase, now, done), 0.0
        if now - self._reported_at < REPORT_EVERY_S and done != total:
            return
        self._reported_at = now
        _, began, first = self._phase
        rate = (done - first) / (now - began) if now > began else None
        self.reporter.report(Progress(phase, done, total, unit, rate), self._measured)
        self._measured = None

    def send_the_rest(self) -> None:
        """Send what was reported and is not sent yet: the work is over. Raises Unreachable when that takes too long."""
        for message in self.reporter.close():
            message(patient(self.ledger))


def _short(value: float | None) -> float | None:
    return None if value is None or not isfinite(value) else float(f"{value:.6g}")
