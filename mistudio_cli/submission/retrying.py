"""Trying jobs again: what `jobs retry` submits, for named jobs and for all that have failed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mistudio_cli import session
from mistudio_cli.terminal import output
from tasks.jobs.record import Job
from tasks.ledger.client import Ledger
from tasks.ledger.listing import Filter
from tasks.storage.store import Store
from tasks.submission.checkpoints import resume_point
from tasks.submission.plan import ArtifactCatalog
from tasks.submission.retry import Retries, plan_each, plan_retries, why_from_scratch

#: Jobs submitted at once; the next call submits the rest.
MOST = 10_000

_PAGE, _SHOWN = 1000, 20


@dataclass(frozen=True)
class Begun:
    """What was submitted, and by id where each resumes that takes over a checkpoint, or why each other starts from
    scratch.
    """

    jobs: Sequence[Job] = ()
    resume_point: Mapping[str, str] = field(default_factory=dict)
    from_scratch: Mapping[str, str] = field(default_factory=dict)

    def how(self, job: Job) -> str:
        """How that job begins, for the eye."""
        if at := self.resume_point.get(job.id):
            return f"continues from {at} (--from-scratch ignores it)"
        return ": ".join(filter(None, ("starts from scratch", self.from_scratch.get(job.id))))


def try_again(
    ledger: Ledger, store: Path, jobs: Sequence[Job], *, from_checkpoint: bool | None, new_id: str | None = None
) -> Begun:
    """Submit these jobs once more: all, or none and a UserError. The last new one gets the id `new_id`, if given."""
    known = _known(ledger, store)
    planned = plan_each(known, jobs, from_checkpoint=from_checkpoint)
    if new_id is not None:
        planned[-1] = replace(planned[-1], id=new_id)
    return _begin(known, planned, from_checkpoint)


def try_failed(
    ledger: Ledger, store: Path, wanted: Filter, *, from_checkpoint: bool | None = None, must_confirm: bool
) -> Begun:
    """Submit the jobs that failed once more, after a question when `asked`; says which are left out, and why."""
    known = _known(ledger, store)
    retries = plan_retries(known, _pages(ledger, wanted), MOST, from_checkpoint=from_checkpoint)
    _print_jobs(retries)
    if not retries.planned:
        output.talk("Nothing to try again.")
        return Begun()
    if must_confirm:
        count = "1 job" if len(retries.planned) == 1 else f"{len(retries.planned)} jobs"
        output.ask(f"Submit {count}?", "--yes")
    return _begin(known, retries.planned, from_checkpoint)


def _known(ledger: Ledger, store: Path) -> ArtifactCatalog:
    """Who tries a job again owns the new one."""
    return ArtifactCatalog(ledger, Store(store), owner=session.current_owner())


def _begin(known: ArtifactCatalog, planned: Sequence[Job], from_checkpoint: bool | None) -> Begun:
    """Submit what was planned; where a checkpoint stands must be read before, for it is taken as soon as it may be."""
    resume_points = {
        job.id: resume_point(known.store, job, job.from_checkpoint) for job in planned if job.from_checkpoint
    }
    scratch = {} if from_checkpoint is False else {job.id: why_from_scratch(job) for job in planned if job.retry_of}
    there = {job_id: at for job_id, at in resume_points.items() if at}
    return Begun(known.ledger.submit_all(planned), there, scratch)


def _print_jobs(retries: Retries) -> None:
    for sentence in retries.left_out[:_SHOWN]:
        output.talk(sentence)
    if (more := len(retries.left_out) - _SHOWN) > 0:
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
