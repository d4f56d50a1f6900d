"""Rows of workers: what the supervisor says of them, joined with their heartbeats and the jobs that they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mistudio_cli.monitor.snapshot import SILENT_SHOWN_S, WorkerRow
from tasks.ledger.worker_heartbeat import HEARTBEAT_TTL_S, WorkerHeartbeat

if TYPE_CHECKING:  # reads this machine: whoever lists other hosts alone needs none of it
    from mistudio_cli.machine.process_trees import Use
    from tasks.ledger.overview import Overview


def shown_heartbeats(seen: Overview) -> list[WorkerHeartbeat]:
    """The heartbeats that are not so old that nobody looks for their workers any more."""
    return [heartbeat for heartbeat in seen.heartbeats if abs(seen.read_at - heartbeat.seen_at) <= SILENT_SHOWN_S]


def worker_rows(
    supervised: Sequence[dict[str, Any]],
    heartbeats: Sequence[WorkerHeartbeat] | None,
    holders: Sequence[tuple[str, int]],
    now: float,
    uses: Mapping[int, Use] | None = None,
    *,
    is_stale: bool = False,
) -> tuple[WorkerRow, ...]:
    """The supervisor's workers first, then those of other homes and machines, known by their heartbeats alone.

    `holders` are the names and pids of the workers of all running jobs. `heartbeats` None: the ledger could not be
    read, so who is silent and what they work on is not known. `uses` are those of their processes, by pid; None: not
    read. `is_stale`: heartbeats and holders are older than what the supervisor says, so a worker may be missing there.
    """
    unknown, rows = list(heartbeats or ()), []
    for worker in supervised:
        heartbeat = _take(unknown, _whose(worker))
        is_unknown = heartbeats is None or (is_stale and heartbeat is None)
        use = (uses or {}).get(worker["pid"])
        rows.append(_supervised_row(worker, heartbeat, None if is_unknown else holders, use, now))
    names = {worker["name"] for worker in supervised}  # an earlier life of one of ours is of no interest
    others = [heartbeat for heartbeat in unknown if heartbeat.name not in names or _is_refused_now(heartbeat, now)]
    return (*rows, *(_heartbeat_row(heartbeat, holders, now) for heartbeat in others))


def _take(unknown: list[WorkerHeartbeat], whose: tuple[str, int]) -> WorkerHeartbeat | None:
    """The heartbeat of that name and pid, which is removed. In containers another worker may have both as well."""
    for number, heartbeat in enumerate(unknown):
        if (heartbeat.name, heartbeat.pid) == whose:
            return unknown.pop(number)
    return None


def _is_refused_now(heartbeat: WorkerHeartbeat, now: float) -> bool:
    """Whether it waits to consume, such as a worker of another home with the name of one of ours."""
    return bool(heartbeat.refused) and now - heartbeat.seen_at <= HEARTBEAT_TTL_S


def _whose(worker: dict[str, Any]) -> tuple[str, int]:
    return worker["name"], worker["pid"] or 0


def _supervised_row(
    worker: dict[str, Any],
    heartbeat: WorkerHeartbeat | None,
    busy: Sequence[tuple[str, int]] | None,
    use: Use | None,
    now: float,
) -> WorkerRow:
    age = None if heartbeat is None else max(0.0, now - heartbeat.seen_at)
    trouble = _trouble(heartbeat, now) if busy is not None and worker["state"] == "running" else None
    return WorkerRow(
        name=worker["name"],
        state=trouble or worker["state"],
        pid=worker["pid"],
        queues=tuple(worker["queues"]),
        slots=worker["slots"],
        busy=None if busy is None else busy.count(_whose(worker)),
        pss_bytes=None if use is None else use.pss_bytes,
        jobs_pss_bytes=None if use is None else use.jobs_pss_bytes,
        cpu_percent=None if use is None else use.cpu_percent,
        restarts=worker["restarts"],
        started_at=worker["started_at"],
        last_exit=worker["last_exit"],
        seen_age_s=age,
        loop_age_s=None if heartbeat is None or heartbeat.refused else max(0.0, now - heartbeat.consumed_at),
        refusal=heartbeat.refused or None
        if heartbeat is not None
        else worker.get("refusal"),  # an older supervisor knows of none
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
