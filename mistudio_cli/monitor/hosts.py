"""The hosts of the fleet: heartbeats of supervisors joined to those of workers and to the running jobs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mistudio_cli.errors import NotFound
from mistudio_cli.monitor.snapshot import WorkerRow
from mistudio_cli.monitor.worker_rows import worker_rows
from tasks.fleet import host_heartbeat
from tasks.fleet.clock_offset import CLOCK_WARNING_S, describe_offset
from tasks.fleet.host_heartbeat import SILENT_AFTER_S, Gpu, HostHeartbeat
from tasks.ledger import overview
from tasks.ledger.client import Ledger
from tasks.ledger.device_lease import Lease
from tasks.ledger.overview import Overview
from tasks.ledger.worker_heartbeat import HEARTBEAT_TTL_S, WorkerHeartbeat

RUNNING, SILENT, WORKERS_ONLY = "running", "silent", "workers only"


@dataclass(frozen=True)
class HostRow:
    """A host by the newest heartbeat of its supervisors, which are several where it has several homes.

    `state` is RUNNING, SILENT (no heartbeat lately) or WORKERS_ONLY (heartbeats of workers, none of a supervisor).
    `workers` are those whose heartbeats arrive, `busy` is how many jobs run there.
    """

    name: str
    state: str
    workers: int
    busy: int
    seen_age_s: float | None
    newest: HostHeartbeat | None
    supervisors: tuple[HostHeartbeat, ...]


@dataclass(frozen=True)
class Fleet:
    """All hosts at `read_at` by the server's clock, with heartbeats of their workers and leases of devices."""

    read_at: float
    hosts: tuple[HostRow, ...]
    heartbeats: tuple[WorkerHeartbeat, ...]
    holders: tuple[tuple[str, int], ...]
    leases: Mapping[str, Lease]

    def need(self, name: str) -> HostRow:
        """The host of that name; NotFound, with the names there are, for any other."""
        for row in self.hosts:
            if row.name == name:
                return row
        raise NotFound(f"There is no host {name}.", f"Hosts: {', '.join(row.name for row in self.hosts) or 'none'}")

    def workers_on(self, row: HostRow) -> tuple[WorkerRow, ...]:
        """That host's workers, silent ones included."""
        heartbeats = [heartbeat for heartbeat in self.heartbeats if heartbeat.host == row.name]
        return worker_rows((), heartbeats, self.holders, self.read_at)

    def jobs_on(self, row: HostRow, gpu: Gpu) -> list[str]:
        """The jobs that lease that GPU of that host."""
        return jobs_on(self.leases, row.name, gpu)


def read_fleet(ledger: Ledger) -> Fleet:
    """All that the ledger knows of hosts, in one round trip. Raises Unreachable or Refused."""
    return fleet_in(overview.read(ledger.client, overview.Wanted()))


def fleet_in(seen: Overview) -> Fleet:
    """The hosts in an overview of the ledger."""
    now = seen.read_at
    heartbeats = [
        heartbeat for heartbeat in seen.heartbeats if abs(now - heartbeat.consumed_at) <= host_heartbeat.LISTED_FOR_S
    ]
    rows = host_rows(host_heartbeat.listed(seen.hosts.values(), now), heartbeats, seen.holders, now)
    return Fleet(now, rows, tuple(heartbeats), seen.holders, seen.leases)


def host_rows(
    hosts: Sequence[HostHeartbeat],
    heartbeats: Sequence[WorkerHeartbeat],
    holders: Sequence[tuple[str, int]],
    now: float,
) -> tuple[HostRow, ...]:
    """A row for each host, by name; `holders` are the names, with host, and pids of the workers of all running jobs."""
    live = [heartbeat.host for heartbeat in heartbeats if now - heartbeat.seen_at <= HEARTBEAT_TTL_S]
    jobs = [name.rpartition("@")[2] for name, _ in holders]
    rows = []
    for name in sorted({*live, *(heartbeat.host for heartbeat in hosts)}):
        supervisors = [heartbeat for heartbeat in hosts if heartbeat.host == name]
        newest = max(
            supervisors,
            key=lambda heartbeat: (age_s(heartbeat, now) <= SILENT_AFTER_S, heartbeat.started_at),
            default=None,
        )
        rows.append(
            HostRow(
                name=name,
                state=WORKERS_ONLY if newest is None else state_of(newest, now),
                workers=live.count(name),
                busy=jobs.count(name),
                seen_age_s=None if newest is None else age_s(newest, now),
                newest=newest,
                supervisors=tuple(supervisors),
            )
        )
    return tuple(rows)


def jobs_on(leases: Mapping[str, Lease], host: str, gpu: Gpu) -> list[str]:
    """The ids of the jobs that lease that GPU of that host; `leases` by the jobs' ids."""
    key = gpu.uuid or f"{host}:{gpu.index}"
    return sorted(job for job, lease in leases.items() if lease.key == key)


def state_of(heartbeat: HostHeartbeat, now: float) -> str:
    """RUNNING or SILENT, by the age of a supervisor's newest heartbeat."""
    return RUNNING if age_s(heartbeat, now) <= SILENT_AFTER_S else SILENT


def age_s(heartbeat: HostHeartbeat, now: float) -> float:
    """How old a heartbeat is. One from the future is as old: the server's clock was set back."""
    return abs(now - heartbeat.seen_at)


def clock_fault(heartbeat: HostHeartbeat) -> str | None:
    """What is wrong with a host's clock, in one sentence with both times; None when it is right within seconds."""
    offset_s = heartbeat.clock_offset_s
    if abs(offset_s) <= CLOCK_WARNING_S:
        return None
    here, server = (_utc(seconds) for seconds in (heartbeat.seen_at + offset_s, heartbeat.seen_at))
    return (
        f"The clock of {heartbeat.host} is {describe_offset(offset_s)} that of Redis: {here} there, {server} by Redis."
    )


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
