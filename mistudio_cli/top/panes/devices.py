"""The GPUs with the jobs and the other processes on them: those of this machine, and those that other hosts report."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mistudio_cli.monitor.device_holders import holders_of, other_processes_of
from mistudio_cli.top.frame.columns import Drop, Shrink, Table
from mistudio_cli.top.frame.text import clean
from mistudio_cli.top.panes.pane import Pane, cells, chosen, note_of, ordered, silent_rows, sorting, summary_of
from mistudio_cli.top.reading import Parts
from mistudio_cli.top.view import View
from mistudio_cli.views import tables
from tasks.accelerators.devices import Device, Devices

_STEPS = (Shrink("NAME", 12), Drop("POWER"), Drop("TEMP"), Drop("NAME"), Drop("MEMORY"), Drop("JOBS"))
_RIGHT = frozenset({"BUSY", "TEMP", "POWER"})
_GIB = 1 << 30


@dataclass(frozen=True)
class Card:
    """A GPU as a row; `device` is what was read of it, where it is this machine's."""

    id: str
    row: tuple[str, ...]
    words: str
    device: Device | None = None


def _measured(read: Callable[[Device], Any]) -> Callable[[Card], Any]:
    return lambda card: None if card.device is None else read(card.device)


KEYS: Mapping[str, Callable[[Card], Any]] = {
    "NAME": lambda card: card.row[1],
    "BUSY": _measured(lambda device: device.utilisation),
    "MEMORY": _measured(lambda device: device.memory_used),
    "TEMP": _measured(lambda device: device.temperature),
    "POWER": _measured(lambda device: device.power),
}


def devices_pane(parts: Parts, view: View) -> Pane:
    """The GPUs."""
    found, text = parts.devices.value or Devices(), view.filters.get("gpus", "")
    headers, here = _of_this_machine(found.devices, parts)
    known = [*here, *_of_others(parts)]
    shown = ordered(chosen(known, lambda card: card.words, text), KEYS, view, "gpus")
    rows = [card.row for card in shown]
    note = note_of(parts.devices, "GPUs", text, len(shown), len(known))
    limit = clean(found.limit) if found.limit else ""
    return Pane(
        "gpus",
        summary_of(parts.devices, "GPUs", [*_items(found, len(known) - len(here)), *filter(None, [limit])], " · "),
        Table("gpus", tuple(headers), cells(rows), _STEPS, _RIGHT, None, **sorting(view, "gpus")),
        tuple(card.id for card in shown),
        active=tuple(range(len(shown))),
        note=" · ".join(filter(None, (note, limit and f"GPUs: {limit}"))),
        is_stale=parts.devices.is_stale,
        dim=silent_rows(rows),
        empty="no GPU matches" if text else "",
    )


def _of_this_machine(found: Sequence[Device], parts: Parts) -> tuple[list[str], list[Card]]:
    holders = {card.key: holders_of(card, parts.leases.value) for card in found}
    headers, rows = tables.devices(found, holders, {card.key: other_processes_of(card) for card in found})
    return headers, [Card(card.key, tuple(row), " ".join(row), card) for card, row in zip(found, rows, strict=True)]


def _of_others(parts: Parts) -> Iterator[Card]:
    """The GPUs of other hosts, by their newest heartbeats."""
    if not parts.hosts.value:
        return
    from mistudio_cli.views import host_tables

    _, rows = host_tables.remote_gpus(parts.hosts.value, parts.leases.value, socket.gethostname())
    for label, name, busy, free, temperature, power, jobs, read in rows:
        used_by = f"{read}: {jobs}" if read.startswith("silent") else f"{jobs} ({read})"
        row = (label, name, busy, f"{free} free", temperature, power, used_by)
        yield Card(label, row, " ".join(row))


def _items(found: Devices, others: int) -> list[str]:
    here = [*map(_short, found.devices)] or [found.reason or "none here"]
    return [*here, f"{others} on other hosts"] if others else here


def _short(card: Device) -> str:
    """Such as "0 57 % 4/80G"."""
    if card.problem:
        return f"{card.label} {clean(card.problem)}"
    share = "n/a" if card.utilisation is None else f"{card.utilisation:.0f} %"
    return f"{card.label} {share} {_gib(card.memory_used)}/{_gib(card.memory_total)}G"


def _gib(amount: int | None) -> str:
    return "?" if amount is None else f"{amount / _GIB:.0f}"
