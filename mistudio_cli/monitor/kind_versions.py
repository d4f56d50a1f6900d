"""Kinds of jobs that differ between the workers' versions of mistudio: what `jobs explain` and `doctor` say of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mistudio_cli.monitor.cause import Cause
from mistudio_cli.monitor.check_result import Check
from tasks.jobs.kind_digest import digests
from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.ledger.listing import Filter
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.system.version import named_version

#: How many queued jobs are looked at, the newest.
_LOOKED_AT = 200

#: How many workers or kinds are named.
_NAMED = 3

_UPGRADE = "Install the same version of mistudio on all hosts, then there: mistudio workers restart"


def of_other_versions(job: Job, workers: Sequence[WorkerHeartbeat]) -> Iterator[Cause]:
    """Why none of these workers of its queue can run a queued job."""
    lacks = ", ".join(_lack(job, worker) for worker in workers[:_NAMED])
    more = f" and {len(workers) - _NAMED} more workers" if len(workers) > _NAMED else ""
    yield Cause(
        f"No worker online can run it: it was submitted by {job.submitted_by or 'another version of mistudio'}; "
        f"{lacks}{more}.",
        _remedy(job, workers),
    )


def check(ledger: Ledger) -> Iterator[Check]:
    """Whether the workers have the same kinds, and each queued job one that can run it. Unreachable or Refused."""
    workers = ledger.workers()
    known = [worker for worker in workers if worker.kinds]
    if not known:
        return
    queued = ledger.page(Filter(states=(State.QUEUED,)), _LOOKED_AT).jobs
    if stuck := [job for job in queued if _is_stuck(job, workers)]:
        yield _check_of_stuck(stuck, workers)
    elif differing := _differing(known):
        named = ", ".join(differing[:_NAMED]) + (" and others" if len(differing) > _NAMED else "")
        versions = ", ".join(f"{worker.name} ({named_version(worker.version)})" for worker in known)
        yield Check("kinds", "warning", f"{named} are not the same on all workers: {versions}", _UPGRADE)
    else:
        yield Check("kinds", "ok", f"{len(known[0].kinds)}, the same on all workers")


def _check_of_stuck(stuck: Sequence[Job], workers: Sequence[WorkerHeartbeat]) -> Check:
    """Of queued jobs that no worker can run; the first is named."""
    job = stuck[0]
    (cause,) = of_other_versions(job, [worker for worker in workers if job.queue in worker.queues])
    others = f" {len(stuck) - 1} other queued jobs have no worker either." if len(stuck) > 1 else ""
    detail = f"{job.id} ({job.kind} {job.name}): {cause.sentence}{others}"
    return Check("kinds", "failed", detail, cause.command or "")


def _lack(job: Job, worker: WorkerHeartbeat) -> str:
    what = f"has other parameters of {job.kind}" if job.kind in worker.kinds else f"has no kind {job.kind}"
    return f"{worker.name} ({named_version(worker.version)}) {what}"


def _remedy(job: Job, workers: Sequence[WorkerHeartbeat]) -> str:
    """Submitting it again helps where a worker has the kind as it is here."""
    here = digests().get(job.kind)
    if here is not None and any(worker.kinds.get(job.kind) == here for worker in workers):
        return f"mistudio jobs cancel {job.id} && mistudio jobs retry {job.id}"
    return _UPGRADE


def _is_stuck(job: Job, workers: Sequence[WorkerHeartbeat]) -> bool:
    own = [worker for worker in workers if job.queue in worker.queues]
    return bool(own) and not any(worker.can_run(job) for worker in own)


def _differing(workers: Sequence[WorkerHeartbeat]) -> list[str]:
    """The kinds that not all of these workers have alike."""
    names = sorted({name for worker in workers for name in worker.kinds})
    return [name for name in names if len({worker.kinds.get(name) for worker in workers}) > 1]
