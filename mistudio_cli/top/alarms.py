"""What is wrong, in sentences, the worst first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mistudio_cli.monitor.health.causes import BROKEN, LEAST_DISK
from mistudio_cli.terminal.humanize import duration, size
from mistudio_cli.top.foreign_workers import mute_workers
from mistudio_cli.top.reading import SOURCES
from mistudio_cli.top.text import clean

if TYPE_CHECKING:
    from mistudio_cli.top.foreign_workers import mute_workers
from mistudio_cli.top.reading import Parts


def alarms(parts: Parts) -> list[str]:
    """A sentence for each part that could not be read, and for each worker, queue, device and disk in trouble."""
    return [*_unread(parts), *_of_workers(parts), *_of_queues(parts), *_of_devices(parts), *_of_hosts(parts)]


def _unread(parts: Parts) -> Iterator[str]:
    for source, message in parts.errors:
        yield f"{clean(source)}: {clean(message)}{_age(parts, source)}"
    if not parts.errors and parts.jobs.is_stale:
        yield f"reading takes long{_age(parts, 'ledger')}"


def _age(parts: Parts, source: str) -> str:
    """How old the values are that are shown in place of what could not be read."""
    shown = [part for name in SOURCES if SOURCES[name] == source and (part := getattr(parts, name)).value is not None]
    return f" (shown as of {duration(max(part.age_s for part in shown))} ago)" if shown else ""


def _of_workers(parts: Parts) -> Iterator[str]:
    for name in mute_workers(parts.celery.value):
        yield f"{clean(name)} heartbeats but does not reply to Celery"
    for row in parts.workers.value or ():
        if row.state not in BROKEN:
            continue
        since = row.seen_age_s if row.state == "silent" else row.loop_age_s if row.state == "unresponsive" else None
        for_s = "" if since is None else f" for {duration(since)}"
        why = row.refusal if row.state == "refused" else row.last_exit if row.state in ("fatal", "backoff") else None
        yield f"{clean(row.name)} is {row.state}{for_s}" + (f": {clean(why)}" if why else "")


def _of_queues(parts: Parts) -> Iterator[str]:
    for row in parts.queues.value or ():
        if not row.pending:
            continue
        if row.state == "no worker":
            yield f"queue {clean(row.name)}: {row.pending} queued, no worker (mistudio workers start full)"
        elif row.state == "paused":
            yield f"queue {clean(row.name)}: {row.pending} queued, paused (mistudio queue resume {clean(row.name)})"


def _of_devices(parts: Parts) -> Iterator[str]:
    for card in parts.devices.value.devices if parts.devices.value is not None else ():
        if card.problem:
            yield f"GPU {card.label}: {clean(card.problem)}"


def _of_hosts(parts: Parts) -> Iterator[str]:
    host = parts.host.value
    free, total = (None, None) if host is None else (host.disk_free, host.disk_total)
    if free is not None and total and free < LEAST_DISK * total:
        yield f"disk: {size(free)} free of {size(total)}"
    for row in parts.hosts.value or ():
        if row.state == "silent":
            age = "" if row.seen_age_s is None else f" for {duration(row.seen_age_s)}"
            yield f"host {clean(row.name)} is silent{age}"
