"""The four endpoints of the first version: queues, active, stats and health. Arguments of tasks are never shown."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mistudio_cli.error_messages import unread_ledger
from mistudio_cli.monitor.queue_rows import consuming
from mistudio_cli.rest.route import Answer, Call
from mistudio_cli.views import health_json, json_shapes
from tasks.errors import UserError
from tasks.jobs.record import Job
from tasks.ledger.overview import Overview
from tasks.redis_client.redis_connection import Refused, Unreachable

REDACTED = "[redacted]"


async def get_queues(call: Call) -> Answer:
    """`GET /api/v1/workers/queues`."""
    return Answer(queues(await call.services.overview()))


async def get_active(call: Call) -> Answer:
    """`GET /api/v1/workers/active`."""
    return Answer(active(await call.services.overview()))


async def get_stats(call: Call) -> Answer:
    """`GET /api/v1/workers/stats`."""
    return Answer(stats(await call.services.overview()))


async def get_health(call: Call) -> Answer:
    """`GET /api/v1/workers/health`; when nothing can be read, 503 in the same shape."""
    try:
        return Answer(await call.services.health())
    except (Unreachable, Refused, UserError) as error:
        return Answer(health_json.unreadable(unread_ledger(error).message), 503, {"retry-after": "1"})


def queues(seen: Overview) -> dict[str, int]:
    """Pending jobs of each queue."""
    return {name: count.pending for name, count in seen.counts.items()}


def active(seen: Overview) -> dict[str, list[dict[str, Any]]]:
    """The running jobs of each worker; a worker at rest has an empty list."""
    jobs_by_worker: dict[str, list[dict[str, Any]]] = {
        heartbeat.name: [] for heartbeat in consuming(seen.heartbeats, seen.read_at)
    }
    for job in seen.running:
        jobs_by_worker.setdefault(job.worker or "?", []).append(_task(job))
    return jobs_by_worker


def stats(seen: Overview) -> dict[str, dict[str, Any]]:
    """What each worker says of itself."""
    busy = Counter(name for name, _ in seen.holders)  # an older process of a worker may still finish some
    return {
        heartbeat.name: {
            "queues": list(heartbeat.queues),
            "slots": heartbeat.slots,
            "busy": busy[heartbeat.name],
            "host": heartbeat.host,
            "pid": heartbeat.pid,
            "started_at": json_shapes.time(heartbeat.started_at),
            "seen_at": json_shapes.time(heartbeat.seen_at),
        }
        for heartbeat in consuming(seen.heartbeats, seen.read_at)
    }


def _task(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "name": f"mistudio.{job.kind}",
        "kind": job.kind,
        "queue": job.queue,
        "args": REDACTED,
        "started_at": json_shapes.time(job.started_at),
        "progress": json_shapes.job(job)["progress"],
        "priority": job.priority,
        "attempt": job.attempt,
        "artifact": job.artifact,
        "artifacts": list(job.artifacts),
        "device": job.device,
        "metrics": job.metrics,
        "rate": None if job.progress is None else job.progress.rate,
        "left_s": None if job.left_s is None else round(job.left_s, 1),
        "job_name": job.name,
    }
