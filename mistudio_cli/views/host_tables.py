"""Hosts as rows: a line for each, or all that is known of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mistudio_cli.monitor.device_holders import Holder
from mistudio_cli.monitor.hosts import SILENT, Fleet, HostRow, age_s, jobs_on, state_of
from mistudio_cli.terminal.humanize import UNKNOWN, duration, size
from mistudio_cli.views import tables
from mistudio_cli.views.tables import Table
from tasks.fleet.host_heartbeat import Gpu, HostHeartbeat
from tasks.ledger.device_lease import Lease


def hosts(rows: Sequence[HostRow]) -> Table:
    """`hosts ls`."""
    headers = ["HOST", "STATE", "WORKERS", "BUSY", "CORES", "LOAD", "MEMORY", "GPUS", "STORE FREE", "CLOCK", "VERSION"]
    return headers, [[row.name, _state(row), str(row.workers), str(row.busy), *_measured(row.newest)] for row in rows]


def facts(row: HostRow, now: float) -> Table:
    """`hosts show`: what is known of one host."""
    headers, (cells,) = hosts([row])
    lines = [[header, cell] for header, cell in zip(headers, cells, strict=True)]
    if row.newest is not None:
        lines.append(["STORE", row.newest.store or UNKNOWN])
        faults = {"STORE ERROR": row.newest.store_error, "GPUS ERROR": row.newest.gpus_error}
        lines += [[what, fault] for what, fault in faults.items() if fault]
    return ["WHAT", "VALUE"], lines + [["SUPERVISOR", _supervisor(heartbeat, now)] for heartbeat in row.supervisors]


def gpus(fleet: Fleet, row: HostRow, cards: Sequence[Gpu]) -> Table:
    """The GPUs of a host, the jobs that lease them, and the other processes on them."""
    return ["GPU", "NAME", "UUID", "MEMORY FREE", "JOBS"], [
        [
            str(card.index),
            card.name or UNKNOWN,
            card.uuid or UNKNOWN,
            f"{size(card.memory_free)} of {size(card.memory_total)}",
            card.error or used_by(row, card, fleet.leases),
        ]
        for card in cards
    ]


def remote_gpus(rows: Sequence[HostRow], leases: Mapping[str, Lease] | None, here: str) -> Table:
    """The GPUs of the hosts but `here`, by their newest heartbeats; `leases` None: they could not be read."""
    return ["GPU@HOST", "NAME", "BUSY", "MEMORY FREE", "TEMP", "POWER", "JOBS", "READ"], [
        [
            f"{card.index}@{row.name}",
            card.name or UNKNOWN,
            tables.whole(card.utilisation, "%"),
            f"{size(card.memory_free)} of {size(card.memory_total)}",
            tables.whole(card.temperature, "C"),
            tables.whole(card.power, "W"),
            card.error or used_by(row, card, leases),
            _read_ago(row),
        ]
        for row in rows
        if row.name != here and row.newest is not None
        for card in row.newest.gpus or ()
    ]


def used_by(row: HostRow, card: Gpu, leases: Mapping[str, Lease] | None) -> str:
    """The jobs that lease a GPU of a host with the memory they hold, and the other processes on it."""
    processes = card.processes or ()
    held: dict[str, int] = {}
    for process in processes:
        if process.job and process.memory is not None:
            held[process.job] = held.get(process.job, 0) + process.memory
    jobs = None if leases is None else [Holder(job, held.get(job), None) for job in jobs_on(leases, row.name, card)]
    others = [(each.pid, each.user, each.memory) for each in processes if each.user is not None and not each.job]
    shown = tables.used_by(jobs, others)
    return f"{shown}, {card.more_processes} more processes" if card.more_processes else shown


def _read_ago(row: HostRow) -> str:
    age = UNKNOWN if row.seen_age_s is None else duration(row.seen_age_s)
    return f"{SILENT} {age}" if row.state == SILENT else f"{age} ago"


def _state(row: HostRow) -> str:
    if row.state == SILENT and row.seen_age_s is not None:
        return f"{SILENT} {duration(row.seen_age_s)}"
    return row.state


def _measured(heartbeat: HostHeartbeat | None) -> list[str]:
    if heartbeat is None:
        return [UNKNOWN] * 7
    return [
        UNKNOWN if heartbeat.cores is None else str(heartbeat.cores),
        UNKNOWN if heartbeat.load_1m is None else f"{heartbeat.load_1m:.1f}",
        size(heartbeat.memory_bytes),
        UNKNOWN if heartbeat.gpus is None else str(len(heartbeat.gpus)),
        size(heartbeat.store_free_bytes),
        f"{heartbeat.clock_offset_s:+.1f} s",
        heartbeat.version or UNKNOWN,
    ]


def _supervisor(heartbeat: HostHeartbeat, now: float) -> str:
    ages = f"up {duration(now - heartbeat.started_at)}, last heartbeat {duration(age_s(heartbeat, now))} ago"
    state, version = state_of(heartbeat, now), heartbeat.version or UNKNOWN
    return f"pid {heartbeat.pid}, {state}, mistudio {version}, {ages}, home {heartbeat.home}"
