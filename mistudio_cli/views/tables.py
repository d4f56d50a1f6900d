"""Records as table rows: formats ages, sizes, progress and times for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mistudio_cli.terminal.humanize import (
    NONE,
    UNKNOWN,
    bar,
    duration,
    measures,
    note,
    size,
    took,
)
from tasks.jobs.record import Job, State

if TYPE_CHECKING:
    from mistudio_cli.machine.host import Host
    from mistudio_cli.monitor.device_holders import Holder
    from mistudio_cli.monitor.snapshot import QueueRow, Snapshot, WorkerRow
    from mistudio_cli.supervisor.worker_events import Change
    from tasks.accelerators.devices import Device
    from tasks.jobs.kind import Estimate

Table = tuple[list[str], list[list[str]]]


def queues(rows: Sequence[QueueRow]) -> Table:
    """`queue ls`."""
    headers = ["QUEUE", "STATE", "PENDING", "RUNNING", "OLDEST", "CONSUMERS", "SLOTS", "DONE/MIN", "ETA"]
    return headers, [
        [
            row.name,
            row.state,
            str(row.pending),
            str(row.running),
            NONE if row.oldest_age_s is None else duration(row.oldest_age_s),
            str(row.consumers),
            str(row.slots),
            f"{row.per_minute[1]:.3g}",  # of five minutes; --json has that of one and of fifteen too
            NONE if not row.pending else UNKNOWN if row.eta_s is None else duration(row.eta_s),
        ]
        for row in rows
    ]


def peek(records: Sequence[Job], now: float, *, wide: bool = False) -> Table:
    """`queue peek`, in the order in which jobs are started; `wide` with their owners."""
    headers = ["ID", "PRIORITY", "KIND", "NAME", *["OWNER"] * wide, "QUEUED", "TAGS"]
    return headers, [
        [
            record.id,
            str(record.priority),
            record.kind,
            record.name,
            *[record.owner or UNKNOWN] * wide,
            NONE if record.queued_at is None else duration(now - record.queued_at),
            " ".join(record.tags) or NONE,
        ]
        for record in records
    ]


def jobs(records: Sequence[Job], now: float, *, wide: bool = False) -> Table:
    """`jobs ls`; the last column says how far a job is, or why it ended.

    Tags are shown when a job has any, owners when `wide`.
    """
    tagged = any(record.tags for record in records)
    headers = [
        "ID",
        "KIND",
        "NAME",
        *["OWNER"] * wide,
        "QUEUE",
        "STATE",
        "ATTEMPT",
        "AGE",
        "DURATION",
        "DEVICE",
        *["TAGS"] * tagged,
        "NOTE",
    ]
    return headers, [
        [
            record.id,
            record.kind,
            record.name,
            *[record.owner or UNKNOWN] * wide,
            record.queue,
            str(record.state),
            str(record.attempt),
            NONE if record.created_at is None else duration(now - record.created_at),
            took(record, now),
            record.device or NONE,
            *[", ".join(record.tags) or NONE] * tagged,
            note(record),
        ]
        for record in records
    ]


def planned(records: Sequence[Job], estimates: Sequence[Estimate]) -> Table:
    """`submit --dry-run`; AFTER are numbers of this table, or ids of jobs that are there."""
    headers = ["#", "KIND", "NAME", "QUEUE", "AFTER", "TIME", "MEMORY", "DISK"]
    numbers = {record.id: f"#{number}" for number, record in enumerate(records, 1)}
    return headers, [
        [
            numbers[record.id],
            record.kind,
            record.name,
            record.queue,
            ", ".join(numbers.get(parent, parent) for parent in record.parents) or NONE,
            UNKNOWN if estimate.seconds is None else duration(estimate.seconds),
            size(estimate.memory_bytes),
            size(estimate.disk_bytes),
        ]
        for record, estimate in zip(records, estimates, strict=True)
    ]


def live_jobs(records: Sequence[Job], now: float) -> Table:
    """`top`; METRICS when a running job has any."""
    measured = any(measures(record) for record in records)
    headers = ["JOB", "KIND", "NAME", "STATE", "DEVICE", "DURATION", *["METRICS"] * measured, "PROGRESS"]
    return headers, [
        [
            record.id,
            record.kind,
            record.name,
            str(record.state),
            record.device or NONE,
            took(record, now),
            *[measures(record) or NONE] * measured,
            bar(record) + note(record),
        ]
        for record in records
    ]


def most_alive_first(records: Sequence[Job]) -> list[Job]:
    """What runs, then what waits, then what has ended; each as it was ordered."""
    order = {State.RUNNING: 0, State.QUEUED: 1, State.WAITING: 1}
    return sorted(records, key=lambda record: order.get(record.state, 2))


def workers(rows: Sequence[WorkerRow], now: float) -> Table:
    """`workers status` and `top`. MEMORY is the worker's own, JOB MEM that of its jobs' processes."""
    headers = ["WORKER", "STATE", "PID", "BUSY", "MEMORY", "JOB MEM", "CPU", "RESTARTS", "UP", "LAST EXIT", "QUEUES"]
    return headers, [
        [
            row.name,
            row.state,
            NONE if row.pid is None else str(row.pid),
            f"{_or_unknown(row.busy)}/{row.slots}",
            NONE if row.pid is None else size(_without_jobs(row)),
            NONE if row.pid is None else size(row.jobs_pss_bytes),
            NONE if row.pid is None else UNKNOWN if row.cpu_percent is None else f"{row.cpu_percent:.0f} %",
            _or_unknown(row.restarts),
            NONE if row.started_at is None else duration(now - row.started_at),
            row.last_exit or NONE,
            _seen(row) + ",".join(row.queues),
        ]
        for row in rows
    ]


def events(changes: Sequence[Change]) -> Table:
    """`workers events`."""
    return ["WHEN", "WORKER", "FROM", "TO", "PID", "WHY"], [
        [
            change.at[:19].replace("T", " ") + "Z",
            change.worker,
            change.before,
            change.after,
            NONE if change.pid is None else str(change.pid),
            change.why or NONE,
        ]
        for change in changes
    ]


def devices(
    cards: Sequence[Device],
    holders: Mapping[str, Sequence[Holder] | None],
    others: Mapping[str, Sequence[tuple[int, str, int | None]]],
) -> Table:
    """Accelerators; by their keys the jobs on each, and pid, user and bytes of the other processes."""
    headers = ["GPU", "NAME", "BUSY", "MEMORY", "TEMP", "POWER", "JOBS"]
    return headers, [
        [
            card.label,
            card.name or UNKNOWN,
            whole(card.utilisation, "%"),
            f"{size(card.memory_used)} of {size(card.memory_total)}",
            whole(card.temperature, "C"),
            whole(card.power, "W"),
            card.problem or used_by(holders.get(card.key), others.get(card.key, ())),
        ]
        for card in cards
    ]


def whole(value: float | None, unit: str) -> str:
    """A value in whole units."""
    return UNKNOWN if value is None else f"{value:.0f} {unit}"


def devices_with_holders(seen: Snapshot) -> Table:
    """The accelerators of a snapshot with the jobs and the other processes on them."""
    from mistudio_cli.monitor.device_holders import holders_of, other_processes_of

    cards = seen.devices.devices if seen.devices else ()
    holders = {card.key: holders_of(card, seen.leases) for card in cards}
    return devices(cards, holders, {card.key: other_processes_of(card) for card in cards})


def used_by(holders: Sequence[Holder] | None, others: Sequence[tuple[int, str, int | None]]) -> str:
    """The jobs on an accelerator, and pid, user and bytes of the other processes. `holders` None: not known."""
    jobs = [UNKNOWN] if holders is None else [_holder(holder) for holder in holders]
    return ", ".join([*jobs, *(f"pid {pid} of {user} ({size(memory)})" for pid, user, memory in others)]) or NONE


def _holder(holder: Holder) -> str:
    """A job and its memory; before it holds any, or where that cannot be seen, what it was expected to hold."""
    if holder.memory is not None:
        return f"{holder.job} ({size(holder.memory)})"
    return holder.job if holder.expected is None else f"{holder.job} (about {size(holder.expected)})"


def host(reading: Host) -> str:
    """This machine in one line."""
    return (
        f"{reading.name}: {reading.cpu_percent:.0f} % of {reading.cpus} cores, load {reading.load_1m:.1f}, "
        f"memory {size(reading.memory_available)} free of {size(reading.memory_total)}, "
        f"disk {size(reading.disk_free)} free of {size(reading.disk_total)}"
    )


def _without_jobs(row: WorkerRow) -> int | None:
    if row.pss_bytes is None or row.jobs_pss_bytes is None:
        return None
    return row.pss_bytes - row.jobs_pss_bytes


def _seen(row: WorkerRow) -> str:
    if row.state == "silent" and row.seen_age_s:
        return f"no heartbeat for {duration(row.seen_age_s)}: "
    if row.state == "unresponsive" and row.loop_age_s:
        return f"has received no message for {duration(row.loop_age_s)}: "
    return ""


def _or_unknown(value: object) -> str:
    return UNKNOWN if value is None else str(value)
