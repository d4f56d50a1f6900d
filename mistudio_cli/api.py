"""The REST interface: the seed's four endpoints and the hosts, read from the ledger. It never shows arguments of tasks.

Each request reads the ledger on a connection of its own. When Redis cannot be reached the answer is 503 with a reason,
never zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mistudio_cli.monitor.hosts import read_fleet
from mistudio_cli.monitor.snapshot import QueueRow, read_queues
from mistudio_cli.views import host_json, json_shapes
from tasks.errors import UserError
from tasks.jobs.kind import Job, State
from tasks.ledger.client import Ledger
from tasks.ledger.listing import Filter
from tasks.redis_client.redis_connection import Refused, Unreachable
from tasks.settings import current

PREFIX = "/api/v1/workers"
HEALTH = f"{PREFIX}/health"

#: Where the token lies that requests must bear, unless another variable is named.
TOKEN_VARIABLE = "MISTUDIO_API_TOKEN"  # noqa: S105 - a variable's name

REDACTED = "[redacted]"

#: Names under which a browser may ask a server on the loopback: another name is another site's page asking.
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")

_MOST_ACTIVE = 10_000


def queues(ledger: Ledger) -> dict[str, int]:
    """Pending jobs of each queue."""
    return {name: count.pending for name, count in ledger.queues.counts().items()}


def active(ledger: Ledger) -> dict[str, list[dict[str, Any]]]:
    """The running jobs of each worker; a worker at rest has an empty list."""
    jobs_by_worker: dict[str, list[dict[str, Any]]] = {heartbeat.name: [] for heartbeat in ledger.workers()}
    for job in ledger.page(Filter(states=(State.RUNNING,)), _MOST_ACTIVE).jobs:
        jobs_by_worker.setdefault(job.worker or "?", []).append(_task(job))
    return jobs_by_worker


def stats(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """What each worker says of itself."""
    busy = [worker for worker, _ in ledger.holders()]
    return {
        heartbeat.name: {
            "queues": list(heartbeat.queues),
            "slots": heartbeat.slots,
            "busy": busy.count(heartbeat.name),
            "host": heartbeat.host,
            "pid": heartbeat.pid,
            "started_at": json_shapes.time(heartbeat.started_at),
            "seen_at": json_shapes.time(heartbeat.seen_at),
        }
        for heartbeat in ledger.workers()
    }


def health(ledger: Ledger) -> dict[str, Any]:
    """The seed's health report: "healthy", "warning", or "critical" when jobs wait and no worker is there at all."""
    rows, connected = read_queues(ledger).queues or (), len(ledger.workers())
    troubles = {row.name: trouble for row in rows if (trouble := _trouble(row))}
    pending = sum(row.pending for row in rows)
    status = "critical" if pending and not connected else "warning" if troubles else "healthy"
    return {
        "status": status,
        "workers_connected": connected,
        "total_queued": pending,
        "total_active": sum(row.running for row in rows),
        "queues": {
            row.name: {"pending": row.pending, "status": "warning" if row.name in troubles else "ok"} for row in rows
        },
        "warnings": list(troubles.values()),
    }


def no_health(reason: str) -> dict[str, Any]:
    """The health report when nothing can be read."""
    unknown = ("workers_connected", "total_queued", "total_active", "queues")
    return {"status": "critical", **dict.fromkeys(unknown), "warnings": [reason]}


def hosts(ledger: Ledger) -> dict[str, Any]:
    """The hosts with their workers and their GPUs, as `hosts ls --json`."""
    return host_json.hosts(read_fleet(ledger))


#: What each path answers; the seed's four first.
ENDPOINTS: dict[str, Callable[[Ledger], dict[str, Any]]] = {
    f"{PREFIX}/queues": queues,
    f"{PREFIX}/active": active,
    f"{PREFIX}/stats": stats,
    HEALTH: health,
    "/api/v1/hosts": hosts,
}


def make_app(open_ledger: Callable[[], Ledger], token: str | None, allowed_hosts: Sequence[str] = ("*",)) -> Any:
    """The ASGI application; with a token each request must carry it as a bearer."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    def route(path: str, read: Callable[[Ledger], dict[str, Any]]) -> Route:
        def endpoint(request: Request) -> JSONResponse:
            if token is not None and not _bears(request.headers.get("authorization", ""), token):
                return JSONResponse({"error": "A token is needed: Authorization: Bearer TOKEN"}, 401, _CHALLENGE)
            status, body = _answer(path, read, open_ledger)
            return JSONResponse(body, status)

        return Route(path, endpoint)

    def refuse(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    def fail(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": f"Internal error: {type(error).__name__}"}, 500)

    return Starlette(
        routes=[route(path, read) for path, read in ENDPOINTS.items()],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts))],
        exception_handlers={HTTPException: refuse, Exception: fail},
    )


_CHALLENGE = {"WWW-Authenticate": "Bearer"}


def _answer(
    path: str, read: Callable[[Ledger], dict[str, Any]], open_ledger: Callable[[], Ledger]
) -> tuple[int, dict[str, Any]]:
    ledger = open_ledger()
    try:
        return 200, read(ledger)
    except (Unreachable, Refused) as error:
        reason = f"Redis cannot be read: {error}"
        return 503, no_health(reason) if path == HEALTH else {"error": reason}
    except UserError as problem:  # records of a newer mistudio
        return 503, no_health(str(problem)) if path == HEALTH else {"error": str(problem)}
    finally:
        ledger.client.close()


def _bears(header: str, token: str) -> bool:
    import hmac

    return hmac.compare_digest(header.encode(), f"Bearer {token}".encode())


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
    }


def _trouble(row: QueueRow) -> str | None:
    if row.pending and not row.consumers:
        return f"Queue '{row.name}' has {row.pending} pending and no worker"
    if row.pending > current("backlog_threshold"):
        return f"Queue '{row.name}' has a backlog of {row.pending}"
    return None
