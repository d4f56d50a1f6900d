"""The job ledger in Redis: the only place a job's record is read or changed.

A message on a queue is only a doorbell; what a job is and where it stands is its record here. Every change of state is
one atomic step of `ledger.lua`; a running job is held by a lease, and the lease alone says that it lives.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from tasks.job import Job, Progress, State
from tasks.problem import Problem
from tasks.queues import QUEUE_NAMES, redis_lists
from tasks.wire import Client, Refused

PREFIX = "mistudio:"
SCHEMA = 1

#: A lease lives this long without being renewed, and is renewed this often.
LEASE_TTL_S = 15.0
LEASE_RENEW_S = 1.0

#: A worker that has not been heard of for this long does not count as a consumer.
BEAT_TTL_S = 10.0

_PAGE_SCAN = 200
_JSON_FIELDS = ("params", "parents", "tags", "progress", "result", "error")
_NUMBERS = ("priority", "attempt", "max_attempts", "worker_pid")
_TIMES = ("created_at", "queued_at", "started_at", "finished_at")


@dataclass(frozen=True)
class QueueCount:
    """How many jobs a queue holds, and since when its oldest queued one waits (server clock)."""

    pending: int
    running: int
    waiting: int
    oldest_queued_at: float | None


@dataclass(frozen=True)
class WorkerBeat:
    """What a worker last said of itself; `seen_at` is when it said it (server clock)."""

    name: str
    host: str
    pid: int
    queues: tuple[str, ...]
    slots: int
    started_at: float
    seen_at: float = 0.0


@dataclass(frozen=True)
class Page:
    """Some jobs, newest first, and where the next page starts."""

    jobs: tuple[Job, ...]
    next: str | None


@dataclass(frozen=True)
class Claim:
    """A job somebody holds: its record and the token that fences what they write."""

    job: Job
    token: str


class Ledger:
    """The records of all jobs behind one connection.

    `ring(jobs)` is called with jobs that have just become queued; without it their bells are left to the reconciler.
    Every method raises `wire.Unreachable` when Redis cannot be reached.
    """

    def __init__(self, client: Client, ring: Callable[[list[Job]], None] | None = None) -> None:
        self.client = client
        self._ring = ring

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self.client.close()

    # -- changes ------------------------------------------------------------------------------------------------

    def submit(self, job: Job, parents: Sequence[str] = ()) -> Job:
        """Write a new job's record. Problem when its artifact is being made or a parent cannot be waited for."""
        job = dataclasses.replace(job, parents=tuple(parents))
        fields = {name: value for name, value in _encode(job).items() if value != "" and name != "state"}
        status = self._change("submit", job.id, json.dumps(fields), json.dumps(list(parents)))
        if status.startswith("taken by "):
            maker = status.removeprefix("taken by ")
            raise Problem(
                f"{job.artifact} is being made by job {maker}.",
                f"Wait for it (mistudio jobs wait {maker}) or give --name",
            )
        if status != "ok":
            raise Problem(f"The job was not accepted: {status}.", "See: mistudio jobs ls")
        return self.need(job.id)

    def claim(self, job_id: str, worker: str, host: str, pid: int = 0) -> Claim | None:
        """Take a queued job for the worker with that name and pid, or None when it is not there to be taken."""
        token = secrets.token_hex(8)
        if self._change("claim", job_id, token, worker, host, pid, LEASE_TTL_S) != "ok":
            return None
        return Claim(self.need(job_id), token)

    def renew(self, claim: Claim) -> str:
        """Keep the lease: "ok", "cancel" when the job is to be cancelled, "lost" when it is another's now."""
        return self._change("renew", claim.job.id, claim.token, LEASE_TTL_S)

    def report(self, claim: Claim, progress: Progress) -> str:
        """Write how far the work is: "ok" or "lost"."""
        return self._change("progress", claim.job.id, claim.token, json.dumps(dataclasses.asdict(progress)))

    def lease_device(self, claim: Claim, devices: Sequence[int], slots: int) -> int | None:
        """One of `devices` (most free memory first) with fewer than `slots` jobs on it; None when all are taken."""
        status = self._change("lease_device", claim.job.id, claim.token, slots, *devices)
        return int(status.removeprefix("device ")) if status.startswith("device ") else None

    def use_device(self, claim: Claim, device: str) -> None:
        """Record a device that needs no lease."""
        self._change("use_device", claim.job.id, claim.token, device)

    def finish(
        self, claim: Claim, state: State, reason: str, result: dict | None = None, error: dict | None = None
    ) -> str:
        """End the job: "ok", or "lost" when it is another's now."""
        return self._change("finish", claim.job.id, claim.token, state, reason, _json(result), _json(error))

    def put_back(self, claim: Claim, reason: str, *, loss: bool) -> str:
        """Give a running job back to its queue; a `loss` counts against its attempts."""
        return self._change("put_back", claim.job.id, claim.token, reason, "1" if loss else "0")

    def request_cancel(self, job_id: str, reason: str = "cancelled by the user") -> Job:
        """Cancel a job that has not started at once, and ask a running one's worker to stop it."""
        if self._change("cancel", job_id, reason) == "unknown":
            raise _no_such_job(job_id)
        return self.need(job_id)

    def reap(self) -> None:
        """Put running jobs whose lease has run out back to their queues."""
        self._change("reap", "", LEASE_TTL_S)

    def ring(self, jobs: Sequence[Job]) -> None:
        """Ring for queued jobs, if this ledger has a bell, and record when."""
        if self._ring is None or not jobs:
            return
        self._ring(list(jobs))
        now = self.now()
        self._read([("HSET", f"{PREFIX}job:{job.id}", "rung_at", f"{now:.6f}") for job in jobs])

    def beat(self, worker: WorkerBeat) -> None:
        """Record that a worker lives."""
        told = dataclasses.asdict(dataclasses.replace(worker, seen_at=self.now()))
        self.client.call("HSET", f"{PREFIX}workers", worker.name, json.dumps(told))

    def forget_worker(self, name: str) -> None:
        """A worker has ended in good order."""
        self.client.call("HDEL", f"{PREFIX}workers", name)

    # -- reading ------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """The server's clock, seconds since the epoch."""
        seconds, micros = self.client.call("TIME")
        return int(seconds) + int(micros) / 1e6

    def get(self, job_id: str) -> Job | None:
        """The record of that job."""
        return self.many([job_id])[0]

    def need(self, job_id: str) -> Job:
        """The record of that job; Problem when there is none."""
        job = self.get(job_id)
        if job is None:
            raise _no_such_job(job_id)
        return job

    def many(self, job_ids: Sequence[str]) -> list[Job | None]:
        """The records of these jobs, in one round trip."""
        return [_decode(_pairs(reply)) for reply in self._read([("HGETALL", f"{PREFIX}job:{i}") for i in job_ids])]

    def page(
        self,
        states: Sequence[str] = (),
        kind: str | None = None,
        queue: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> Page:
        """The newest jobs that match, at most `limit`; `before` is the `next` of the page that came earlier."""
        found: list[Job] = []
        wanted, offset = set(states), int(before or 0)
        index = (
            f"state:{states[0]}"
            if len(states) == 1
            else f"queue:{queue}"
            if queue
            else f"kind:{kind}"
            if kind
            else "all"
        )
        while True:
            ids = self.client.call("ZREVRANGE", f"{PREFIX}by:{index}", offset, offset + _PAGE_SCAN - 1)
            for place, job in enumerate(self.many(ids), start=offset):
                if (
                    job
                    and (not wanted or job.state in wanted)
                    and kind in (None, job.kind)
                    and queue in (None, job.queue)
                ):
                    if len(found) == limit:
                        return Page(tuple(found), str(place))
                    found.append(job)
            offset += len(ids)
            if len(ids) < _PAGE_SCAN:
                return Page(tuple(found), None)

    def find(self, prefix: str) -> list[str]:
        """Ids of jobs that start with `prefix`, newest first."""
        ids = self.client.call("ZREVRANGE", f"{PREFIX}by:all", 0, -1)
        return [job_id for job_id in ids if job_id.startswith(prefix)]

    def queue_counts(self) -> dict[str, QueueCount]:
        """What each queue holds, in one round trip."""
        commands: list[tuple] = []
        for name in QUEUE_NAMES:
            commands += [("ZCARD", _by_queue(name, state)) for state in (State.QUEUED, State.RUNNING, State.WAITING)]
            commands.append(("ZRANGE", _by_queue(name, State.QUEUED), 0, 0, "WITHSCORES"))
        replies = iter(self._read(commands))
        return {name: _count(*(next(replies) for _ in range(4))) for name in QUEUE_NAMES}

    def messages(self, queue: str) -> int:
        """How many bells lie in a queue's Redis lists, over all priorities."""
        return sum(self._read([("LLEN", name) for name in redis_lists(queue)]))

    def queued(self, queue: str, limit: int) -> list[Job]:
        """The jobs that have been queued longest."""
        ids = self.client.call("ZRANGE", _by_queue(queue, State.QUEUED), 0, limit - 1)
        return [job for job in self.many(ids) if job]

    def rung_at(self, jobs: Sequence[Job]) -> list[float]:
        """When each job's bell was last rung; 0 is never."""
        return [
            float(reply or 0) for reply in self._read([("HGET", f"{PREFIX}job:{job.id}", "rung_at") for job in jobs])
        ]

    def workers(self, within_s: float = BEAT_TTL_S) -> list[WorkerBeat]:
        """Workers heard of in the last `within_s` seconds, by name."""
        reply, (seconds, _) = self._read([("HGETALL", f"{PREFIX}workers"), ("TIME",)])
        beats = [_beat(json.loads(told)) for told in _pairs(reply).values()]
        return sorted((b for b in beats if abs(int(seconds) - b.seen_at) <= within_s), key=lambda beat: beat.name)

    def busy_workers(self) -> set[str]:
        """Names, with their hosts, of the workers that run jobs."""
        ids = self.client.call("ZRANGE", f"{PREFIX}by:state:{State.RUNNING}", 0, -1)
        return set(self._read([("HGET", f"{PREFIX}job:{job_id}", "worker") for job_id in ids]))

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """Every change of a job's state: at, state, reason, attempt, worker; oldest first."""
        told = [json.loads(line) for line in self.client.call("LRANGE", f"{PREFIX}events:{job_id}", 0, -1)]
        return [{**event, "at": float(event["at"])} for event in told]

    def coming(self, artifact: str) -> str | None:
        """The id of the unfinished job that will make "family/name"."""
        return self.client.call("HGET", f"{PREFIX}coming", artifact)

    def live_jobs(self) -> set[str]:
        """Ids of all jobs that have not ended."""
        states = (State.WAITING, State.QUEUED, State.RUNNING)
        return {i for ids in self._read([("ZRANGE", f"{PREFIX}by:state:{s}", 0, -1) for s in states]) for i in ids}

    def _read(self, commands: list[tuple]) -> list[Any]:
        replies = self.client.batch(commands) if commands else []
        for reply in replies:
            if isinstance(reply, Refused):
                raise reply
        return replies

    def _change(self, operation: str, *arguments: object) -> str:
        status, *queued = _evaluate(self.client, operation, *arguments)
        if queued and self._ring:
            self.ring([job for job in self.many(queued) if job])
        return status


def new_job_id() -> str:
    """A fresh id that sorts by time: 9 digits of milliseconds in base 32, then 5 random ones."""
    digits = "0123456789abcdefghjkmnpqrstvwxyz"
    number = (int(time.time() * 1000) << 25) | secrets.randbits(25)
    return "".join(digits[(number >> shift) & 31] for shift in range(65, -1, -5))


@cache
def _script() -> str:
    return files("tasks").joinpath("ledger.lua").read_text(encoding="utf-8")


@cache
def _script_sha() -> str:
    import hashlib

    return hashlib.sha1(_script().encode(), usedforsecurity=False).hexdigest()


def _evaluate(client: Client, *arguments: object) -> list[str]:
    try:
        return client.call("EVALSHA", _script_sha(), 0, *arguments)
    except Refused as refusal:
        if "NOSCRIPT" not in str(refusal):
            raise
    return client.call("EVAL", _script(), 0, *arguments)


def _no_such_job(job_id: str) -> Problem:
    return Problem(f"There is no job {job_id}.", "See: mistudio jobs ls")


def _by_queue(queue: str, state: State) -> str:
    return f"{PREFIX}queue:{queue}:{state}"


def _count(queued: int, running: int, waiting: int, oldest: list[str]) -> QueueCount:
    return QueueCount(queued, running, waiting, float(oldest[1]) if oldest else None)


def _beat(told: dict[str, Any]) -> WorkerBeat:
    known = {field.name: told[field.name] for field in dataclasses.fields(WorkerBeat) if field.name in told}
    return WorkerBeat(**{**known, "queues": tuple(told["queues"])})  # a newer worker may tell more


def _pairs(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _json(value: Any) -> str:
    return "" if value is None else json.dumps(value)


def _encode(job: Job) -> dict[str, str]:
    told: dict[str, str] = {}
    for field in dataclasses.fields(job):
        value = getattr(job, field.name)
        if field.name in _JSON_FIELDS:
            told[field.name] = _json(value)
        elif isinstance(value, bool):
            told[field.name] = "1" if value else ""
        else:
            told[field.name] = "" if value is None else str(value)
    return told


def _decode(told: dict[str, str]) -> Job | None:
    if not told:
        return None
    values: dict[str, Any] = {f.name: told[f.name] for f in dataclasses.fields(Job) if told.get(f.name)}
    values.update({name: json.loads(values[name]) for name in _JSON_FIELDS if name in values})
    values.update({name: float(values[name]) for name in _TIMES if name in values})
    values.update({name: int(values[name]) for name in _NUMBERS if name in values})
    if "progress" in values:
        values["progress"] = Progress(**values["progress"])
    values["parents"] = tuple(values.get("parents", ()))
    values["tags"] = tuple(values.get("tags", ()))
    values["state"] = State(values["state"])
    values["cancel_requested"] = told.get("cancel_requested") == "1"
    return Job(**values)
