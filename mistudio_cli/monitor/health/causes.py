"""What is wrong with the fleet, by a snapshot: each cause in a sentence, with the command that fixes or shows it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

from mistudio_cli.errors import has_fix
from mistudio_cli.monitor.consumer_command import BROKEN, cause_command, consumer_command
from mistudio_cli.monitor.hosts import RUNNING as HOST_RUNNING
from mistudio_cli.monitor.hosts import SILENT, HostRow, clock_fault
from mistudio_cli.monitor.snapshot import QueueRow, Snapshot, WorkerRow
from mistudio_cli.supervisor.states import SILENCE_S
from mistudio_cli.terminal.humanize import duration, one_line, size
from tasks.accelerators.devices import ABSENT
from tasks.fleet.clock_offset import CLOCK_FIX, CLOCK_WARNING_S
from tasks.fleet.host_heartbeat import HostHeartbeat
from tasks.jobs.record import State
from tasks.settings import current

#: The least free share of the disk that holds the store.
LEAST_DISK = 0.05

OLD_WAIT_S = 3600.0
NO_PROGRESS_S = 900.0
MUCH_MEMORY = 0.9

#: What a worker in each of the broken states does, for a sentence.
_DOES = {
    "silent": "sent no heartbeat",
    "unresponsive": "received no message",
    "refused": "may not consume",
    "backoff": "exited and is restarted after a delay",
    "fatal": "exits again and again",
}

_SEE_TO_DRIVER = "nvidia-smi"


@dataclass(frozen=True)
class HealthCause:
    """One thing that is wrong. `since` is in seconds since the epoch; None: not known, or of none.

    `part` is the part of the snapshot that could not be read, where that is the cause.
    """

    code: str
    sentence: str
    command: str | None = None
    queue: str | None = None
    worker: str | None = None
    since: float | None = None
    is_critical: bool = False
    part: str | None = None


@dataclass(frozen=True)
class Health:
    """ "healthy", "warning", or "critical": nothing can run, or nothing can be read; and why, the worst first."""

    status: str
    causes: tuple[HealthCause, ...] = ()


def health_of(seen: Snapshot) -> Health:
    """The health of everything in a snapshot. What is not in it, or has not been read yet, is not judged."""
    found = [*_unread(seen), *_of_redis(seen), *_of_workers(seen), *_of_celery(seen), *_of_queues(seen)]
    found += [*_of_jobs(seen), *_of_devices(seen), *_of_disk(seen), *_of_hosts(seen)]
    causes = tuple(sorted(found, key=lambda cause: not cause.is_critical))
    return Health("critical" if causes and causes[0].is_critical else "warning" if causes else "healthy", causes)


def _unread(seen: Snapshot) -> Iterator[HealthCause]:
    for trouble in seen.errors:
        is_ledger, card = trouble.part == "ledger", trouble.part == "devices"
        code = "ledger_unread" if is_ledger else "gpu" if card else "part_unread"
        message, part = one_line(trouble.message), seen.parts.get(trouble.part)
        yield HealthCause(
            code,
            message if is_ledger or card else f"{trouble.part}: {message}",
            None if has_fix(message) else _SEE_TO_DRIVER if card else "mistudio doctor",
            since=None if part is None else part.read_at,
            is_critical=is_ledger,
            part=trouble.part,
        )


def _of_redis(seen: Snapshot) -> Iterator[HealthCause]:
    server = seen.server
    if server is None:
        return
    share = server.memory_share
    if share is not None and share >= MUCH_MEMORY:
        used, limit = size(server.memory_used), size(server.memory_limit)
        sentence = f"Redis uses {used} of its maxmemory of {limit}"
        is_full = share >= 1 and not server.evicts
        end = ": it refuses writes, so no job can start" if is_full else ""
        yield HealthCause("redis_memory", sentence + end, "redis-cli CONFIG SET maxmemory 0", is_critical=is_full)
    if server.keeps_file is False:
        sentence = "Redis has no append-only file: a crash of it loses jobs"
        yield HealthCause("redis_file", sentence, "redis-cli CONFIG SET appendonly yes")


def _of_queues(seen: Snapshot) -> Iterator[HealthCause]:
    rows = [row for row in seen.queues or () if row.pending]
    if rows and seen.consuming == 0:
        pending = sum(row.pending for row in rows)
        sentence = f"No worker consumes any queue: {pending} pending"
        command = consumer_command([row.name for row in rows], seen.workers or ())
        yield HealthCause("no_workers", sentence, command, is_critical=True)
    for row in rows:
        yield from _of_queue(row, seen)


def _of_queue(row: QueueRow, seen: Snapshot) -> Iterator[HealthCause]:
    name, peek, now = row.name, f"mistudio queue peek {row.name}", seen.read_at or 0.0
    oldest_at = None if row.oldest_age_s is None else now - row.oldest_age_s
    if row.state == "paused":
        sentence = f"Queue '{name}' has {row.pending} pending and is paused"
        yield HealthCause("paused", sentence, f"mistudio queue resume {name}", name, since=row.paused_at or None)
    if not row.consumers:
        sentence = f"Queue '{name}' has {row.pending} pending and no worker"
        yield HealthCause("no_consumer", sentence, consumer_command([name], seen.workers or ()), name, since=oldest_at)
    if row.pending > current("backlog_threshold"):
        yield HealthCause("backlog", f"Queue '{name}' has a backlog of {row.pending}", peek, name)
    if row.oldest_age_s is not None and row.oldest_age_s > OLD_WAIT_S:
        sentence = f"Queue '{name}' has a job that has waited for {duration(row.oldest_age_s)}"
        yield HealthCause("oldest_wait", sentence, peek, name, since=oldest_at)


def _of_workers(seen: Snapshot) -> Iterator[HealthCause]:
    for row in seen.workers or ():
        if row.state in BROKEN:
            yield _of_worker(row, seen.read_at)


def _of_worker(row: WorkerRow, now: float | None) -> HealthCause:
    """A worker is silent or unresponsive since its last heartbeat, or since its loop last ran."""
    age_s = {"silent": row.seen_age_s, "unresponsive": row.loop_age_s}.get(row.state)
    why = {"refused": row.refusal, "fatal": row.last_exit, "backoff": row.last_exit}.get(row.state)
    sentence = f"{row.name} {_DOES[row.state]}"
    sentence += "" if age_s is None else f" for {duration(age_s)}"
    sentence += f": {one_line(why)}" if why else ""
    is_supervised = row.restarts is not None  # known by more than its heartbeats, by the supervisor that replaces it
    is_replaced = row.state == "silent" and is_supervised and (age_s or 0.0) < SILENCE_S
    sentence += f", replaced at {SILENCE_S:.0f} s" if is_replaced else ""
    since = None if age_s is None or now is None else now - age_s
    return HealthCause(f"worker_{row.state}", sentence, cause_command(row), worker=row.name, since=since)


def _of_celery(seen: Snapshot) -> Iterator[HealthCause]:
    """Workers whose replies to Celery are not what the ledger says, but for those whose state says why."""
    broken = {row.name for row in seen.workers or () if row.state in BROKEN}
    for found in seen.disagreements:
        if found.worker not in broken:
            code = "worker_mute" if found.is_mute else "disagreement"
            yield HealthCause(code, found.sentence, found.command, worker=found.worker, since=found.since)


def _of_jobs(seen: Snapshot) -> Iterator[HealthCause]:
    for job in seen.jobs or ():
        if job.state is not State.RUNNING or seen.read_at is None:
            continue
        last_at = job.progress_at or (None if job.progress else job.started_at)  # an older ledger does not say when
        if last_at is not None and seen.read_at - last_at > NO_PROGRESS_S:
            sentence = f"Job {job.id} ({job.kind}) has made no progress for {duration(seen.read_at - last_at)}"
            yield HealthCause(
                "no_progress", sentence, f"mistudio jobs explain {job.id}", job.queue, job.worker, since=last_at
            )


def _of_devices(seen: Snapshot) -> Iterator[HealthCause]:
    for card in seen.devices.devices if seen.devices is not None else ():
        if card.problem:
            code = "gpu_lost" if card.is_lost else "gpu"
            yield HealthCause(code, f"GPU {card.label}: {one_line(card.problem)}", _SEE_TO_DRIVER)


def _of_disk(seen: Snapshot) -> Iterator[HealthCause]:
    free, total = (None, None) if seen.host is None else (seen.host.disk_free, seen.host.disk_total)
    if free is not None and total and free < LEAST_DISK * total:
        sentence = f"The disk of the store has {size(free)} free of {size(total)}"
        yield HealthCause("disk", sentence, "mistudio submit cleanup")


def _of_hosts(seen: Snapshot) -> Iterator[HealthCause]:
    """Hosts that are silent, GPUs of others, and clocks: of those that send heartbeats, and apart from each other."""
    live: dict[str, HostHeartbeat] = {}
    for row in seen.hosts or ():
        if row.state == SILENT:
            since = None if row.newest is None else row.newest.seen_at
            age = "" if row.seen_age_s is None else f" for {duration(row.seen_age_s)}"
            yield HealthCause("host_silent", f"Host {row.name} is silent{age}", "mistudio hosts ls", since=since)
        elif row.state == HOST_RUNNING and row.newest is not None:
            live[row.name] = row.newest
            if seen.devices is None or row.name != socket.gethostname():
                yield from _of_gpus(row)
    wrong = [fault for heartbeat in live.values() if (fault := clock_fault(heartbeat))]
    for fault in wrong:
        yield HealthCause("clock", fault.rstrip("."), CLOCK_FIX)
    offsets = sorted((heartbeat.clock_offset_s, name) for name, heartbeat in live.items())
    if not wrong and offsets and offsets[-1][0] - offsets[0][0] > CLOCK_WARNING_S:
        apart_s = offsets[-1][0] - offsets[0][0]
        sentence = f"The clocks of {offsets[0][1]} and {offsets[-1][1]} are {apart_s:.0f} s apart"
        yield HealthCause("clock", sentence, CLOCK_FIX)


def _of_gpus(row: HostRow) -> Iterator[HealthCause]:
    assert row.newest is not None
    if row.newest.gpus_error and row.newest.gpus_error not in ABSENT:
        yield HealthCause(
            "gpu", f"GPUs of {row.name}: {one_line(row.newest.gpus_error)}", f"mistudio hosts show {row.name}"
        )
    for gpu in row.newest.gpus or ():
        if gpu.error:
            sentence = f"GPU {gpu.index} of {row.name}: {one_line(gpu.error)}"
            yield HealthCause("gpu", sentence, f"mistudio hosts show {row.name}")
