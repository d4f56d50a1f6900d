"""From record to JSON: the keys of the contract in docs/json.md, together with `profile_json`.

Times are ISO 8601 in UTC, ages are seconds, sizes are bytes, and what is unknown is None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.jobs.record import Job, MetricPoint, State

if TYPE_CHECKING:
    from mistudio_cli.machine.host import Host
    from mistudio_cli.monitor.device_holders import Holder
    from mistudio_cli.monitor.explain import Cause
    from mistudio_cli.monitor.job_context import Surroundings
    from mistudio_cli.monitor.snapshot import QueueRow, Snapshot, Trouble, WorkerRow
    from tasks.accelerators.card_processes import CardProcess
    from tasks.accelerators.devices import Device
    from tasks.jobs.kind import Estimate


def time(seconds: float | None) -> str | None:
    """A time in seconds since the epoch as text, to the millisecond."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def queues(snapshot: Snapshot) -> dict[str, Any]:
    """`queue ls`."""
    return {
        "read_at": time(snapshot.read_at),
        "queues": _all(queue, snapshot.queues),
        "errors": errors(snapshot.errors),
    }


def queue(row: QueueRow) -> dict[str, Any]:
    """One queue."""
    return {
        "name": row.name,
        "state": row.state,
        "pending": row.pending,
        "running": row.running,
        "oldest_age_s": _rounded(row.oldest_age_s),
        "consumers": row.consumers,
        "slots": row.slots,
        "per_minute": [round(rate, 3) for rate in row.per_minute],
        "eta_s": _rounded(row.eta_s),
        "eta_unknown": row.eta_unknown,
        "ended": {outcome: list(counts) for outcome, counts in row.ended.items()},
    }


def peek(read_at: float, name: str, pending: int, found: Sequence[Job]) -> dict[str, Any]:
    """`queue peek`."""
    rows = [{"place": place, **queued(record)} for place, record in enumerate(found)]
    return {"read_at": time(read_at), "queue": name, "pending": pending, "jobs": rows}


def queued(record: Job) -> dict[str, Any]:
    """One job that waits its turn."""
    return {
        "id": record.id,
        "kind": record.kind,
        "name": record.name,
        "priority": record.priority,
        "queued_at": time(record.queued_at),
        "tags": list(record.tags),
        "owner": record.owner,
    }


def jobs(read_at: float | None, page: Sequence[Job] | None, following: str | None) -> dict[str, Any]:
    """The jobs of `jobs ls`, and of other commands that print such a list."""
    return {"read_at": time(read_at), "jobs": _all(job, page), "next": following}


def listed(read_at: float | None, page: Sequence[Job] | None, following: str | None) -> Any:
    """`jobs ls`."""
    return {**jobs(read_at, page, following), "errors": []}


def job(record: Job) -> dict[str, Any]:
    """One job in a list."""
    progress, error = record.progress, record.error
    return {
        "id": record.id,
        "kind": record.kind,
        "name": record.name,
        "queue": record.queue,
        "state": str(record.state),
        "reason": record.reason,
        "attempt": record.attempt,
        "progress": None
        if progress is None
        else {"phase": progress.phase, "done": progress.done, "total": progress.total, "unit": progress.unit},
        "created_at": time(record.created_at),
        "started_at": time(record.started_at),
        "finished_at": time(record.finished_at),
        "worker": record.worker or None,
        "device": record.device or None,
        "error": None if error is None else {"type": error.get("type"), "message": error.get("message")},
        "metrics": record.metrics,
        "eta_s": _rounded(record.left_s),
        "owner": record.owner,
    }


def series(points: Sequence[MetricPoint]) -> dict[str, list[float | None]] | None:
    """What a job has measured so far: a list for each metric, and where it was, `at`; None when nothing is known."""
    if not points:
        return None
    columns: dict[str, list[float | None]] = {"at": [point.at for point in points]}
    names = dict.fromkeys(name for point in points for name in point.values)
    return columns | {name: [point.values.get(name) for point in points] for name in names}


def job_in_full(
    record: Job, events: Sequence[dict[str, Any]], path: str | None, around: Surroundings
) -> dict[str, Any]:
    """`jobs show`: the list's keys and the rest; `path` is where its artifact is stored."""
    return {
        **job(record),
        "error": record.error,
        "priority": record.priority,
        "max_attempts": record.max_attempts,
        "parents": list(record.parents),
        "tags": list(record.tags),
        "retry_of": record.retry_of,
        "gpu": record.gpu,
        "limits": dataclasses.asdict(record.limits_in_force),
        "params": record.params,
        "artifact": record.artifact,
        "path": path,
        "result": record.result,
        "rate": None if record.progress is None else record.progress.rate,
        "cancel_requested": record.cancel_requested,
        "queued_at": time(record.queued_at),
        "events": [_event(event) for event in events],
        "from_checkpoint": record.from_checkpoint,
        "parent_jobs": [relative(parent, there) for parent, there in around.parents.items()],
        "children": [relative(child.id, child) for child in around.children],
        "lease": None if around.holder is None else _lease(around.holder),
        "series": series(around.measured),
        "artifacts": list(record.artifacts),
    }


def relative(job_id: str, record: Job | None) -> dict[str, Any]:
    """A parent or child; of one whose record is removed nothing but the id is known."""
    if record is None:
        return {"id": job_id, "kind": None, "name": None, "state": None}
    return {"id": job_id, "kind": record.kind, "name": record.name, "state": str(record.state)}


def made_at(record: Job, store: Path) -> str | None:
    """The path of that job's artifact; None when it made none."""
    return str(store / record.artifact) if record.artifact and record.state is State.SUCCEEDED else None


def _event(event: dict[str, Any]) -> dict[str, Any]:
    return {
        "at": time(event["at"]),
        "state": event["state"],
        "reason": event["reason"],
        "attempt": event["attempt"],
        "worker": event["worker"] or None,
    }


def submitted(record: Job, before: Sequence[Job], replicated: bool | None) -> dict[str, Any]:
    """`submit`: the job, and those that were submitted because it needs them."""
    return {**_receipt(record), "before": [_receipt(earlier) for earlier in before], "replicated": replicated}


def submitted_together(records: Sequence[Job], tag: str | None, replicated: bool | None) -> dict[str, Any]:
    """`submit` of several jobs: all of them, parents before their children, and the tag they share."""
    jobs = [{**_receipt(record), "parents": list(record.parents)} for record in records]
    return {"tag": tag, "jobs": jobs, "replicated": replicated}


def retried(records: Sequence[Job], resume_point: Mapping[str, str], replicated: bool | None) -> dict[str, Any]:
    """`jobs retry`: all that was submitted; `retry_of` is null for those that others need first."""
    return {"jobs": [_retried(record, resume_point.get(record.id)) for record in records], "replicated": replicated}


def _retried(record: Job, resume_point: str | None) -> dict[str, Any]:
    fields = {"retry_of": record.retry_of, "from_checkpoint": record.from_checkpoint, "continues_from": resume_point}
    return {**_receipt(record), **fields}


def explained(record: Job, causes: Sequence[Cause]) -> dict[str, Any]:
    """`jobs explain`."""
    rows = [{"sentence": cause.sentence, "command": cause.command} for cause in causes]
    return {"id": record.id, "state": str(record.state), "causes": rows}


def submitted_line(number: int, record: Job, before: Sequence[Job], replicated: bool | None) -> dict[str, Any]:
    """One line of `submit many --json`: the line of its file, its job, and the ids of those submitted before it."""
    line = {"id": record.id, "kind": record.kind, "queue": record.queue, "name": record.name}
    return {"line": number, **line, "before": [earlier.id for earlier in before], "replicated": replicated}


def planned(jobs: Sequence[Job], estimates: Sequence[Estimate], tag: str | None) -> dict[str, Any]:
    """`submit --dry-run`: a parent is the `id` of a job that is there, or the `index` of one in this list."""
    places = {job.id: place for place, job in enumerate(jobs)}
    return {
        "dry_run": True,
        "tag": tag,
        "jobs": [
            {
                "kind": job.kind,
                "name": job.name,
                "queue": job.queue,
                "priority": job.priority,
                "tags": list(job.tags),
                "gpu": job.gpu,
                "artifact": job.artifact,
                "params": job.params,
                "parents": [
                    {"id": None if parent in places else parent, "index": places.get(parent)} for parent in job.parents
                ],
                "estimate": dataclasses.asdict(estimate),
                "artifacts": list(job.artifacts),
            }
            for job, estimate in zip(jobs, estimates, strict=True)
        ],
    }


def _receipt(record: Job) -> dict[str, Any]:
    return {
        "id": record.id,
        "kind": record.kind,
        "queue": record.queue,
        "state": str(record.state),
        "name": record.name,
    }


def workers(snapshot: Snapshot) -> dict[str, Any]:
    """`workers status`."""
    return {
        "read_at": time(snapshot.read_at),
        "supervisor": snapshot.supervisor,
        "workers": _all(worker, snapshot.workers),
        "errors": errors(snapshot.errors),
        "hosts": _hosts(snapshot),
    }


def worker(row: WorkerRow) -> dict[str, Any]:
    """One worker."""
    fields = dataclasses.asdict(row)
    ages = {"seen_age_s": _rounded(row.seen_age_s), "loop_age_s": _rounded(row.loop_age_s)}
    return {**fields, "started_at": time(row.started_at), **ages}


def device(card: Device, holders: Sequence[Holder] | None) -> dict[str, Any]:
    """One accelerator; `holders` are the jobs that lease it, None when that is not known."""
    return {
        "index": card.index,
        "instance": card.instance,
        "name": card.name,
        "uuid": card.uuid,
        "memory_total_bytes": card.memory_total,
        "memory_used_bytes": card.memory_used,
        "utilisation_percent": card.utilisation,
        "temperature_c": card.temperature,
        "power_w": card.power,
        "processes": None
        if card.processes is None
        else [{"pid": process.pid, "memory_bytes": process.memory} for process in card.processes],
        "jobs": None if holders is None else [holder.job for holder in holders],
        "leases": _all(_lease, holders),
        "error": card.problem,
        "throttle_reasons": None if card.throttle_reasons is None else list(card.throttle_reasons),
    }


def card_process(process: CardProcess) -> dict[str, Any]:
    """A process on an accelerator, with what its host knows of it."""
    return {
        "pid": process.pid,
        "memory_bytes": process.memory,
        "user": process.user,
        "command": process.command,
        "job": process.job,
    }


def _lease(holder: Holder) -> dict[str, Any]:
    return {"job": holder.job, "memory_bytes": holder.memory, "expected_bytes": holder.expected}


def host(reading: Host) -> dict[str, Any]:
    """This machine."""
    return {
        "name": reading.name,
        "cpus": reading.cpus,
        "cpu_percent": reading.cpu_percent,
        "load_1m": round(reading.load_1m, 2),
        "memory_total_bytes": reading.memory_total,
        "memory_available_bytes": reading.memory_available,
        "disk_total_bytes": reading.disk_total,
        "disk_free_bytes": reading.disk_free,
    }


def everything(snapshot: Snapshot) -> dict[str, Any]:
    """`top --once`."""
    from mistudio_cli.monitor.device_holders import holders_of

    found = snapshot.devices
    return {
        **jobs(snapshot.read_at, snapshot.jobs, snapshot.next),
        "places": _places(snapshot),
        "queues": _all(queue, snapshot.queues),
        "supervisor": snapshot.supervisor,
        "workers": _all(worker, snapshot.workers),
        "devices": [device(card, holders_of(card, snapshot.leases)) for card in found.devices]
        if found is not None and found.devices
        else None,
        "devices_reason": None if found is None else found.reason,
        "devices_limit": None if found is None else found.limit,
        "host": None if snapshot.host is None else host(snapshot.host),
        "errors": errors(snapshot.errors),
        "hosts": _hosts(snapshot),
    }


def _places(snapshot: Snapshot) -> dict[str, int] | None:
    """The place of each queued job that is listed in its queue's order of service, from 1."""
    if snapshot.queued is None:
        return None
    listed = {record.id for record in snapshot.jobs or ()}
    ordered = (pair for line in snapshot.queued.values() for pair in enumerate(line, 1))
    return {record.id: place for place, record in ordered if record.id in listed}


def _hosts(snapshot: Snapshot) -> list[dict[str, Any]] | None:
    from mistudio_cli.views.host_json import host as shape

    if snapshot.hosts is None:
        return None
    return [shape(row, snapshot.read_at or 0.0, snapshot.leases) for row in snapshot.hosts]


def errors(troubles: Sequence[Trouble]) -> list[dict[str, Any]]:
    """What could not be read; `age_s` is that of what is shown instead."""
    rows = [(trouble.part, trouble.message, _rounded(trouble.age_s)) for trouble in troubles]
    return [{"part": part, "message": message, "age_s": age_s} for part, message, age_s in rows]


def _all(shape: Any, records: Sequence[Any] | None) -> list[dict[str, Any]] | None:
    return None if records is None else [shape(record) for record in records]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
