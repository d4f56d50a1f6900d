"""The hosts of the fleet, where there are others than this one, and their GPUs."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mistudio_cli.top.frame.columns import Drop, Shrink, Table
from mistudio_cli.top.panes.pane import Pane, cells, chosen, note_of, ordered, silent_rows, sorting, summary_of
from mistudio_cli.top.reading import Parts
from mistudio_cli.top.view import View

if TYPE_CHECKING:
    from mistudio_cli.monitor.hosts import HostRow

_STEPS = (
    *(Drop("VERSION"), Drop("LOAD"), Drop("CORES"), Drop("MEMORY"), Drop("CLOCK"), Drop("STORE FREE"), Drop("GPUS")),
    *(Shrink("HOST", 12), Drop("WORKERS"), Drop("BUSY")),
)
_RIGHT = frozenset({"WORKERS", "BUSY", "CORES", "LOAD", "MEMORY", "GPUS", "STORE FREE", "CLOCK"})

KEYS: Mapping[str, Callable[[HostRow], Any]] = {
    "HOST": lambda row: row.name,
    "STATE": lambda row: row.state,
    "WORKERS": lambda row: row.workers,
    "BUSY": lambda row: row.busy,
}


def hosts_pane(parts: Parts, view: View) -> Pane:
    """The hosts."""
    from mistudio_cli.views import host_tables  # not needed for the first frame

    known, text = parts.hosts.value or (), view.filters.get("hosts", "")
    shown = ordered(chosen(known, lambda row: f"{row.name} {row.state}", text), KEYS, view, "hosts")
    headers, rows = host_tables.hosts(shown)
    counts = Counter(row.state for row in known)
    table = Table("hosts", tuple(headers), cells(rows), _STEPS, _RIGHT, **sorting(view, "hosts"))
    return Pane(
        "hosts",
        summary_of(parts.hosts, "hosts", [f"{count} {state}" for state, count in sorted(counts.items())] or ["none"]),
        table,
        tuple(row.name for row in shown),
        active=tuple(number for number, row in enumerate(shown) if row.name != socket.gethostname()),
        note=note_of(parts.hosts, "hosts", text, len(shown), len(known)),
        is_stale=parts.hosts.is_stale,
        dim=silent_rows(rows),
        empty="no host matches" if text else "no host sends heartbeats",
    )


def has_others(parts: Parts) -> bool:
    """Whether there are other hosts than this one."""
    return any(row.name != socket.gethostname() for row in parts.hosts.value or ())
