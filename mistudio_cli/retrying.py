"""Trying jobs again: what `jobs retry` submits, for named jobs and for all that have failed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mistudio_cli import output
from tasks.job import Job
from tasks.ledger import Ledger
from tasks.listing import Filter
from tasks.retry import Retries, plan_retries, plan_retry
from tasks.store import Store
from tasks.submit import KnownArtifacts

#: So many jobs are submitted at once; the next call submits the rest.
MOST = 10_000

_PAGE, _TOLD = 1000, 20


def try_again(ledger: Ledger, store: Path, jobs: Sequence[Job]) -> list[Job]:
    """Submit these jobs once more: all, or none and a Problem."""
    known = KnownArtifacts(ledger, Store(store))
    return ledger.submit_all([new for job in jobs for new in plan_retry(known, job)])


def try_failed(ledger: Ledger, store: Path, wanted: Filter, *, asked: bool) -> list[Job]:
    """Submit the jobs that failed once more, after a question when `asked`; says which are left out, and why."""
    retries = plan_retries(KnownArtifacts(ledger, Store(store)), ledger, _pages(ledger, wanted), MOST)
    _tell(retries)
    if not retries.planned:
        output.talk("Nothing to try again.")
        return []
    if asked:
        count = "1 job" if len(retries.planned) == 1 else f"{len(retries.planned)} jobs"
        output.ask(f"Submit {count}?", shlex.join(["mistudio", *sys.argv[1:], "--yes"]))
    return ledger.submit_all(retries.planned)


def _tell(retries: Retries) -> None:
    for sentence in retries.left_out[:_TOLD]:
        output.talk(sentence)
    if (more := len(retries.left_out) - _TOLD) > 0:
        output.talk(f"… and {more} more are left out. All that failed: mistudio jobs ls --state failed")
    if retries.remaining:
        again = shlex.join(["mistudio", *sys.argv[1:]])
        output.talk(f"That is all at once; {retries.remaining} more that failed are left for the next time: {again}")


def _pages(ledger: Ledger, wanted: Filter) -> Iterator[Sequence[Job]]:
    """All the jobs meant, however many."""
    following: str | None = None
    while True:
        page = ledger.page(wanted, _PAGE, following)
        yield page.jobs
        if (following := page.next) is None:
            return
