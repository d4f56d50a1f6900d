"""Queues: list, peek, pause and resume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mistudio_cli.jobs import job_actions
from mistudio_cli.monitor.queue_rows import consuming, queue_rows
from mistudio_cli.monitor.snapshot import Snapshot
from mistudio_cli.rest.problem import Problem
from mistudio_cli.rest.route import Answer, Call, param
from mistudio_cli.views import json_shapes
from tasks.ledger.client import Ledger
from tasks.queues import QUEUE_NAMES


@dataclass(frozen=True)
class OneQueue:
    """A queue by its name."""

    name: str = param(help="A queue's name", choices=QUEUE_NAMES, in_path=True)


@dataclass(frozen=True)
class Peek:
    """How much of a queue is shown."""

    name: str = param(help="A queue's name", choices=QUEUE_NAMES, in_path=True)
    limit: int = param(20, help="Maximum number of jobs", minimum=1, maximum=10_000)


async def list_queues(call: Call) -> Answer:
    """`GET /api/v1/queues`."""
    seen = await call.services.overview()
    rows = queue_rows(seen, consuming(seen.heartbeats, seen.read_at))
    return Answer(json_shapes.queues(Snapshot(read_at=seen.read_at, queues=rows)))


async def peek(call: Call) -> Answer:
    """`GET /api/v1/queues/{name}/jobs`."""
    name, limit = _known(call.params.name), call.params.limit

    def read(ledger: Ledger) -> dict[str, Any]:
        jobs = [job for job in ledger.many(ledger.queues.order(name, limit)) if job]
        now = ledger.now()
        return json_shapes.peek(now, name, ledger.queues.counts(now)[name].pending, jobs)

    return Answer(await call.services.read(read))


async def pause(call: Call) -> Answer:
    """`POST /api/v1/queues/{name}/pause`."""
    name = _known(call.params.name)
    sentence = await call.services.change(lambda ledger: job_actions.pause_queue(ledger, name))
    return Answer({"queue": name, "paused": True, "message": sentence})


async def resume(call: Call) -> Answer:
    """`POST /api/v1/queues/{name}/resume`."""
    name = _known(call.params.name)
    sentence = await call.services.change(lambda ledger: job_actions.resume_queue(ledger, name))
    return Answer({"queue": name, "paused": False, "message": sentence})


def _known(name: str) -> str:
    if name not in QUEUE_NAMES:
        raise Problem(404, f"There is no queue {name[:40]!r}. Queues: {', '.join(QUEUE_NAMES)}")
    return name
