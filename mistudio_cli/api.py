"""The REST interface: the seed's four endpoints and the hosts, read from the ledger. It never shows arguments of tasks.

All requests share one reader of the ledger. When Redis cannot be reached, or does not answer, the answer is 503 with
the reason within the setting read_patience, never zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mistudio_cli.error_messages import unread_ledger
from mistudio_cli.monitor.collector.shared_ledger import SharedLedger
from mistudio_cli.monitor.hosts import fleet_in
from mistudio_cli.monitor.queue_rows import consuming
from mistudio_cli.views import host_json, json_shapes
from mistudio_cli.views.health_json import of_overview as health
from mistudio_cli.views.health_json import unreadable as no_health
from tasks.errors import UserError
from tasks.jobs.kind import Job
from tasks.ledger.client import Ledger
from tasks.ledger.overview import Overview, Wanted
from tasks.redis_client.redis_connection import Refused, Unreachable

PREFIX = "/api/v1/workers"
HEALTH = f"{PREFIX}/health"

#: Where the token lies that requests must bear, unless another variable is named.
TOKEN_VARIABLE = "MISTUDIO_API_TOKEN"  # noqa: S105 - a variable's name

REDACTED = "[redacted]"

#: Names under which a browser may ask a server on the loopback: another name is another site's page asking.
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")

_MOST_ACTIVE = 10_000


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
    busy = [worker for worker, _ in seen.holders]
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
        for heartbeat in consuming(seen.heartbeats, seen.read_at)
    }


def hosts(seen: Overview) -> dict[str, Any]:
    """The hosts with their workers and their GPUs, as `hosts ls --json`."""
    return host_json.hosts(fleet_in(seen))


#: What each path answers; the seed's four first.
ENDPOINTS: dict[str, Callable[[Overview], dict[str, Any]]] = {
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

    ledger = SharedLedger(open_ledger, Wanted(running=_MOST_ACTIVE))

    def route(path: str, shape: Callable[[Overview], dict[str, Any]]) -> Route:
        def endpoint(request: Request) -> JSONResponse:
            if token is not None and not _bears(request.headers.get("authorization", ""), token):
                return JSONResponse({"error": "A token is needed: Authorization: Bearer TOKEN"}, 401, _CHALLENGE)
            status, body = _answer(path, shape, ledger)
            return JSONResponse(body, status)

        return Route(path, endpoint)

    def refuse(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    def fail(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": f"Internal error: {type(error).__name__}"}, 500)

    return Starlette(
        routes=[route(path, shape) for path, shape in ENDPOINTS.items()],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts))],
        exception_handlers={HTTPException: refuse, Exception: fail},
    )


_CHALLENGE = {"WWW-Authenticate": "Bearer"}


def _answer(path: str, shape: Callable[[Overview], dict[str, Any]], ledger: SharedLedger) -> tuple[int, dict[str, Any]]:
    try:
        return 200, shape(ledger.overview())
    except (Unreachable, Refused, UserError) as error:
        reason = unread_ledger(error).message
        return 503, no_health(reason) if path == HEALTH else {"error": reason}


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
