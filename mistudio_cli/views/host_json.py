"""From hosts to JSON, as docs/json.md has it. Apart from `shapes`, so that other lists need not import this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mistudio_cli.monitor.hosts import Fleet, HostRow, age_s, jobs_on, state_of
from mistudio_cli.views import json_shapes
from tasks.fleet.host_heartbeat import Gpu, HostHeartbeat
from tasks.ledger.device_lease import Lease


def hosts(fleet: Fleet) -> dict[str, Any]:
    """`hosts ls`."""
    rows = [host(row, fleet.read_at, fleet.leases) for row in fleet.hosts]
    return {"read_at": json_shapes.time(fleet.read_at), "hosts": rows}


def host_in_full(fleet: Fleet, row: HostRow) -> dict[str, Any]:
    """`hosts show`: the host, its workers, and its devices with the jobs that lease them."""
    return {
        "read_at": json_shapes.time(fleet.read_at),
        "host": host(row, fleet.read_at, fleet.leases),
        "workers": [json_shapes.worker(worker) for worker in fleet.workers_on(row)],
        "devices": gpus_of(row, fleet.leases),
    }


def host(row: HostRow, now: float, leases: Mapping[str, Lease] | None) -> dict[str, Any]:
    """One host; `leases` of devices by the jobs' ids, None when they could not be read."""
    heartbeat = row.newest
    return {
        "name": row.name,
        "state": row.state,
        "seen_age_s": None if row.seen_age_s is None else round(row.seen_age_s, 1),
        "workers": row.workers,
        "busy": row.busy,
        "cores": heartbeat and heartbeat.cores,
        "load_1m": None if heartbeat is None or heartbeat.load_1m is None else round(heartbeat.load_1m, 2),
        "memory_bytes": heartbeat and heartbeat.memory_bytes,
        "gpus": gpus_of(row, leases),
        "gpus_error": heartbeat and heartbeat.gpus_error,
        "store": heartbeat and heartbeat.store,
        "store_free_bytes": heartbeat and heartbeat.store_free_bytes,
        "store_error": heartbeat and heartbeat.store_error,
        "clock_offset_s": None if heartbeat is None else round(heartbeat.clock_offset_s, 3),
        "version": heartbeat and heartbeat.version,
        "supervisors": [_supervisor(heartbeat, now) for heartbeat in row.supervisors],
    }


def gpus_of(row: HostRow, leases: Mapping[str, Lease] | None) -> list[dict[str, Any]] | None:
    """The GPUs of a host with the jobs that lease them. None: they are not known."""
    if row.newest is None or row.newest.gpus is None:
        return None
    return [
        {**_gpu(gpu), "jobs": None if leases is None else jobs_on(leases, row.name, gpu)} for gpu in row.newest.gpus
    ]


def _supervisor(heartbeat: HostHeartbeat, now: float) -> dict[str, Any]:
    return {
        "pid": heartbeat.pid,
        "state": state_of(heartbeat, now),
        "home": heartbeat.home,
        "version": heartbeat.version,
        "started_at": json_shapes.time(heartbeat.started_at),
        "seen_age_s": round(age_s(heartbeat, now), 1),
    }


def _gpu(gpu: Gpu) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "name": gpu.name,
        "uuid": gpu.uuid,
        "memory_total_bytes": gpu.memory_total,
        "memory_free_bytes": gpu.memory_free,
        "error": gpu.error,
        "instance": gpu.instance,
        "utilisation_percent": gpu.utilisation,
        "temperature_c": gpu.temperature,
        "power_w": gpu.power,
        "processes": None if gpu.processes is None else [json_shapes.card_process(each) for each in gpu.processes],
        "more_processes": gpu.more_processes,
        "others_bytes": gpu.others_bytes,
    }
