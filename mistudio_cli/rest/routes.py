"""The table of routes."""

from __future__ import annotations

from typing import Any

from mistudio_cli.rest import results
from mistudio_cli.rest.handlers import jobs, queues, server, workers
from mistudio_cli.rest.route import API as API
from mistudio_cli.rest.route import EVENT_STREAM, Access, Route
from mistudio_cli.rest.route_groups.job_kinds import JOB_KINDS
from mistudio_cli.rest.route_groups.machines import MACHINES
from mistudio_cli.rest.route_groups.store import STORE

PREFIX = f"{API}/workers"
HEALTH = f"{PREFIX}/health"

_ID = "01kg9t2v8ch7mq"
_AT = "2026-01-31T12:00:00.000Z"
_RECEIPT = {"id": _ID, "kind": "train", "queue": "training", "state": "queued", "name": "gpt2-6-topk"}
_PROGRESS = {"phase": "training", "done": 450, "total": 1000, "unit": "steps"}
_JOB: dict[str, Any] = {
    "id": _ID,
    "kind": "train",
    "name": "gpt2-6-topk",
    "queue": "training",
    "state": "running",
    "reason": "claimed",
    "attempt": 1,
    "progress": _PROGRESS,
    "created_at": _AT,
    "started_at": _AT,
    "finished_at": None,
    "worker": "worker-training@lab",
    "device": "cuda:0",
    "error": None,
    "metrics": {"loss": 0.02},
    "eta_s": 110.0,
    "owner": "alice",
}
_IN_FULL: dict[str, Any] = {
    **_JOB,
    "priority": 5,
    "max_attempts": 3,
    "parents": [],
    "tags": [],
    "retry_of": None,
    "gpu": "any",
    "limits": {"soft_s": None, "hard_s": None, "stall_s": 600.0},
    "params": {"model": "gpt2"},
    "artifact": "saes/gpt2-6-topk",
    "path": None,
    "result": None,
    "rate": 5.0,
    "cancel_requested": False,
    "queued_at": _AT,
    "events": [],
    "from_checkpoint": None,
    "parent_jobs": [],
    "children": [],
    "lease": None,
    "series": {"at": [450], "loss": [0.02]},
    "artifacts": ["saes/gpt2-6-topk"],
}
_ACTIVE: dict[str, Any] = {
    "id": _ID,
    "name": "mistudio.train",
    "kind": "train",
    "queue": "training",
    "args": "[redacted]",
    "started_at": _AT,
    "progress": _PROGRESS,
    "priority": 5,
    "attempt": 1,
    "artifact": "saes/gpt2-6-topk",
    "artifacts": ["saes/gpt2-6-topk"],
    "device": "cuda:0",
    "metrics": {"loss": 0.02},
    "rate": 5.0,
    "left_s": 110.0,
    "job_name": "gpt2-6-topk",
}
_STATS = {
    "queues": ["training"],
    "slots": 1,
    "busy": 1,
    "host": "lab",
    "pid": 4712,
    "started_at": _AT,
    "seen_at": _AT,
}
_HEALTH = {
    "status": "healthy",
    "workers_connected": 6,
    "total_queued": 1,
    "total_active": 1,
    "queues": {"training": {"pending": 1, "status": "ok"}},
    "warnings": [],
    "causes": [],
}
_QUEUE = {
    "name": "training",
    "state": "ok",
    "pending": 2,
    "running": 1,
    "oldest_age_s": 41.5,
    "consumers": 1,
    "slots": 1,
    "per_minute": [0.0, 0.2, 0.133],
    "eta_s": 600.0,
    "eta_unknown": None,
    "ended": {"succeeded": [0, 1, 2]},
}
_QUEUED = {
    "place": 0,
    "id": _ID,
    "kind": "train",
    "name": "gpt2-6-topk",
    "priority": 5,
    "queued_at": _AT,
    "tags": [],
    "owner": "alice",
}
_LINE = {"time": _AT, "level": "INFO", "logger": "mistudio", "job": _ID, "attempt": 1, "message": "step 450"}
_RETRIED = {**_RECEIPT, "retry_of": "01kg9t2v8ch7mp", "from_checkpoint": None, "continues_from": None}
_PAUSED = {"queue": "training", "paused": True, "message": "training is paused; 2 jobs queued."}

#: The endpoints of the first version.
_FIRST = (
    Route(
        "GET",
        f"{PREFIX}/queues",
        "Pending jobs by queue",
        workers.get_queues,
        dict[str, int],
        {"training": 1, "datasets": 2},
    ),
    Route(
        "GET",
        f"{PREFIX}/active",
        "Running jobs by worker; a worker at rest has an empty list. Arguments are never shown",
        workers.get_active,
        dict[str, list[results.ActiveTask]],
        {"worker-training@lab": [_ACTIVE]},
    ),
    Route(
        "GET",
        f"{PREFIX}/stats",
        "Each worker with a recent heartbeat, on whichever machine",
        workers.get_stats,
        dict[str, results.WorkerStats],
        {"worker-training@lab": _STATS},
    ),
    Route(
        "GET",
        HEALTH,
        "The health report: healthy, warning or critical; 503 in the same shape when Redis does not answer",
        workers.get_health,
        results.Health,
        _HEALTH,
    ),
)

_JOBS = (
    Route(
        "GET",
        f"{API}/jobs",
        "List jobs, newest first",
        jobs.list_jobs,
        results.JobPage,
        {"read_at": _AT, "jobs": [_JOB], "next": None},
        params=jobs.JobList,
        lists=True,
    ),
    Route(
        "POST",
        f"{API}/jobs",
        "Submit a job. With an Idempotency-Key a repeat answers 200 with the first job",
        jobs.submit_job,
        results.Submitted,
        {**_RECEIPT, "before": [], "replicated": None},
        body=jobs.Submission,
        access=Access.CHANGE,
        status=201,
    ),
    Route(
        "GET",
        f"{API}/jobs/{{id}}",
        "Show a job in full: parameters, progress, metrics, events",
        jobs.show_job,
        results.JobInFull,
        _IN_FULL,
        params=jobs.OneJob,
    ),
    Route(
        "GET",
        f"{API}/jobs/{{id}}/explain",
        "Explain why a job is not running, what it is doing, or how it ended",
        jobs.explain_job,
        results.Explanation,
        {"id": _ID, "state": "queued", "causes": [{"sentence": "2 jobs are before it.", "command": None}]},
        params=jobs.OneJob,
    ),
    Route(
        "GET",
        f"{API}/jobs/{{id}}/logs",
        "The lines of a job's log after a position",
        jobs.get_logs,
        results.LogLines,
        {"id": _ID, "state": "running", "lines": [_LINE], "next": 1, "is_over": False, "missing": []},
        params=jobs.LogPosition,
    ),
    Route(
        "GET",
        f"{API}/jobs/{{id}}/metrics",
        "The metrics that a job has recorded so far, downsampled",
        jobs.get_metrics,
        results.Series,
        {"id": _ID, "state": "running", "series": {"at": [450], "loss": [0.02]}},
        params=jobs.OneJob,
    ),
    Route(
        "POST",
        f"{API}/jobs/{{id}}/cancel",
        "Cancel a job; a running one stops after a checkpoint",
        jobs.cancel_job,
        results.JobJson,
        {**_JOB, "state": "cancelled"},
        params=jobs.OneJob,
        access=Access.CHANGE,
        status=202,
    ),
    Route(
        "POST",
        f"{API}/jobs/{{id}}/retry",
        "Try an ended job again with the same parameters",
        jobs.retry_job,
        results.Retried,
        {"jobs": [_RETRIED], "replicated": None},
        params=jobs.OneJob,
        body=jobs.RetryChoice,
        access=Access.CHANGE,
        status=201,
    ),
    Route(
        "POST",
        f"{API}/jobs/{{id}}/priority",
        "Change the priority of a job that has not started",
        jobs.set_priority,
        results.Reprioritized,
        {**_JOB, "state": "queued", "priority": 9},
        params=jobs.OneJob,
        body=jobs.NewPriority,
        access=Access.CHANGE,
    ),
)

_QUEUES = (
    Route(
        "GET",
        f"{API}/queues",
        "List queues, most urgent first",
        queues.list_queues,
        results.QueueList,
        {"read_at": _AT, "queues": [_QUEUE], "errors": []},
        lists=True,
    ),
    Route(
        "GET",
        f"{API}/queues/{{name}}/jobs",
        "List queued jobs in the order they will start",
        queues.peek,
        results.QueuedJobs,
        {"read_at": _AT, "queue": "training", "pending": 1, "jobs": [_QUEUED]},
        params=queues.Peek,
        lists=True,
    ),
    Route(
        "POST",
        f"{API}/queues/{{name}}/pause",
        "Stop starting jobs from a queue until it is resumed",
        queues.pause,
        results.QueueChanged,
        _PAUSED,
        params=queues.OneQueue,
        access=Access.CHANGE,
    ),
    Route(
        "POST",
        f"{API}/queues/{{name}}/resume",
        "Resume a paused queue",
        queues.resume,
        results.QueueChanged,
        {**_PAUSED, "paused": False},
        params=queues.OneQueue,
        access=Access.CHANGE,
    ),
)

_SERVER = (
    Route(
        "GET",
        f"{API}/events",
        "Server-sent events: `state` with everything first, then `patch` (RFC 6902); Last-Event-ID resumes",
        server.get_events,
        str,
        "id: 5f3a9c01-1\nevent: state\ndata: {}\n\n",
        media_type=EVENT_STREAM,
    ),
    Route(
        "GET",
        f"{API}/access",
        "Whether the token of this request allows changes",
        server.get_access,
        dict[str, bool],
        {"can_change": True},
    ),
    Route("GET", f"{API}/livez", "The process answers", server.get_livez, results.ProbeStatus, {"status": "ok"}),
    Route(
        "GET",
        f"{API}/readyz",
        "The ledger answers; 503 otherwise",
        server.get_readyz,
        results.ProbeStatus,
        {"status": "ok"},
    ),
    Route(
        "GET", "/openapi.json", "This table as OpenAPI 3.1", server.get_openapi, dict[str, Any], {"openapi": "3.1.0"}
    ),
)

#: Parts of the product that are installed beside: they have no schema here.
_MOUNTED = (
    Route(
        "GET",
        "/metrics",
        "What Prometheus scrapes",
        server.get_metrics,
        str,
        "mistudio_queue_pending 0",
        media_type="text/plain",
    ),
    Route(
        "GET", "/", "The page", server.get_page, str, "<!doctype html>", access=Access.PUBLIC, media_type="text/html"
    ),
    Route(
        "GET",
        "/static/{name}",
        "A file of the page",
        server.get_page_file,
        str,
        "",
        params=server.PageFile,
        access=Access.PUBLIC,
        media_type="text/html",
    ),
    Route(
        "GET",
        "/static/{folder}/{name}",
        "A file in a folder of the page",
        server.get_page_file_in_folder,
        str,
        "",
        params=server.PageFileInFolder,
        access=Access.PUBLIC,
        media_type="text/html",
    ),
)

ROUTES: tuple[Route, ...] = (*_FIRST, *_JOBS, *JOB_KINDS, *_QUEUES, *MACHINES, *STORE, *_SERVER, *_MOUNTED)
