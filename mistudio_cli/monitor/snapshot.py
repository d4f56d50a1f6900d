"""One read of everything: the only place that gathers queues, jobs, workers, devices and host for the eye.

What could not be read is None with its reason in `errors`, never zero or an empty list; what was not asked for is None.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tasks.jobs.kind import Job, State
from tasks.ledger.client import HEARTBEAT_TTL_S, Ledger, WorkerHeartbeat
from tasks.ledger.listing import Filter
from tasks.ledger.queue_state import RATE_SPANS_S, QueueCount
from tasks.queues import QUEUE_NAMES, share
from tasks.redis_client.redis_connection import Refused, Unreachable

if TYPE_CHECKING:  # what reads this machine is imported where it is asked: the queues alone need none of it
    from mistudio_cli.machine.host import Host
    from mistudio_cli.machine.process_trees import Use
    from mistudio_cli.monitor.hosts import HostRow
    from tasks.accelerators.devices import Devices
    from tasks.ledger.device_lease import Lease
    from tasks.paths import Places

#: A worker that fell silent is shown, with its age, for this long.
SILENT_SHOWN_S = 600.0

RUNNING_SHOWN, RECENT_SHOWN = 200, 50

T = TypeVar("T")


@dataclass(frozen=True)
class Trouble:
    """A part that could not be read, and why."""

    part: str
    message: str


@dataclass(frozen=True)
class QueueRow:
    """A queue as people see it; `state` is "ok", "no worker" or "paused".

    `per_minute` is how many jobs ended in each minute of the last one, five and fifteen, on average; `eta_s` when the
    last queued job will have been started, if that goes on; None when nothing has ended lately.
    """

    name: str
    state: str
    pending: int
    running: int
    oldest_age_s: float | None
    consumers: int
    slots: int
    per_minute: tuple[float, ...]
    eta_s: float | None


@dataclass(frozen=True)
class WorkerRow:
    """A worker as the supervisor and its own beats tell it; times are seconds since the epoch."""

    name: str
    state: str
    pid: int | None
    queues: tuple[str, ...]
    slots: int
    busy: int | None
    pss_bytes: int | None
    jobs_pss_bytes: int | None
    cpu_percent: float | None
    restarts: int | None
    started_at: float | None
    last_exit: str | None
    seen_age_s: float | None
    loop_age_s: float | None
    refusal: str | None


@dataclass(frozen=True)
class Snapshot:
    """Everything, as it was at `read_at` by the ledger's clock (None: the ledger could not be read)."""

    read_at: float | None = None
    queues: tuple[QueueRow, ...] | None = None
    jobs: tuple[Job, ...] | None = None
    next: str | None = None
    supervisor: dict[str, Any] | None = None
    workers: tuple[WorkerRow, ...] | None = None
    devices: Devices | None = None
    leases: Mapping[str, Lease] | None = None
    host: Host | None = None
    hosts: tuple[HostRow, ...] | None = None
    errors: tuple[Trouble, ...] = ()


@dataclass(frozen=True)
class Heartbeats:
    """Heartbeats of workers and hosts in the ledger; `holders` are the workers of all running jobs, with their pids."""

    read_at: float
    heartbeats: Sequence[WorkerHeartbeat] = ()
    holders: Sequence[tuple[str, int]] = ()
    hosts: tuple[HostRow, ...] = ()


def read_queues(ledger: Ledger) -> Snapshot:
    """The queues alone. Raises Unreachable or Refused."""
    now, heartbeats = ledger.now(), ledger.workers()
    return Snapshot(read_at=now, queues=queue_rows(ledger.queues.counts(now), heartbeats, now))


def read_all(ledger: Ledger, places: Places, *, memory_age_s: float = 0.0) -> Snapshot:
    """Everything; each part that fails is told in `errors`. What workers hold in memory may be `memory_age_s` old."""
    from mistudio_cli.machine.host import read_host
    from tasks.accelerators.devices import read_devices

    errors: list[Trouble] = []
    status = _attempt("supervisor", lambda: _ask_supervisor(places), errors)
    read = _attempt("ledger", lambda: _read_ledger(ledger), errors)
    host = _attempt("host", lambda: read_host(places.store), errors)
    devices = read_devices(environment=(status or {}).get("gpu_limits"))
    if devices.reason is not None and not devices.reason.startswith("no "):
        errors.append(Trouble("devices", devices.reason))
    seen: dict[str, Any] = {"workers": _known_workers(status, read and read[0], memory_age_s)}
    if read is not None:
        found, counts, jobs, following = read
        now = found.read_at
        live = [heartbeat for heartbeat in found.heartbeats if now - heartbeat.consumed_at <= HEARTBEAT_TTL_S]
        seen |= {"read_at": now, "queues": queue_rows(counts, live, now), "jobs": jobs, "next": following}
        seen |= {"hosts": found.hosts}
    supervisor = (status or {}).get("supervisor")
    has_gpus = devices.devices or any(row.newest is not None and row.newest.gpus for row in seen.get("hosts", ()))
    leases = _attempt("leases", ledger.leases, errors) if read is not None and has_gpus else None
    return Snapshot(**seen, supervisor=supervisor, devices=devices, leases=leases, host=host, errors=tuple(errors))


def read_workers(ledger: Ledger | None, places: Places) -> Snapshot:
    """The supervisor and the workers alone; without a ledger no Redis runs, so there are no workers elsewhere."""
    errors: list[Trouble] = []
    answers: list[dict[str, Any] | None] = []
    asking = threading.Thread(  # one that hangs must not add to what the other costs
        target=lambda: answers.append(_attempt("supervisor", lambda: _ask_supervisor(places), errors))
    )
    asking.start()
    read = (
        _attempt("ledger", lambda: _read_heartbeats(ledger), errors) if ledger is not None else Heartbeats(time.time())
    )
    asking.join()
    status = answers[0]
    read_at = read.read_at if read else None if status is None else time.time()
    return Snapshot(
        read_at=read_at,
        supervisor=(status or {}).get("supervisor"),
        workers=_known_workers(status, read, 0.0),
        hosts=None if read is None else read.hosts,
        errors=tuple(errors),
    )


def _known_workers(
    status: dict[str, Any] | None,
    read: Heartbeats | None,
    memory_age_s: float,
) -> tuple[WorkerRow, ...] | None:
    """The workers of which the supervisor or the ledger could be asked; None when that leaves nothing to tell."""
    supervised = (status or {}).get("workers", ())
    now, heartbeats, holders = (read.read_at, read.heartbeats, read.holders) if read else (time.time(), None, ())
    rows = worker_rows(supervised, heartbeats, holders, now, memory_age_s)
    return rows if rows or (status is not None and read is not None) else None


def queue_rows(counts: dict[str, QueueCount], live: Sequence[WorkerHeartbeat], now: float) -> tuple[QueueRow, ...]:
    """One row for each queue, in the order of the table."""
    rows = []
    for name in QUEUE_NAMES:
        count, consumers = counts[name], [heartbeat for heartbeat in live if name in heartbeat.queues]
        oldest = None if count.oldest_queued_at is None else max(0.0, now - count.oldest_queued_at)
        rows.append(
            QueueRow(
                name=name,
                state="paused" if count.paused_at is not None else "ok" if consumers else "no worker",
                pending=count.pending,
                running=count.running,
                oldest_age_s=oldest,
                consumers=len(consumers),
                slots=sum(share(name, heartbeat.queues, heartbeat.slots) for heartbeat in consumers),
                per_minute=tuple(60 * n / span_s for n, span_s in zip(count.ended, RATE_SPANS_S, strict=True)),
                eta_s=_eta_s(count, served=bool(consumers)),
            )
        )
    return tuple(rows)


def _eta_s(count: QueueCount, *, served: bool) -> float | None:
    """From the shortest span in which something ended."""
    if not count.pending:
        return 0.0
    if not served or count.paused_at is not None:
        return None
    return next((span_s * count.pending / n for n, span_s in zip(count.ended, RATE_SPANS_S, strict=True) if n), None)


def worker_rows(
    supervised: Sequence[dict[str, Any]],
    heartbeats: Sequence[WorkerHeartbeat] | None,
    holders: Sequence[tuple[str, int]],
    now: float,
    memory_age_s: float,
) -> tuple[WorkerRow, ...]:
    """The supervisor's workers first, then those of other homes and machines, known by their beats alone.

    `holders` are the names and pids of the workers of all running jobs. `beats` None: the ledger could not be read, so
    who is silent and what they work on is not known.
    """
    from mistudio_cli.machine.process_trees import Use, read_uses

    unknown = {(heartbeat.name, heartbeat.pid): heartbeat for heartbeat in heartbeats or ()}
    busy = None if heartbeats is None else holders
    pids = [row["pid"] for row in supervised if row["pid"]]
    uses = read_uses(pids, memory_age_s) if pids else {}
    rows = [
        _supervised_row(row, unknown.pop(_whose(row), None), busy, uses.get(row["pid"], Use()), now)
        for row in supervised
    ]
    names = {row["name"] for row in supervised}  # an earlier life of one of ours is of no interest
    others = [
        heartbeat for heartbeat in unknown.values() if heartbeat.name not in names or _is_refused_now(heartbeat, now)
    ]
    return (*rows, *(_heartbeat_row(heartbeat, busy or [], now) for heartbeat in others))


def _is_refused_now(heartbeat: WorkerHeartbeat, now: float) -> bool:
    """Whether it waits to consume, such as a worker of another home with the name of one of ours."""
    return bool(heartbeat.refused) and now - heartbeat.seen_at <= HEARTBEAT_TTL_S


def _whose(row: dict[str, Any]) -> tuple[str, int]:
    return row["name"], row["pid"] or 0


def _supervised_row(
    row: dict[str, Any],
    heartbeat: WorkerHeartbeat | None,
    busy: Sequence[tuple[str, int]] | None,
    use: Use,
    now: float,
) -> WorkerRow:
    age = None if heartbeat is None else max(0.0, now - heartbeat.seen_at)
    trouble = _trouble(heartbeat, now) if busy is not None and row["state"] == "running" else None
    return WorkerRow(
        name=row["name"],
        state=trouble or row["state"],
        pid=row["pid"],
        queues=tuple(row["queues"]),
        slots=row["slots"],
        busy=None if busy is None else busy.count(_whose(row)),
        pss_bytes=use.pss_bytes,
        jobs_pss_bytes=use.jobs_pss_bytes,
        cpu_percent=use.cpu_percent,
        restarts=row["restarts"],
        started_at=row["started_at"],
        last_exit=row["last_exit"],
        seen_age_s=age,
        loop_age_s=None if heartbeat is None or heartbeat.refused else max(0.0, now - heartbeat.consumed_at),
        refusal=heartbeat.refused or None
        if heartbeat is not None
        else row.get("refusal"),  # an older supervisor knows of none
    )


def _trouble(heartbeat: WorkerHeartbeat | None, now: float) -> str | None:
    """What is wrong with a worker that should run: no heartbeat, or one whose message loop does not run."""
    if heartbeat is None or now - heartbeat.seen_at > HEARTBEAT_TTL_S:
        return "silent"
    if heartbeat.refused:
        return "refused"
    return "unresponsive" if now - heartbeat.consumed_at > HEARTBEAT_TTL_S else None


def _heartbeat_row(heartbeat: WorkerHeartbeat, busy: Sequence[tuple[str, int]], now: float) -> WorkerRow:
    age = max(0.0, now - heartbeat.seen_at)
    return WorkerRow(
        name=heartbeat.name,
        state=_trouble(heartbeat, now) or "running",
        pid=heartbeat.pid,
        queues=heartbeat.queues,
        slots=heartbeat.slots,
        busy=busy.count((heartbeat.name, heartbeat.pid)),
        pss_bytes=None,  # only its own machine and its own supervisor know
        jobs_pss_bytes=None,
        cpu_percent=None,
        restarts=None,
        started_at=heartbeat.started_at,
        last_exit=None,
        seen_age_s=age,
        loop_age_s=None if heartbeat.refused else max(0.0, now - heartbeat.consumed_at),
        refusal=heartbeat.refused or None,
    )


def _read_ledger(ledger: Ledger) -> tuple[Heartbeats, dict[str, QueueCount], tuple[Job, ...], str | None]:
    found = _read_heartbeats(ledger)
    counts = ledger.queues.counts(found.read_at)
    running = ledger.page(Filter(states=(State.RUNNING,)), RUNNING_SHOWN).jobs
    recent = ledger.page(limit=RECENT_SHOWN)
    there = {job.id for job in running}
    return found, counts, (*running, *(job for job in recent.jobs if job.id not in there)), recent.next


def _read_heartbeats(ledger: Ledger) -> Heartbeats:
    from mistudio_cli.monitor.hosts import host_rows
    from tasks.fleet import host_heartbeat

    now, heartbeats, holders = ledger.now(), ledger.heartbeats(SILENT_SHOWN_S), ledger.holders()
    return Heartbeats(
        now, heartbeats, holders, host_rows(host_heartbeat.read_all(ledger.client), heartbeats, holders, now)
    )


def _ask_supervisor(places: Places) -> dict[str, Any]:
    from mistudio_cli.fleet import supervisor_client

    return supervisor_client.status(places) or {
        "supervisor": {"pid": None, "state": "stopped"},
        "workers": _left_behind(places),
    }


def _left_behind(places: Places) -> list[dict[str, Any]]:
    """Workers that outlived their supervisor, by their own notes: they finish their jobs."""
    from tasks.worker.slot_locks import WorkerPhase, living_workers

    return [
        {
            "name": f"{worker.name}@{socket.gethostname()}",
            "state": "draining" if worker.phase is WorkerPhase.DRAINING else "running",
            "pid": worker.pid,
            "queues": worker.queues,
            "slots": worker.slots,
            "restarts": None,
            "started_at": None,
            "last_exit": None,
            "refusal": None,
        }
        for worker in living_workers(places)
    ]


def _attempt(part: str, read: Callable[[], T], errors: list[Trouble]) -> T | None:
    try:
        return read()
    except (Unreachable, Refused, OSError, ValueError, TypeError, KeyError) as error:
        errors.append(Trouble(part, str(error) or type(error).__name__))
        return None
