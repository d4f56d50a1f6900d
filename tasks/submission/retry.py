"""Another try of jobs that have ended: new jobs with the same parameters, that say of which they are one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tasks.errors import UserError
from tasks.jobs.kind import kind_named
from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.submission.checkpoints import checkpoint_for, later_tries
from tasks.submission.plan import ArtifactCatalog, ArtifactTaken, SubmitOptions, plan

#: The states of a job that has ended and has not done what it was to do.
_IN_VAIN = (State.FAILED, State.CANCELLED)


@dataclass
class Retries:
    """What is to be submitted; the jobs that are left out, each as a sentence; how many are for another time."""

    planned: list[Job] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    remaining: int = 0

    def leave_out(self, job: Job, why: str) -> None:
        """Record why that job is not tried again."""
        self.left_out.append(f"{job.id} {job.kind} {job.name} is left out: {why}")


#: By the ids of jobs that did not succeed, the ids of those that do again what they were to do.
TriedAgain = dict[str, tuple[str, ...]]


def plan_retry(
    known: ArtifactCatalog,
    job: Job,
    tried_again: TriedAgain | None = None,
    *,
    from_checkpoint: bool | None = None,
) -> list[Job]:
    """The new job, last, after those that must come first because what it reads is missing; nothing is submitted.

    Those are jobs that make again what is gone, and other tries of parents that did not succeed, unless `tried_again`
    has these: then this one waits for what it names. What is planned here is entered there. The new job resumes from
    what the job had done, if that is left, unless `from_checkpoint` is False. UserError when the job has not ended,
    when its artifact is there or being made, and when `from_checkpoint` is True and nothing is left.
    """
    if not job.state.ended:
        raise UserError(f"Job {job.id} is {job.state}: it has not ended yet.", f"See: mistudio jobs explain {job.id}")
    tried_again = {} if tried_again is None else tried_again
    parents = _plan_parents(known, job, tried_again, from_checkpoint)
    after = dict.fromkeys(new for parent in job.parents for new in tried_again.get(parent, ()))
    submit_options = SubmitOptions(job.priority, tuple(after), tags=job.tags, gpu=job.gpu)
    try:
        *before, again = plan(known, job.kind, job.params, name=job.name, submit_options=submit_options)
    except ArtifactTaken as taken:
        raise UserError(taken.sentence, _instead(taken)) from None
    source = None if from_checkpoint is False else _checkpoint_for(known, job, again)
    if from_checkpoint and source is None:
        scratch = f"To start from scratch: mistudio jobs retry {job.id} --from-scratch"
        raise UserError(f"Job {job.id} cannot be continued: {why_from_scratch(again)}.", scratch)
    again = dataclasses.replace(again, queue=job.queue, retry_of=job.id, from_checkpoint=source)
    tried_again[job.id] = (again.id,)
    return [*parents, *before, again]


def _plan_parents(known: ArtifactCatalog, job: Job, tried_again: TriedAgain, from_checkpoint: bool | None) -> list[Job]:
    """Other tries of the parents that did not succeed, and of theirs; `tried_again` gets who does again what each was
    to do, be that an unfinished job.
    """
    planned: list[Job] = []
    for parent in known.ledger.many(job.parents):
        if parent is None or parent.id in tried_again or parent.state not in _IN_VAIN:
            continue
        *_, newest = parent, *later_tries(known.ledger, parent.id)
        missing = [artifact for artifact in parent.artifacts if not known.manifest(*artifact.split("/", 1))]
        producers = [producer for producer in map(known.producer_of, missing) if producer]
        if newest.id in tried_again:
            tried_again[parent.id] = tried_again[newest.id]
        elif producers and len(producers) == len(missing):
            tried_again[parent.id] = tuple(producers)
        elif not newest.state.ended:
            tried_again[parent.id] = (newest.id,)
        elif missing or (not parent.artifacts and newest.state in _IN_VAIN):
            resumes = None if from_checkpoint else from_checkpoint
            planned += plan_retry(known, newest, tried_again, from_checkpoint=resumes)
            tried_again[parent.id] = tried_again[newest.id]
    return planned


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


def plan_each(known: ArtifactCatalog, jobs: Sequence[Job], *, from_checkpoint: bool | None = None) -> list[Job]:
    """All that is to be submitted to try these jobs again: all of them, or a UserError as `plan_retry` raises it.

    Parents come before their children, whatever order they are named in; a job that is named twice is tried once.
    """
    planned: list[Job] = []
    tried_again: TriedAgain = {}
    for job in sorted(jobs, key=_age):
        if job.id not in tried_again:
            planned += plan_retry(known, job, tried_again, from_checkpoint=from_checkpoint)
    return planned


def plan_retries(
    known: ArtifactCatalog, pages: Iterable[Sequence[Job]], most: int, *, from_checkpoint: bool | None = None
) -> Retries:
    """All that is to be submitted to try these jobs again, about `most` jobs, the oldest first.

    Parents come before their children, so a pipeline of which a step failed comes back whole.
    """
    retries, tried_again, left = Retries(), TriedAgain(), list[Job]()
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


def _not_tried_again(ledger: Ledger, jobs: Sequence[Job], retries: Retries, tried_again: TriedAgain) -> Iterable[Job]:
    """Those of the jobs that no other tries again; who waited for one of the rest shall wait for its other try."""
    for job, other in zip(jobs, ledger.other_tries([job.id for job in jobs]), strict=True):
        if other is None:
            yield job
            continue
        retries.leave_out(job, f"job {other.id} tried it again")
        if other.state not in _IN_VAIN:
            tried_again[job.id] = (other.id,)


def _plan_if_possible(
    known: ArtifactCatalog, job: Job, retries: Retries, tried_again: TriedAgain, from_checkpoint: bool | None
) -> None:
    if job.id in tried_again:  # as a parent of another
        return
    planned, entered = dict(known.planned), dict(tried_again)
    try:
        retries.planned += plan_retry(known, job, tried_again, from_checkpoint=from_checkpoint)
    except UserError as problem:
        known.planned.clear()
        known.planned.update(planned)
        tried_again.clear()
        tried_again.update(entered)
        retries.leave_out(job, str(problem))


def _age(job: Job) -> tuple[float, str]:
    return job.created_at or 0.0, job.id
