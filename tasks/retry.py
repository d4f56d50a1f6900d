"""Another try of jobs that have ended: new jobs with the same parameters, that say of which they are one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from tasks.job import Job, State
from tasks.ledger import Ledger
from tasks.listing import Filter
from tasks.problem import Problem
from tasks.submit import KnownArtifacts, Wishes, plan

#: How many jobs of the same name are looked through for one that tries a job again.
_NAMESAKES = 1000


def plan_retry(known: KnownArtifacts, job: Job, tried_again: Mapping[str, str] | None = None) -> list[Job]:
    """The new job, last, after those that must come first because what they made is gone; nothing is submitted.

    `tried_again` tells of parents, by id, the new job that tries them again: this one waits for that. Problem when the
    job has not ended, or its artifact is there or being made.
    """
    if not job.state.ended:
        raise Problem(f"Job {job.id} is {job.state}: it has not ended yet.", f"See: mistudio jobs explain {job.id}")
    after = tuple(tried_again[parent] for parent in job.parents if parent in tried_again) if tried_again else ()
    wishes = Wishes(job.priority, after, tags=job.tags, gpu=job.gpu)
    *before, again = plan(known, job.kind, job.params, name=job.name, wishes=wishes)
    return [*before, dataclasses.replace(again, queue=job.queue, retry_of=job.id)]


def plan_retries(known: KnownArtifacts, ledger: Ledger, jobs: Sequence[Job]) -> tuple[list[Job], list[tuple[Job, str]]]:
    """All that is to be submitted to try these jobs again, and those that are left out, each with the reason.

    Parents come before their children, so a pipeline of which a step failed comes back whole.
    """
    planned: list[Job] = []
    left_out: list[tuple[Job, str]] = []
    tried_again: dict[str, str] = {}
    newest = {job.artifact: job.id for job in sorted(jobs, key=_age) if job.artifact}
    for job in sorted(jobs, key=_age):
        if other := _other_try(ledger, job):
            left_out.append((job, f"job {other.id} tried it again"))
            if other.state not in (State.FAILED, State.CANCELLED):
                tried_again[job.id] = other.id
            continue
        if job.artifact and newest[job.artifact] != job.id:
            left_out.append((job, f"job {newest[job.artifact]} makes the same, and is newer"))
            continue
        before = dict(known.planned)
        try:
            again = plan_retry(known, job, tried_again)
        except Problem as problem:
            known.planned.clear()
            known.planned.update(before)
            left_out.append((job, str(problem)))
            continue
        planned += again
        tried_again[job.id] = again[-1].id
    return planned, left_out


def _age(job: Job) -> tuple[float, str]:
    return job.created_at or 0.0, job.id


def _other_try(ledger: Ledger, job: Job) -> Job | None:
    """The newest job that tries this one again, whatever became of it."""
    namesakes = ledger.page(Filter(name=job.name, since=job.created_at), _NAMESAKES).jobs
    return next((other for other in namesakes if other.retry_of == job.id), None)
