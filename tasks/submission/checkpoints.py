"""Checkpoints of failed and cancelled jobs: keeps them for another try, finds them, bounds their number.

A checkpoint stays in the folder of the attempt that wrote it, and the first attempt of the job that tries it again
adopts it (`tasks.storage.attempts`). `resume_point` of a kind says whether there is one; no other kind leaves anything.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator

from tasks.jobs.kind import kind_named, kinds
from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.ledger.maintenance import maintenance_from_environment
from tasks.redis_client.redis_connection import Refused, Unreachable
from tasks.storage import attempts
from tasks.storage.store import Store, size_of

log = logging.getLogger("mistudio.checkpoints")

#: The share of its disk that what ended jobs left may take, unless MISTUDIO_KEEP_CHECKPOINTS_GB says how much.
_SHARE = 0.1


def resume_point(store: Store, job: Job, owner: str | None = None) -> str | None:
    """Where a job of this kind resumes, such as "step 1200", if it adopts what `owner` left, or else itself.

    Raises OSError when that cannot be read now.
    """
    kind, folder = kind_named(job.kind), attempts.newest(store.work_folder(owner or job.id))
    try:
        return kind.resume_point(folder) if kind.resume_point and folder else None
    except FileNotFoundError:  # it was taken over or removed meanwhile
        return None


def checkpoint_for(ledger: Ledger, store: Store, job: Job) -> str | None:
    """The job from whose checkpoint another try of that one can resume: itself, or one of its lineage; None for none.

    All of a lineage have the same parameters. A try that never began has left another's checkpoint where it was, one
    that started from scratch has not touched it, and one that took it over has it now.
    """
    if not kind_named(job.kind).resumes:
        return None
    return next((owner for owner in _lineage(ledger, job) if resume_point(store, job, owner)), None)


def _lineage(ledger: Ledger, job: Job) -> Iterator[str]:
    """The job, those of which it is another try, the latest first, and those that try it again, the latest first."""
    yield job.id
    if job.from_checkpoint:
        yield job.from_checkpoint
    earlier: Job | None = job
    while earlier is not None and earlier.retry_of:
        yield earlier.retry_of
        earlier = ledger.get(earlier.retry_of)
    yield from reversed([other.id for other in later_tries(ledger, job.id)])


def later_tries(ledger: Ledger, job_id: str) -> Iterator[Job]:
    """The jobs that try that one again, and one another, the latest last."""
    (other,) = ledger.other_tries([job_id])
    while other is not None:
        yield other
        (other,) = ledger.other_tries([other.id])


def leave_behind(ledger: Ledger, store: Store, job: Job) -> None:
    """Keep what another try can resume from in a finished job's work folder, and enforce the bound on checkpoints."""
    tidy(store, job)
    if kind_named(job.kind).resumes:
        try:
            _bound(ledger, store)
        except (Unreachable, Refused, OSError) as error:  # the next job's end sees to it
            log.warning("what ended jobs left was not looked through: %s", error)


def tidy(store: Store, job: Job) -> bool:
    """Whether anything is left of the work folder of a job that has ended: its checkpoint, but never its output.

    What cannot be read now may be a checkpoint, and is left as it is; so is that of a kind that only others know.
    """
    if job.kind not in kinds():
        return True
    try:
        is_resumable = job.state is not State.SUCCEEDED and resume_point(store, job) is not None
    except OSError as error:
        log.warning("what job %s left cannot be read: %s", job.id, error)
        return True
    if not is_resumable:
        return not store.discard(job.id)
    attempts.keep_newest(store, job.id)
    return True


def _bound(ledger: Ledger, store: Store) -> None:
    """Keep what the newest jobs left, as much as there is room for, always that of the newest and what is awaited."""
    known = ledger.many(store.work_folders())
    ended = [job for job in known if job and job.state.ended and job.kind in kinds()]
    kept = [job for job in ended if tidy(store, job)]
    room = _room(store)
    for place, job in enumerate(sorted(kept, key=lambda job: job.finished_at or 0.0, reverse=True)):
        room -= size_of(store.work_folder(job.id))
        if room < 0 and place > 0 and job.id not in ledger.awaited_checkpoints():  # a retry may have come meanwhile
            store.discard(job.id)


def _room(store: Store) -> float:
    limit = maintenance_from_environment().keep_checkpoint_bytes
    return shutil.disk_usage(store.root).total * _SHARE if limit is None else limit
