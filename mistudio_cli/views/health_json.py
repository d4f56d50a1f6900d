"""The health report of REST: the seed's fields, the causes of its warnings, and None for what could not be read."""

from __future__ import annotations

from typing import Any

from mistudio_cli.errors import Trouble
from mistudio_cli.monitor.health.causes import Health, HealthCause, health_of
from mistudio_cli.monitor.snapshot import Snapshot
from mistudio_cli.views import json_shapes


def report(seen: Snapshot) -> dict[str, Any]:
    """What `/health` answers of everything that a collector has read. `errors` only where a part could not be."""
    found, rows = health_of(seen), seen.queues
    is_unread = rows is None or any(trouble.part == "ledger" for trouble in seen.errors)
    status = "critical" if is_unread else found.status
    warned = {cause.queue for cause in found.causes if cause.code not in _OF_A_JOB}
    queues = (
        None
        if is_unread
        else {
            row.name: {"pending": row.pending, "status": "warning" if row.name in warned else "ok"}
            for row in rows or ()
        }
    )
    return {
        "status": status,
        "workers_connected": None if is_unread else seen.consuming,
        "total_queued": None if is_unread else sum(row.pending for row in rows or ()),
        "total_active": None if is_unread else sum(row.running for row in rows or ()),
        "queues": queues,
        **_why(found),
        **({"errors": json_shapes.errors(seen.errors)} if seen.errors else {}),
    }


def unreadable(reason: str) -> dict[str, Any]:
    """What it answers when the ledger cannot be read, for that reason."""
    return report(Snapshot(errors=(Trouble("ledger", reason),)))


#: Of a job that runs, which is no fault of its queue.
_OF_A_JOB = ("no_progress",)


def _why(found: Health) -> dict[str, Any]:
    """Where no worker is there at all, each of the queues says so too: the seed's warnings are those of queues."""
    shown = [cause for cause in found.causes if cause.code != "no_workers"]
    return {"warnings": [cause.sentence for cause in shown], "causes": [_cause(cause) for cause in found.causes]}


def _cause(cause: HealthCause) -> dict[str, Any]:
    return {
        "code": cause.code,
        "sentence": cause.sentence,
        "command": cause.command,
        "queue": cause.queue,
        "worker": cause.worker,
        "since": json_shapes.time(cause.since),
    }
