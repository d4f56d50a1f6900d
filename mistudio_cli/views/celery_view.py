"""What Celery workers reply, as JSON and as rows. Arguments of tasks are never shown: they may hold secrets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mistudio_cli.monitor.celery_workers import CeleryWorker, CeleryWorkers
from mistudio_cli.terminal.humanize import NONE, UNKNOWN, duration
from mistudio_cli.views import json_shapes
from mistudio_cli.views.tables import Table
from tasks.fleet.celery_inspect import WAIT_S

_REDACTED = "[redacted]"


def as_json(seen: CeleryWorkers, topic: str) -> dict[str, Any]:
    """`workers inspect TOPIC`; `reply` is None of a worker that does not reply."""
    return {
        "read_at": json_shapes.time(seen.read_at),
        "topic": topic,
        "receivers": seen.receivers,
        "unnamed": seen.unnamed,
        "workers": [
            {
                "name": worker.name,
                "foreign": worker.foreign,
                "mute": worker.mute,
                "reply": _without_arguments(worker.replies.get(topic)),
            }
            for worker in seen.workers
        ],
        "errors": [],
    }


def rows(seen: CeleryWorkers, topic: str) -> Table:
    """The same as a table: a row for each task, or for each worker."""
    headers, read = _TABLES[topic]
    lines: list[list[str]] = []
    for worker in seen.workers:
        state = "mute" if worker.mute else "foreign" if worker.foreign else "ok"
        found = [[UNKNOWN] * len(headers)] if worker.mute else read(worker, seen.read_at)
        lines += [[worker.name, state, *cells] for cells in found or [[NONE] * len(headers)]]
    return ["WORKER", "STATE", *headers], lines


def notes(seen: CeleryWorkers) -> Iterator[str]:
    """What to say beside the table."""
    if mute := [worker.name for worker in seen.workers if worker.mute]:
        yield f"No reply within {WAIT_S:g} s from {', '.join(mute)}: mistudio workers status"
    if seen.unnamed:
        yield f"{seen.unnamed} more received the question and did not reply."
    if not seen.workers:
        yield "No Celery worker is connected. Start some: mistudio workers start"


def _tasks(topic: str) -> Callable[[CeleryWorker, float], list[list[str]]]:
    def read(worker: CeleryWorker, now: float) -> list[list[str]]:
        return [_task(task, now) for task in _dicts(worker.replies.get(topic))]

    return read


def _task(task: Mapping[str, Any], now: float) -> list[str]:
    delivery, began, pid = task.get("delivery_info") or {}, task.get("time_start"), task.get("worker_pid")
    return [
        str(task.get("id") or UNKNOWN),
        str(task.get("name") or task.get("type") or UNKNOWN),
        str(delivery.get("routing_key") or UNKNOWN),
        duration(max(0.0, now - began)) if isinstance(began, int | float) else NONE,
        str(pid or NONE),
    ]


def _stats(worker: CeleryWorker, now: float) -> list[list[str]]:
    stats = worker.replies.get("stats") or {}
    pool = stats.get("pool") or {}
    done = sum(count for count in (stats.get("total") or {}).values() if isinstance(count, int))
    return [
        [
            str(stats.get("pid") or UNKNOWN),
            str(pool.get("max-concurrency") or UNKNOWN),
            ", ".join(map(str, pool.get("processes") or ())) or NONE,
            str(stats.get("prefetch_count", UNKNOWN)),
            str(done),
            duration(stats["uptime"]) if isinstance(stats.get("uptime"), int | float) else UNKNOWN,
        ]
    ]


def _queues(worker: CeleryWorker, now: float) -> list[list[str]]:
    return [[", ".join(str(queue.get("name")) for queue in _dicts(worker.replies.get("queues"))) or NONE]]


def _registered(worker: CeleryWorker, now: float) -> list[list[str]]:
    return [[", ".join(map(str, worker.replies.get("registered") or ())) or NONE]]


_TASK_HEADERS = ["ID", "TASK", "QUEUE", "DURATION", "PID"]
_TABLES: dict[str, tuple[list[str], Callable[[CeleryWorker, float], list[list[str]]]]] = {
    "active": (_TASK_HEADERS, _tasks("active")),
    "reserved": (_TASK_HEADERS, _tasks("reserved")),
    "stats": (["PID", "SLOTS", "PROCESSES", "PREFETCH", "DONE", "UP"], _stats),
    "queues": (["QUEUES"], _queues),
    "registered": (["TASKS"], _registered),
}


def _dicts(reply: Any) -> list[dict[str, Any]]:
    return [entry for entry in reply if isinstance(entry, dict)] if isinstance(reply, list) else []


def _without_arguments(reply: Any) -> Any:
    """The same with what a task was called with replaced, wherever it is."""
    if isinstance(reply, dict):
        return {
            key: _REDACTED if key in ("args", "kwargs", "argsrepr", "kwargsrepr") else _without_arguments(inner)
            for key, inner in reply.items()
        }
    return [_without_arguments(inner) for inner in reply] if isinstance(reply, list) else reply
