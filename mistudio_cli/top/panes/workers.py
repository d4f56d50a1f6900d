"""The workers; those that run jobs or are in trouble come in the compact form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mistudio_cli.monitor.consumer_command import BROKEN, START_WORKERS
from mistudio_cli.terminal import output
from mistudio_cli.top.foreign_workers import foreign_rows
from mistudio_cli.top.frame.columns import Drop, Shrink, Table
from mistudio_cli.top.panes.pane import Pane, cells, chosen, note_of, ordered, silent_rows, sorting, summary_of
from mistudio_cli.top.reading import Parts
from mistudio_cli.top.view import View
from mistudio_cli.views import tables

if TYPE_CHECKING:
    from mistudio_cli.monitor.snapshot import WorkerRow

_STEPS = (
    *(Shrink("LAST EXIT", 12), Drop("LAST EXIT"), Drop("UP"), Drop("RESTARTS"), Drop("CPU"), Drop("JOB MEM")),
    *(Drop("MEMORY"), Drop("PID"), Shrink("WORKER", 20), Drop("QUEUES"), Shrink("WORKER", 8), Drop("BUSY")),
)
_RIGHT = frozenset({"PID", "BUSY", "MEMORY", "JOB MEM", "CPU", "RESTARTS", "UP"})

KEYS: Mapping[str, Callable[[WorkerRow], Any]] = {
    "WORKER": lambda row: row.name,
    "STATE": lambda row: row.state,
    "BUSY": lambda row: row.busy,
    "MEMORY": lambda row: row.pss_bytes,
    "CPU": lambda row: row.cpu_percent,
    "RESTARTS": lambda row: row.restarts,
}


def workers_pane(parts: Parts, view: View) -> Pane:
    """The workers."""
    known = (*(parts.workers.value or ()), *foreign_rows(parts.celery.value))
    text = view.filters.get("workers", "")
    shown = ordered(chosen(known, _words, text), KEYS, view, "workers")
    headers, rows = tables.workers(shown, parts.now)
    table = Table("workers", tuple(headers), cells(rows), _STEPS, _RIGHT, None, **sorting(view, "workers"))
    return Pane(
        "workers",
        summary_of(parts.workers, "workers", _counts(known)),
        table,
        tuple(row.name for row in shown),
        active=tuple(number for number, row in enumerate(shown) if row.busy or row.state in BROKEN),
        note=note_of(parts.workers, "workers", text, len(shown), len(known)),
        is_stale=parts.workers.is_stale,
        dim=silent_rows(rows),
        empty="no worker matches" if text else f"no workers: {output.suggested(START_WORKERS)}",
    )


def _words(row: WorkerRow) -> str:
    return " ".join((row.name, row.state, *row.queues))


def _counts(rows: tuple[WorkerRow, ...]) -> list[str]:
    """Such as "7 up" and "1 silent"."""
    counts = Counter("up" if row.state == "running" else row.state for row in rows)
    up = counts.pop("up", 0)
    return [f"{up} up", *(f"{count} {state}" for state, count in sorted(counts.items()))] if rows else ["none"]
