"""Celery workers as they say themselves, next to what the ledger knows of them: whose are foreign, and who is mute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mistudio_cli.errors import NotFound
from tasks.fleet.celery_inspect import WAIT_S, Replies, ask
from tasks.ledger import overview
from tasks.ledger.overview import Overview
from tasks.ledger.worker_heartbeat import HEARTBEAT_TTL_S, WorkerHeartbeat
from tasks.redis_client.redis_connection import Client

#: How many running jobs are compared with what their workers reply.
_MOST_JOBS = 1000


@dataclass(frozen=True)
class CeleryWorker:
    """One worker and its replies by topic. `foreign`: it is none of mistudio's. `mute`: it heartbeats only.

    `queues` and `jobs` are those that it consumes and runs by the ledger, read just before it was asked.
    """

    name: str
    foreign: bool = False
    mute: bool = False
    replies: Mapping[str, Any] = field(default_factory=dict)
    queues: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()


@dataclass(frozen=True)
class CeleryWorkers:
    """All workers, by name, at `read_at` by the server's clock.

    `receivers` are the workers that received the question; `unnamed` how many of them neither replied nor heartbeat.
    """

    read_at: float
    receivers: int
    unnamed: int
    workers: tuple[CeleryWorker, ...]


def inspect(client: Client, topics: Sequence[str], name: str | None = None) -> CeleryWorkers:
    """What workers reply, or the one of that name. The client's timeout must be longer than WAIT_S.

    NotFound for a name that is no worker's; Unreachable or Refused.
    """
    seen = overview.read(client, overview.Wanted(running=_MOST_JOBS))
    return joined(ask(client, topics, [name] if name else (), WAIT_S), seen, name)


def joined(replies: Replies, seen: Overview, name: str | None = None) -> CeleryWorkers:
    """The replies next to the heartbeats. NotFound where only `name` was asked, which neither replied nor lives."""
    ours = {heartbeat.name: heartbeat for heartbeat in sorted(seen.heartbeats, key=lambda each: each.seen_at)}
    mute = [
        heartbeat.name
        for heartbeat in ours.values()
        if _is_live(heartbeat, seen.read_at) and heartbeat.name not in replies.by_worker
    ]
    if name is not None:
        mute = [each for each in mute if each == name]
        if not mute and name not in replies.by_worker:
            raise NotFound(f"No worker {name} replies or heartbeats.", "Workers: mistudio workers inspect")
    rows = [
        *(_row(each, ours.get(each), seen, replies=reply) for each, reply in replies.by_worker.items()),
        *(_row(each, ours[each], seen, mute=True) for each in mute),
    ]
    unnamed = 0 if name is not None else max(0, replies.receivers - len(rows))
    return CeleryWorkers(seen.read_at, replies.receivers, unnamed, tuple(sorted(rows, key=lambda row: row.name)))


def _row(name: str, heartbeat: WorkerHeartbeat | None, seen: Overview, **more: Any) -> CeleryWorker:
    if heartbeat is None:
        return CeleryWorker(name, foreign=True, **more)
    jobs = [job.id for job in seen.running if (job.worker, job.worker_pid) == (name, heartbeat.pid)]
    return CeleryWorker(name, queues=heartbeat.queues, jobs=tuple(jobs), **more)


def _is_live(heartbeat: WorkerHeartbeat, now: float) -> bool:
    return abs(now - heartbeat.seen_at) <= HEARTBEAT_TTL_S
