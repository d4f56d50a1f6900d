"""Jobs that wait, in the order in which they will start: by queue as the ledger serves it, then over all queues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tasks.jobs.record import Job, State
from tasks.queues import QUEUE_NAMES

if TYPE_CHECKING:
    from mistudio_cli.monitor.snapshot import QueueRow
    from mistudio_cli.top.reading import Parts


def waiting_jobs(parts: Parts) -> list[Job]:
    """Queued jobs over all queues, the first to start first, then those that wait for other jobs.

    Where the order could not be read it is that of priority, queue and age, as workers serve.
    """
    rows = {row.name: row for row in parts.queues.value or ()}
    known = [job for job in parts.jobs.value or () if job.state in (State.QUEUED, State.WAITING)]
    by_queue = parts.waiting.value if parts.waiting.value is not None else _by_queue(known)
    listed = {job.id for jobs in by_queue.values() for job in jobs}
    started = {job.id for job in parts.jobs.value or () if job.state not in (State.QUEUED, State.WAITING)}
    heads = {name: [job for job in jobs if job.id not in started] for name, jobs in by_queue.items()}
    blocked = [job for job in known if job.state is State.WAITING]
    queued = [job for job in known if job.state is State.QUEUED and job.id not in listed]
    return [*_merged(heads, rows), *sorted(queued, key=_turn), *sorted(blocked, key=_turn)]


def _by_queue(jobs: Sequence[Job]) -> Mapping[str, Sequence[Job]]:
    queued = sorted((job for job in jobs if job.state is State.QUEUED), key=_turn)
    return {name: [job for job in queued if job.queue == name] for name in {job.queue: None for job in queued}}


def _merged(heads: Mapping[str, Sequence[Job]], rows: Mapping[str, QueueRow]) -> list[Job]:
    """The queues' orders made one, each kept; those of queues that nobody serves now come last."""
    at, merged = dict.fromkeys(heads, 0), []
    while left := [name for name, number in at.items() if number < len(heads[name])]:
        name = min(left, key=lambda name: (name in rows and rows[name].state != "ok", _turn(heads[name][at[name]])))
        merged.append(heads[name][at[name]])
        at[name] += 1
    return merged


def _turn(job: Job) -> tuple[int, int, float, str]:
    rank = QUEUE_NAMES.index(job.queue) if job.queue in QUEUE_NAMES else len(QUEUE_NAMES)
    return -job.priority, rank, job.queued_at or job.created_at or 0.0, job.id
