"""Another try of a job that has ended: a new job with the same parameters, that says of which it is one."""

from __future__ import annotations

import dataclasses

from tasks.job import Job
from tasks.problem import Problem
from tasks.submit import KnownArtifacts, Wishes, plan


def plan_retry(known: KnownArtifacts, job: Job) -> list[Job]:
    """The new job, last, after those that must come first because what they made is gone; nothing is submitted.

    Problem when the job has not ended, or its artifact is there or being made.
    """
    if not job.state.ended:
        raise Problem(f"Job {job.id} is {job.state}: it has not ended yet.", f"See: mistudio jobs explain {job.id}")
    wishes = Wishes(job.priority, tags=job.tags, gpu=job.gpu)
    *before, again = plan(known, job.kind, job.params, name=job.name, wishes=wishes)
    return [*before, dataclasses.replace(again, queue=job.queue, retry_of=job.id)]
