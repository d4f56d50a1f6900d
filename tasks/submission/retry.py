"""Another try of jobs that have ended: new jobs with the same parameters, that say of which they are one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tasks.errors import UserError
from tasks.jobs.kind import Job, State, kind_named
from tasks.ledger.client import Ledger
from tasks.submission.checkpoints import checkpoint_for
from tasks.submission.plan import ArtifactCatalog, ArtifactTaken, SubmitOptions, plan


@dataclass
class Retries:
    """What is to be submitted; the jobs that are left out, each as a sentence; how many are for another time."""

    planned: list[Job] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    remaining: int = 0

    def leave_out(self, job: Job, why: str) -> None:
        """Record why that job is not tried again."""
        self.left_out.append(f"{job.id} {job.kind} {job.name} is left out: {why}")


def plan_retry(
    known: ArtifactCatalog,
    job: Job,
    tried_again: Mapping[str, str] | None = None,
    *,
    from_checkpoint: bool | None = None,
) -> list[Job]:
    """The new job, last, after those that must come first because what they made is gone; nothing is submitted.

    `tried_again` maps parents' ids to the new jobs that try them again: this one waits for those. It resumes from
    what the job had done, if that is left, unless `from_checkpoint` is False. UserError when the job has not ended,
    when its artifact is there or being made, and when `from_checkpoint` is True and nothing is left.
    """
    if not job.state.ended:
        raise UserError(f"Job {job.id} is {job.state}: it has not ended yet.", f"See: mistudio jobs explain {job.id}")
    after = tuple(tried_again[parent] for parent in job.parents if parent in tried_again) if tried_again else ()
    submit_options = SubmitOptions(job.priority, after, tags=job.tags, gpu=job.gpu)
    try:
        *before, again = plan(known, job.kind, job.params, name=job.name, submit_options=submit_options)
    except ArtifactTaken as taken:
        raise UserError(taken.sentence, _instead(taken)) from None
    source = None if from_checkpoint is False else _checkpoint_for(known, job, again)
    if from_checkpoint and source is None:
        scratch = f"To start from scratch: mistudio jobs retry {job.id} --from-scratch"
        raise UserError(f"Job {job.id} cannot be continued: {why_from_scratch(again)}.", scratch)
    return [*before, dataclasses.replace(again, queue=job.queue, retry_of=job.id, from_checkpoint=source)]


def _instead(taken: ArtifactTaken) -> str:
    if taken.producer:
        return f"Wait for that: mistudio jobs wait {taken.producer}"
    if len(taken.makes) > 1:
        return "Submit on its own what is not there yet"
    return "It needs no other try; to make another one, submit it with a --name of its own"


def why_from_scratch(again: Job) -> str:
    """Why a job that tries another one again has no checkpoint to resume from."""
    if not kind_named(again.kind).resumes:
        return f"{again.kind} jobs keep no checkpoint"
    return "its input is being made again" if again.parents else "no checkpoint is left"


def _checkpoint_for(known: ArtifactCatalog, job: Job, again: Job) -> str | None:
    """The job whose checkpoint `again` takes over; None if it waits for its input: that may differ from the
    checkpoint's.
    """
    return None if again.parents else checkpoint_for(known.ledger, known.store, job)


def plan_retries(
    known: ArtifactCatalog, pages: Iterable[Sequence[Job]], most: int, *, from_checkpoint: bool | None = None
) -> Retries:
    """All that is to be submitted to try these jobs again, about `most` jobs, the oldest first.

    Parents come before their children, so a pipeline of which a step failed comes back whole.
    """
    retries, tried_again, left = Retries(), dict[str, str](), list[Job]()
    for jobs in pages:
        left += _not_tried_again(known.ledger, jobs, retries, tried_again)
    left.sort(key=_age)
    newest = {artifact: job.id for job in left for artifact in job.artifacts}
    for place, job in enumerate(left):
        if len(retries.planned) >= most:
            retries.remaining = len(left) - place
            break
        taken = next((artifact for artifact in job.artifacts if newest[artifact] != job.id), None)
        if taken:
            what = taken if job.more_artifacts else "the same"
            retries.leave_out(job, f"job {newest[taken]} makes {what}, and is newer")
        else:
            _plan_if_possible(known, job, retries, tried_again, from_checkpoint)
    return retries


def _not_tried_again(
    ledger: Ledger, jobs: Sequence[Job], retries: Retries, tried_again: dict[str, str]
) -> Iterable[Job]:
    """Those of the jobs that no other tries again; who waited for one of the rest shall wait for its other try."""
    for job, other in zip(jobs, ledger.other_tries([job.id for job in jobs]), strict=True):
        if other is None:
            yield job
            continue
        retries.leave_out(job, f"job {other.id} tried it again")
        if other.state not in (State.FAILED, State.CANCELLED):
            tried_again[job.id] = other.id


def _plan_if_possible(
    known: ArtifactCatalog, job: Job, retries: Retries, tried_again: dict[str, str], from_checkpoint: bool | None
) -> None:
    before = dict(known.planned)
    try:
        again = plan_retry(known, job, tried_again, from_checkpoint=from_checkpoint)
    except UserError as problem:
        known.planned.clear()
        known.planned.update(before)
        retries.leave_out(job, str(problem))
        return
    retries.planned += again
    tried_again[job.id] = again[-1].id


def _age(job: Job) -> tuple[float, str]:
    return job.created_at or 0.0, job.id
