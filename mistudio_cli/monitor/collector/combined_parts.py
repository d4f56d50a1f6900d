"""From the parts that a collector has read to one snapshot."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mistudio_cli.fleet.supervisor_client import own_redis_not_running
from mistudio_cli.machine.background_reading import Reading
from mistudio_cli.monitor.collector import part_errors
from mistudio_cli.monitor.collector.sources import UnreadableDevices
from mistudio_cli.monitor.hosts import host_rows
from mistudio_cli.monitor.queue_rows import consuming, queue_rows
from mistudio_cli.monitor.snapshot import Part, Snapshot, Trouble, WorkerRow
from mistudio_cli.monitor.worker_rows import shown_heartbeats, worker_rows
from tasks.fleet import host_heartbeat
from tasks.ledger.overview import Overview
from tasks.paths import Places
from tasks.redis_client import server_state
from tasks.redis_client.redis_url import Address

if TYPE_CHECKING:
    from mistudio_cli.machine.host import Host
    from tasks.accelerators.devices import Devices

#: Of a part that was not asked for.
_NOTHING: Reading[Any] = Reading()


def snapshot_of(found: Mapping[str, Reading[Any]], places: Places, address: Address | None) -> Snapshot:
    """What there is, by part. Without a part `ledger` no Redis runs, so there are no workers elsewhere."""
    parts = {name: _part(name, reading, places, address) for name, reading in found.items()}
    status: dict[str, Any] | None = _value(found, "supervisor")
    if (missing := _missing_ledger(found, status, places)) is not None:
        parts["ledger"] = missing
    seen = _of_ledger(found, parts)
    return replace(
        seen,
        supervisor=(status or {}).get("supervisor"),
        workers=_workers(found, parts),
        devices=_devices(found),
        host=_host(found),
        celery=_value(found, "celery"),
        errors=tuple(_troubles(parts)),
        parts=parts,
    )


def _troubles(parts: Mapping[str, Part]) -> Iterator[Trouble]:
    """Why parts could not be read. Celery is asked over the ledger's Redis: of that, one is enough."""
    is_unread = "ledger" in parts and parts["ledger"].error is not None
    for name, part in parts.items():
        if part.error is not None and not (is_unread and name == "celery"):
            yield Trouble(name, part.error, part.age_s)


def _part(name: str, reading: Reading[Any], places: Places, address: Address | None) -> Part:
    error = None if reading.error is None else part_errors.describe(name, reading.error, places, address)
    return Part(reading.value, reading.read_at, reading.age_s, error)


def _value(found: Mapping[str, Reading[Any]], part: str) -> Any:
    return found.get(part, _NOTHING).value


def _missing_ledger(found: Mapping[str, Reading[Any]], status: dict[str, Any] | None, places: Places) -> Part | None:
    """The part of a Redis that does not run although workers do; None where that is as it should be."""
    if "ledger" in found or not (status or {}).get("workers"):
        return None
    if trouble := (status or {}).get("redis", {}).get("trouble"):
        return Part(error=trouble)
    return Part(error=part_errors.describe("ledger", own_redis_not_running(places), places))


def _of_ledger(found: Mapping[str, Reading[Any]], parts: Mapping[str, Part]) -> Snapshot:
    overview: Overview | None = _value(found, "ledger")
    if overview is None:
        return Snapshot(hosts=None if "ledger" in parts else ())
    now, running = overview.read_at, {job.id for job in overview.running}
    live = consuming(overview.heartbeats, now)
    return Snapshot(
        read_at=now,
        queues=queue_rows(overview, live),
        jobs=(*overview.running, *(job for job in overview.recent if job.id not in running)),
        next=overview.next,
        leases=overview.leases,
        hosts=host_rows(
            host_heartbeat.listed(overview.hosts.values(), now), shown_heartbeats(overview), overview.holders, now
        ),
        queued=overview.queued,
        consuming=len(live),
        server=server_state.decode(overview.server_info),
        totals=overview.totals,
    )


def _workers(found: Mapping[str, Reading[Any]], parts: Mapping[str, Part]) -> tuple[WorkerRow, ...] | None:
    """The workers of which the supervisor or the ledger could be asked; None when that leaves nothing to show."""
    status, overview = _value(found, "supervisor"), _value(found, "ledger")
    supervised = (status or {}).get("workers", ())
    uses = _value(found, "processes")
    if overview is None:
        rows = worker_rows(supervised, None, (), time.time(), uses)
        return rows if rows or ("ledger" not in parts and status is not None) else None
    is_stale = parts["ledger"].error is not None
    rows = worker_rows(
        supervised, shown_heartbeats(overview), overview.holders, overview.read_at, uses, is_stale=is_stale
    )
    return rows if rows or (status is not None and not is_stale) else None


def _devices(found: Mapping[str, Reading[Any]]) -> Devices | None:
    """The devices; where they have never been read, why."""
    reading = found.get("devices", _NOTHING)
    if reading.value is None and isinstance(reading.error, UnreadableDevices):
        return reading.error.found
    devices: Devices | None = reading.value
    return devices


def _host(found: Mapping[str, Reading[Any]]) -> Host | None:
    host: Host | None = _value(found, "host")
    disk = _value(found, "disk")
    return host if host is None or disk is None else replace(host, disk_total=disk.total, disk_free=disk.free)
