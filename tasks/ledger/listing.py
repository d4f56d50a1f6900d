"""Lists of jobs: chooses an index and pages through it.

A page ends at a job, not at a number, so jobs that come or go between two pages neither repeat nor hide others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.jobs.record import Job
from tasks.ledger.records import decode
from tasks.redis_client.redis_connection import Client

_SCAN = 200


@dataclass(frozen=True)
class Filter:
    """Which jobs are meant; what is not given lets all pass, and of several words any fits.

    Times are of submission, seconds since the epoch.
    """

    states: tuple[str, ...] = ()
    kind: str | tuple[str, ...] | None = None
    queue: str | tuple[str, ...] | None = None
    name: str | tuple[str, ...] | None = None
    tag: str | tuple[str, ...] | None = None
    since: float | None = None
    until: float | None = None
    owner: str | tuple[str, ...] | None = None

    def accepts(self, job: Job) -> bool:
        """Whether a job matches, as far as its record shows; the index handles the times."""
        return (
            (not self.states or job.state in self.states)
            and _fits(self.kind, job.kind)
            and _fits(self.queue, job.queue)
            and _fits(self.name, job.name)
            and _fits(self.tag, *job.tags)
            and _fits(self.owner, job.owner or "")
        )

    @property
    def indexes(self) -> list[str]:
        """Every index that holds all the jobs meant."""
        values = {"kind": self.kind, "queue": self.queue, "name": self.name, "tag": self.tag, "owner": self.owner}
        found = [f"{what}:{words[0]}" for what, wanted in values.items() if len(words := _words(wanted)) == 1]
        if len(self.states) == 1:
            found.append(f"state:{self.states[0]}")
        return found or ["all"]


def _words(wanted: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (wanted,) if isinstance(wanted, str) else wanted or ()


def _fits(wanted: str | tuple[str, ...] | None, *has: str) -> bool:
    words = _words(wanted)
    return not words or not set(words).isdisjoint(has)


@dataclass(frozen=True)
class Page:
    """Some jobs, newest first, and where the next page starts."""

    jobs: tuple[Job, ...]
    next: str | None


def page(client: Client, wanted: Filter, limit: int, after: str | None) -> Page:
    """The newest jobs that are meant, at most `limit`; `after` is the `next` of the page that came earlier.

    ValueError when `after` is no such word.
    """
    found: list[tuple[float, Job]] = []
    for submitted_at, job in _newest_first(client, wanted, after):
        if len(found) == limit:
            last_at, last = found[-1]
            return Page(tuple(job for _, job in found), f"{last_at:.6f}-{last.id}")
        found.append((submitted_at, job))
    return Page(tuple(job for _, job in found), None)


def _newest_first(client: Client, wanted: Filter, after: str | None) -> Iterator[tuple[float, Job]]:
    index = client.key(f"by:{_smallest(client, wanted.indexes)}")
    oldest = "-inf" if wanted.since is None else wanted.since
    newest: float | str = "+inf" if wanted.until is None else wanted.until
    seen = ""
    if after is not None:
        last_at, _, seen = after.partition("-")
        newest = float(last_at)
    while True:
        reply = client.call("ZREVRANGEBYSCORE", index, newest, oldest, "WITHSCORES", "LIMIT", 0, _SCAN)
        ids, times = reply[::2], [float(time) for time in reply[1::2]]
        for job_id, time, job in zip(ids, times, records(client, ids), strict=True):
            if job_id != seen and job and wanted.accepts(job):
                yield time, job
        if len(ids) < _SCAN:
            return
        newest, seen = times[-1], ids[-1]  # no two jobs are submitted at the same microsecond


def records(client: Client, job_ids: Sequence[str]) -> list[Job | None]:
    """The records of these jobs, in one round trip; None for one that is not there."""
    replies = client.batch([("HGETALL", client.key(f"job:{job_id}")) for job_id in job_ids]) if job_ids else []
    return [decode(_sound(reply)) for reply in replies]


def children(client: Client, job_ids: Sequence[str]) -> list[list[Job]]:
    """For each of these jobs those that wait or waited for it, in the order of submission; in two round trips."""
    commands = [("ZRANGE", client.key(f"by:parent:{job_id}"), 0, -1) for job_id in job_ids]
    ids = [_sound(reply) for reply in client.batch(commands)] if commands else []
    found = iter(records(client, [child for of_one in ids for child in of_one]))
    return [[job for job in itertools.islice(found, len(of_one)) if job] for of_one in ids]


def other_tries(client: Client, job_ids: Sequence[str]) -> list[Job | None]:
    """For each of these jobs the newest that tries it again, whatever became of it; in two round trips."""
    commands = [("ZREVRANGE", client.key(f"by:retry_of:{job_id}"), 0, 0) for job_id in job_ids]
    newest = [next(iter(_sound(reply)), None) for reply in client.batch(commands)] if commands else []
    found = iter(records(client, [job_id for job_id in newest if job_id]))
    return [next(found) if job_id else None for job_id in newest]


def _sound(reply: list[str] | Exception) -> list[str]:
    if isinstance(reply, Exception):
        raise reply
    return reply


def _smallest(client: Client, indexes: list[str]) -> str:
    if len(indexes) == 1:
        return indexes[0]
    sizes = client.batch([("ZCARD", client.key(f"by:{index}")) for index in indexes])
    return min(zip(sizes, indexes, strict=True))[1]
