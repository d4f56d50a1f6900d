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
from tasks.ledger.client import BEAT_TTL_S, Ledger, WorkerBeat
from tasks.ledger.device_lease import Lease
from tasks.ledger.overview import Overview

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
    """All hosts at `read_at` by the server's clock, and what tells of their workers and devices."""

    read_at: float
    hosts: tuple[HostRow, ...]
    beats: tuple[WorkerBeat, ...]
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
        beats = [beat for beat in self.beats if beat.host == row.name]
        return worker_rows((), beats, self.holders, self.read_at)

    def jobs_on(self, row: HostRow, gpu: Gpu) -> list[str]:
        """The jobs that lease that GPU of that host."""
        return jobs_on(self.leases, row.name, gpu)


def read_fleet(ledger: Ledger) -> Fleet:
    """All that the ledger knows of hosts, in one round trip. Raises Unreachable or Refused."""
    return fleet_in(overview.read(ledger.client, overview.Wanted()))


def fleet_in(seen: Overview) -> Fleet:
    """The hosts in an overview of the ledger."""
    now = seen.read_at
    beats = [beat for beat in seen.beats if abs(now - beat.consumed_at) <= host_heartbeat.LISTED_FOR_S]
    rows = host_rows(host_heartbeat.listed(seen.hosts.values(), now), beats, seen.holders, now)
    return Fleet(now, rows, tuple(beats), seen.holders, seen.leases)


def host_rows(
    heartbeats: Sequence[HostHeartbeat], beats: Sequence[WorkerBeat], holders: Sequence[tuple[str, int]], now: float
) -> tuple[HostRow, ...]:
    """A row for each host, by name; `holders` are the names, with host, and pids of the workers of all running jobs."""
    live = [beat.host for beat in beats if now - beat.seen_at <= BEAT_TTL_S]
    jobs = [name.rpartition("@")[2] for name, _ in holders]
    rows = []
    for name in sorted({*live, *(beat.host for beat in heartbeats)}):
        supervisors = [beat for beat in heartbeats if beat.host == name]
        newest = max(supervisors, key=lambda beat: (age_s(beat, now) <= SILENT_AFTER_S, beat.started_at), default=None)
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


def state_of(beat: HostHeartbeat, now: float) -> str:
    """RUNNING or SILENT, by the age of a supervisor's newest heartbeat."""
    return RUNNING if age_s(beat, now) <= SILENT_AFTER_S else SILENT


def age_s(beat: HostHeartbeat, now: float) -> float:
    """How old a heartbeat is. One from the future is as old: the server's clock was set back."""
    return abs(now - beat.seen_at)


def clock_fault(beat: HostHeartbeat) -> str | None:
    """What is wrong with a host's clock, in one sentence with both times; None when it is right within seconds."""
    offset_s = beat.clock_offset_s
    if abs(offset_s) <= CLOCK_WARNING_S:
        return None
    here, server = (_utc(seconds) for seconds in (beat.seen_at + offset_s, beat.seen_at))
    return f"The clock of {beat.host} is {describe_offset(offset_s)} that of Redis: {here} there, {server} by Redis."


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
