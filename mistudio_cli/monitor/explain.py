"""Explains why a job is in its state: all causes, the most important first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mistudio_cli.monitor.cause import Cause
from mistudio_cli.monitor.consumer_command import consumer_command
from mistudio_cli.monitor.kind_versions import of_other_versions
from mistudio_cli.monitor.snapshot import WorkerRow
from mistudio_cli.monitor.worker_rows import worker_rows
from mistudio_cli.terminal.humanize import UNKNOWN, count_of, duration
from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.ledger.listing import Filter
from tasks.ledger.queue_state import QueueCount
from tasks.ledger.quotas import Quota, read_quotas
from tasks.ledger.worker_heartbeat import HEARTBEAT_TTL_S, WorkerHeartbeat
from tasks.queues import share

#: What is counted in a queue that this version does not have.
_NOTHING = QueueCount(0, 0, 0, None, None, ())

#: How many others are named.
_NAMED = 3


@dataclass(frozen=True)
class Around:
    """What is read of a job's surroundings, at `now` by the ledger's clock."""

    now: float
    count: QueueCount
    workers: Sequence[WorkerHeartbeat]
    able: Sequence[WorkerHeartbeat]  # those of them that have its kind as it was submitted
    place: int | None
    running: Sequence[Job]
    parents: Sequence[Job]
    put_back: Sequence[str]
    refused: Sequence[WorkerHeartbeat] = ()  # workers of its queue that may not consume
    silent: Sequence[WorkerHeartbeat] = ()  # and those that may, but have sent no heartbeat or do not consume
    quota: Quota | None = None  # of its owner
    of_owner: Sequence[Job] = ()  # those that run, where the owner has a quota
    owners: Sequence[str] = ()  # those with jobs in its queue
    rows: Sequence[WorkerRow] = ()  # the workers of all queues


def look_around(ledger: Ledger, job: Job) -> Around:
    """Read what `explain` needs."""
    quota = read_quotas(ledger.client).get(job.owner or "")
    now, everyone = ledger.now(), ledger.heartbeats()
    heartbeats = [heartbeat for heartbeat in everyone if job.queue in heartbeat.queues]
    workers = [heartbeat for heartbeat in heartbeats if now - heartbeat.consumed_at <= HEARTBEAT_TTL_S]
    return Around(
        now=now,
        count=ledger.queues.counts(now).get(job.queue, _NOTHING),
        workers=workers,
        able=[heartbeat for heartbeat in workers if heartbeat.can_run(job)],
        place=ledger.queues.place(job.queue, job.id),
        running=ledger.page(Filter(states=(State.RUNNING,)), 200).jobs,
        parents=[parent for parent in ledger.many(job.parents) if parent],
        put_back=_reasons_it_was_put_back_for(ledger, job),
        refused=[heartbeat for heartbeat in heartbeats if heartbeat.refused],
        silent=[heartbeat for heartbeat in heartbeats if heartbeat not in workers and not heartbeat.refused],
        quota=quota,
        owners=ledger.queues.owners(job.queue),
        rows=worker_rows((), everyone, (), now),
        of_owner=ledger.page(Filter(states=(State.RUNNING,), owner=job.owner), 10_000).jobs if quota else (),
    )


def explain(job: Job, around: Around) -> list[Cause]:
    """What keeps the job, or what became of it; at least one cause."""
    return [*_of_state(job, around), *_of_the_past(job, around)]


def _of_state(job: Job, around: Around) -> Iterator[Cause]:
    if job.state is State.WAITING:
        yield from _waiting(around)
    elif job.state is State.QUEUED:
        yield from _queued(job, around)
    elif job.state is State.RUNNING:
        yield from _running(job, around)
    else:
        when = "" if job.finished_at is None else f" {duration(around.now - job.finished_at)} ago"
        if job.state is State.SUCCEEDED:
            yield Cause(f"It succeeded{when}.")
        else:
            see = "logs" if job.attempt else "show"  # what never ran has no log
            yield Cause(f"It {_ended(job.state)}{when}: {job.reason}", f"mistudio jobs {see} {job.id}")
            yield Cause(_retried(around.parents), f"mistudio jobs retry {job.id}")


def _retried(parents: Sequence[Job]) -> str:
    """What a retry runs: it is a fix only where the reason was not in the parameters."""
    lost = [job.name for job in parents if job.artifacts and job.state in (State.FAILED, State.CANCELLED)]
    first = f", after another try of {' and '.join(lost)}" if lost else ""
    return f"A retry runs it with the same parameters{first}."


def _ended(state: State) -> str:
    return "was cancelled" if state is State.CANCELLED else str(state)


def _waiting(around: Around) -> Iterator[Cause]:
    if all(parent.state.ended for parent in around.parents):
        yield Cause("Its parents have ended: it will be queued in a moment.")
    for parent in around.parents:
        if not parent.state.ended:
            sentence = f"It waits for {parent.id} ({parent.kind} {parent.name}), which is {parent.state}."
            yield Cause(sentence, f"mistudio jobs explain {parent.id}")


def _queued(job: Job, around: Around) -> Iterator[Cause]:
    if around.count.paused_at is not None:
        since = duration(around.now - around.count.paused_at)
        yield Cause(f"Its queue {job.queue} has been paused for {since}.", f"mistudio queue resume {job.queue}")
    for worker in around.refused:
        yield Cause(f"{worker.name} does not consume: {worker.refused}.", "mistudio workers status")
    over_quota = list(_over_quota(job, around))
    yield from over_quota
    if around.workers and not around.able:
        yield from of_other_versions(job, around.workers)
    elif around.able and not over_quota:
        yield from _busy(job.queue, around)
    elif not around.workers and around.silent:
        yield from _silent(around)
    elif not around.workers and not around.refused:
        yield Cause(f"No worker consumes its queue {job.queue}.", consumer_command([job.queue], around.rows))
    turn = list(_turn(job, around))
    yield from turn
    if around.place:
        before = "1 job comes" if around.place == 1 else f"{around.place} jobs come"
        yield Cause(f"{before} before it in its queue.", f"mistudio queue peek {job.queue}")
    elif around.place == 0 and around.able and around.count.paused_at is None and not (over_quota or turn):
        yield Cause("It is the next of its queue.", f"mistudio queue peek {job.queue}")


def _silent(around: Around) -> Iterator[Cause]:
    """Workers that have the queue and do not consume: starting others of the same profile would change nothing."""
    for worker in around.silent:
        age = duration(around.now - worker.consumed_at)
        yield Cause(f"{worker.name} has not consumed its queue for {age}.", f"mistudio workers logs {worker.name}")


def _turn(job: Job, around: Around) -> Iterator[Cause]:
    """Which other owners have a turn before the job's own."""
    running = Counter(other.owner or "" for other in around.running if other.queue == job.queue)
    own = running[job.owner or ""]
    first = [owner for owner in around.owners if owner != (job.owner or "") and running[owner] < own]
    if first:
        counts = ", ".join(f"{owner or 'jobs without an owner'} {running[owner]}" for owner in first[:_NAMED])
        sentence = f"Owners take turns in {job.queue}: its owner {job.owner or UNKNOWN} has {own} running, {counts}."
        yield Cause(sentence, f"mistudio queue peek {job.queue} --wide")


def _over_quota(job: Job, around: Around) -> Iterator[Cause]:
    """What of its owner's quota is used up, and by which jobs."""
    if around.quota is None:
        return
    on_gpus = [other for other in around.of_owner if other.holds_gpu]
    limits = [("running", around.quota.running, around.of_owner)]
    limits += [("gpus", around.quota.gpus, on_gpus)] if job.may_use_gpu else []
    for what, limit, users in limits:
        if limit is not None and len(users) >= limit:
            by = f": {_some(users)}" if users else ""
            yield Cause(
                f"The quota of its owner {job.owner} is used up ({what} {limit}){by}.", "mistudio fleet quota ls"
            )


def _busy(queue: str, around: Around) -> Iterator[Cause]:
    names = {worker.name for worker in around.able}
    slots, holders = sum(worker.slots for worker in around.able), [j for j in around.running if j.worker in names]
    most = sum(share(queue, worker.queues, worker.slots) for worker in around.able)
    own = [holder for holder in holders if holder.queue == queue]
    if len(holders) >= slots:
        yield Cause(f"Its workers' slots ({slots}) are all busy: {_some(holders)}.", "mistudio workers status")
    elif len(own) >= most:
        at_a_time = "1 job" if most == 1 else f"{most} jobs"
        yield Cause(f"Its workers run {at_a_time} of {queue} at a time: {_some(own)}.", "mistudio queue ls")
    elif around.count.paused_at is None:
        free = min(slots - len(holders), most - len(own))
        yield Cause(f"Its workers could run {count_of(free)} of {queue} now: it starts in a moment.")


def _running(job: Job, around: Around) -> Iterator[Cause]:
    since = "" if job.started_at is None else f" for {duration(around.now - job.started_at)}"
    where = f" on {job.device}" if job.device else ""
    progress = job.progress
    if progress is None:
        doing = "it has not reported progress yet"
    elif progress.total is None:
        doing = progress.phase
    else:
        doing = f"{progress.phase}: {progress.done:,} of {progress.total:,} {progress.unit}".rstrip()
    yield Cause(f"{job.worker} has been running it{since}{where}; {doing}.", f"mistudio jobs logs {job.id} -f")
    if job.cancel_requested:
        yield Cause("It is stopping, within its grace period.", f"mistudio jobs wait {job.id}")


def _of_the_past(job: Job, around: Around) -> Iterator[Cause]:
    if around.put_back:
        times = "once" if len(around.put_back) == 1 else f"{len(around.put_back)} times"
        yield Cause(f"It went back to its queue {times}, the last time because {around.put_back[-1]}.")
    if job.retry_of:
        yield Cause(f"It is another try of {job.retry_of}.", f"mistudio jobs explain {job.retry_of}")


def _reasons_it_was_put_back_for(ledger: Ledger, job: Job) -> list[str]:
    """Of each change from running to queued."""
    events = ledger.events(job.id)
    return [
        after["reason"]
        for before, after in pairwise(events)
        if (before["state"], after["state"]) == ("running", "queued")
    ]


def _some(jobs: Sequence[Job]) -> str:
    named = ", ".join(f"{job.id} ({job.kind} {job.name})" for job in jobs[:_NAMED])
    return named if len(jobs) <= _NAMED else f"{named} and {len(jobs) - _NAMED} more"
