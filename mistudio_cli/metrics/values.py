"""From a snapshot to values.

What was not read has no value, and so has what could be read only earlier: never a zero.
"""

from __future__ import annotations

import math
import socket
from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

from mistudio_cli.monitor.consumer_command import BROKEN
from mistudio_cli.monitor.health.causes import health_of
from mistudio_cli.monitor.hosts import RUNNING, jobs_on
from mistudio_cli.monitor.snapshot import Snapshot
from mistudio_cli.supervisor.states import IDLE
from mistudio_cli.terminal.humanize import one_line
from tasks.accelerators.devices import Device
from tasks.fleet.host_heartbeat import Gpu
from tasks.jobs.record import Job, State
from tasks.ledger.totals import Distribution

#: How many running trainings have series.
MOST_TRAININGS = 50

_LONGEST_NAME = 200

#: States of a worker that takes no jobs.
_DOWN = (*BROKEN, *IDLE, "starting")
_LEDGER, _SUPERVISOR, _DEVICES, _PROCESSES = "ledger", "supervisor", "devices", "processes"

#: What a training measures, by the names of docs/metrics.md.
_MEASURES = {"loss": "loss", "l0": "l0", "fvu": "fvu", "tokens_per_second": "tokens_per_s"}


class Value(NamedTuple):
    """A value of the family of that name, with its labels in the family's order."""

    family: str
    labels: tuple[str, ...]
    value: float | Distribution


def values_of(seen: Snapshot) -> Iterator[Value]:
    """Every value, each series once."""
    found: set[tuple[str, tuple[str, ...]]] = set()
    for family, labels, value in _all(seen):
        series = family, tuple(map(_clean, labels))
        is_number = isinstance(value, Distribution) or (value is not None and math.isfinite(value))
        if is_number and series not in found:
            assert value is not None
            found.add(series)
            yield Value(*series, value)


_Found = Iterator[tuple[str, tuple[str, ...], float | Distribution | None]]


def _all(seen: Snapshot) -> _Found:
    unread = {trouble.part for trouble in seen.errors}
    if _LEDGER not in unread:
        yield from _queues(seen)
        yield from _totals(seen)
        yield from _trainings(seen)
        yield from _other_devices(seen)
    yield from _workers(seen, unread)
    if _DEVICES not in unread:
        yield from _devices(seen)
    for code, count in Counter(cause.code for cause in health_of(seen).causes).items():
        yield "health_causes", (code,), count
    for name, part in seen.parts.items():
        if part.value is not None or part.error is not None:
            yield "source_up", (name,), int(part.error is None)
        yield "source_age_seconds", (name,), part.age_s


def _queues(seen: Snapshot) -> _Found:
    for row in seen.queues or ():
        labels = (row.name,)
        yield "queue_pending", labels, row.pending
        yield "queue_running", labels, row.running
        yield "queue_oldest_age_seconds", labels, row.oldest_age_s
        yield "queue_consumers", labels, row.consumers
        yield "queue_slots", labels, row.slots
        yield "queue_paused", labels, int(row.state == "paused")


def _totals(seen: Snapshot) -> _Found:
    if seen.totals is None:
        return
    for key, count in seen.totals.jobs.items():
        yield "jobs", key, count
    for kind, count in seen.totals.attempts.items():
        yield "attempts", (kind,), count
    for name, of_kinds in (("job_duration_seconds", seen.totals.durations), ("job_wait_seconds", seen.totals.waits)):
        for kind, distribution in of_kinds.items():
            yield name, (kind,), distribution


def _trainings(seen: Snapshot) -> _Found:
    running = [job for job in seen.jobs or () if job.state is State.RUNNING and job.kind == "train"]
    for job in running[:MOST_TRAININGS]:
        labels = (job.id, job.name)
        for name, measure in _MEASURES.items():
            yield f"training_{name}", labels, (job.metrics or {}).get(measure)
        yield "training_progress_ratio", labels, _share_done(job)


def _share_done(job: Job) -> float | None:
    progress = job.progress
    return min(1.0, progress.done / progress.total) if progress is not None and progress.total else None


def _workers(seen: Snapshot, unread: Collection[str]) -> _Found:
    """Without the ledger those alone of which the supervisor knows, and the other way round.

    What an older process of a worker still finishes counts as the worker's.
    """
    rows = seen.workers or ()
    busy, held = Counter[str](), Counter[str]()
    for row in rows:
        busy[row.name] += row.busy or 0
        held[row.name] += row.pss_bytes or 0
    for row in rows:
        labels, is_supervised = (row.name, row.name.rpartition("@")[2]), row.restarts is not None
        if (_SUPERVISOR if is_supervised else _LEDGER) in unread:
            continue
        yield "worker_up", labels, int(row.state not in _DOWN)
        yield "worker_slots", labels, row.slots
        yield "worker_busy", labels, None if _LEDGER in unread or row.busy is None else busy[row.name]
        yield "worker_restarts", labels, row.restarts
        yield "worker_memory_bytes", labels, None if _PROCESSES in unread or row.pss_bytes is None else held[row.name]


def _devices(seen: Snapshot) -> _Found:
    host = socket.gethostname() if seen.host is None else seen.host.name
    leased = None if seen.leases is None else Counter(lease.key for lease in seen.leases.values())
    for card in seen.devices.devices if seen.devices is not None else ():
        labels = (card.uuid or "", card.label, host)
        yield from _device(card, labels)
        yield "device_jobs", labels, None if leased is None else leased[card.key]


def _device(card: Device, labels: tuple[str, ...]) -> _Found:
    yield "device_up", labels, int(card.problem is None)
    yield "device_memory_bytes", labels, card.memory_total
    yield "device_memory_used_bytes", labels, card.memory_used
    yield from _measured(card, labels)


def _measured(card: Device | Gpu, labels: tuple[str, ...]) -> _Found:
    yield "device_utilization_ratio", labels, None if card.utilisation is None else card.utilisation / 100
    yield "device_temperature_celsius", labels, card.temperature
    yield "device_power_watts", labels, card.power


def _other_devices(seen: Snapshot) -> _Found:
    """GPUs of other hosts, by the heartbeats of their supervisors."""
    for row in seen.hosts or ():
        if (
            row.state != RUNNING
            or row.newest is None
            or (seen.devices is not None and row.name == socket.gethostname())
        ):
            continue
        for gpu in row.newest.gpus or ():
            labels = (gpu.uuid or "", str(gpu.index), row.name)
            is_known = gpu.memory_total is not None and gpu.memory_free is not None
            yield "device_up", labels, int(gpu.error is None)
            yield "device_memory_bytes", labels, gpu.memory_total
            yield "device_memory_used_bytes", labels, gpu.memory_total - gpu.memory_free if is_known else None  # type: ignore[operator]
            yield from _measured(gpu, labels)
            yield "device_jobs", labels, None if seen.leases is None else len(jobs_on(seen.leases, row.name, gpu))


def _clean(text: str) -> str:
    """A label's value: one line, of bounded length, that can be written as UTF-8."""
    return one_line(text)[:_LONGEST_NAME].encode("utf-8", "replace").decode()
