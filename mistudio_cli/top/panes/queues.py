"""The queues; those with anything in them come in the compact form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mistudio_cli.top.frame.columns import Drop, Shrink, Table
from mistudio_cli.top.panes.pane import Pane, cells, chosen, note_of, ordered, sorting, summary_of
from mistudio_cli.top.reading import Parts
from mistudio_cli.top.view import View
from mistudio_cli.views import tables

if TYPE_CHECKING:
    from mistudio_cli.monitor.snapshot import QueueRow

_STEPS = (
    *(Drop("SLOTS"), Drop("CONSUMERS"), Drop("OLDEST"), Drop("DONE/MIN"), Drop("ETA"), Drop("RUNNING")),
    *(Shrink("QUEUE", 8), Drop("PENDING")),
)
_RIGHT = frozenset({"PENDING", "RUNNING", "OLDEST", "CONSUMERS", "SLOTS", "DONE/MIN"})

KEYS: Mapping[str, Callable[[QueueRow], Any]] = {
    "QUEUE": lambda row: row.name,
    "STATE": lambda row: row.state,
    "PENDING": lambda row: row.pending,
    "RUNNING": lambda row: row.running,
    "OLDEST": lambda row: row.oldest_age_s,
    "ETA": lambda row: row.eta_s if row.pending else None,
}


def queues_pane(parts: Parts, view: View) -> Pane:
    """The queues."""
    known, text = parts.queues.value or (), view.filters.get("queues", "")
    shown = ordered(chosen(known, lambda row: f"{row.name} {row.state}", text), KEYS, view, "queues")
    headers, rows = tables.queues(shown)
    table = Table("queues", tuple(headers), cells(rows), _STEPS, _RIGHT, **sorting(view, "queues"))
    return Pane(
        "queues",
        summary_of(parts.queues, "queues", _items(known), " "),
        table,
        tuple(row.name for row in shown),
        active=tuple(number for number, row in enumerate(shown) if row.pending or row.running),
        note=note_of(parts.queues, "queues", text, len(shown), len(known)),
        is_stale=parts.queues.is_stale,
        empty="no queue matches",
    )


def _items(rows: Sequence[QueueRow]) -> list[str]:
    """The queues with anything in them, those with something queued first."""
    urgent_first = sorted(rows, key=lambda row: not row.pending)
    return [*filter(None, map(_short, urgent_first))] or ["empty"]


def _short(row: QueueRow) -> str:
    """A queue in a few words: pending+running, and its state unless that is ok; nothing of an empty one that is."""
    if not (row.pending or row.running):
        return f"{row.name} {row.state}" if row.state == "paused" else ""
    count = f"{row.pending}+{row.running}" if row.running else str(row.pending)
    return f"{row.name} {count}" + ("" if row.state == "ok" else f" {row.state}")
