"""Trying jobs again: what `jobs retry` submits, for named jobs and for all that have failed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mistudio_cli import output
from tasks.job import Job
from tasks.ledger import Ledger
from tasks.listing import Filter
from tasks.retry import plan_retries, plan_retry
from tasks.store import Store
from tasks.submit import KnownArtifacts

#: The most failed jobs that are looked at together.
_MOST = 10_000


def try_again(ledger: Ledger, store: Path, jobs: Sequence[Job]) -> list[Job]:
    """Submit these jobs once more: all, or none and a Problem."""
    known = KnownArtifacts(ledger, Store(store))
    return ledger.submit_all([new for job in jobs for new in plan_retry(known, job)])


def try_failed(ledger: Ledger, store: Path, wanted: Filter, *, asked: bool) -> list[Job]:
    """Submit the jobs that failed once more, after a question when `asked`; says which are left out, and why."""
    failed = ledger.page(wanted, _MOST).jobs
    planned, left_out = plan_retries(KnownArtifacts(ledger, Store(store)), ledger, failed)
    for job, why in left_out:
        output.talk(f"{job.id} {job.kind} {job.name} is left out: {why}")
    if not planned:
        output.talk("Nothing to try again.")
        return []
    if asked:
        count = "1 job" if len(planned) == 1 else f"{len(planned)} jobs"
        output.ask(f"Submit {count}?", "the same with --yes")
    return ledger.submit_all(planned)
