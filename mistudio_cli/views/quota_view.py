"""Quotas beside what is used of them: read, as a table, as JSON, as a sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mistudio_cli.views import json_shapes, tables
from tasks.jobs.record import State
from tasks.ledger.client import Ledger
from tasks.ledger.listing import Filter
from tasks.ledger.quotas import LIMITS, Quota, count_unstarted, read_quotas

_MOST_RUNNING = 10_000


@dataclass(frozen=True)
class Used:
    """An owner's quota, and how many jobs count for each of its limits, in the order of `LIMITS`."""

    owner: str
    quota: Quota
    counts: tuple[int, ...]


def read_used(ledger: Ledger) -> list[Used]:
    """Every quota with what is used of it, by owner."""
    quotas = read_quotas(ledger.client)
    running = ledger.page(Filter(states=(State.RUNNING,)), _MOST_RUNNING).jobs if quotas else ()
    found = []
    for owner, quota in sorted(quotas.items()):
        own = [job for job in running if job.owner == owner]
        counts = (len(own), sum(job.holds_gpu for job in own), count_unstarted(ledger.client, owner))
        found.append(Used(owner, quota, counts))
    return found


def table(rows: Sequence[Used]) -> tables.Table:
    """`fleet quota ls`: what is used of each limit, as "3 of 4"; without a limit what is used alone."""
    cells = [
        [
            f"{count} of {limit}" if limit is not None else str(count)
            for count, limit in zip(row.counts, dataclasses.astuple(row.quota), strict=True)
        ]
        for row in rows
    ]
    return ["OWNER", *(name.upper() for name in LIMITS)], [
        [row.owner, *of_row] for row, of_row in zip(rows, cells, strict=True)
    ]


def shape(read_at: float, rows: Sequence[Used]) -> dict[str, Any]:
    """`fleet quota ls --json`."""
    shapes_of_quotas = [
        {
            "owner": row.owner,
            "limits": dataclasses.asdict(row.quota),
            "used": dict(zip(LIMITS, row.counts, strict=True)),
        }
        for row in rows
    ]
    return {"read_at": json_shapes.time(read_at), "quotas": shapes_of_quotas, "errors": []}


def sentence(ledger: Ledger, owner: str) -> str:
    """The quota in force of one owner, after it was set."""
    limits = dataclasses.asdict(read_quotas(ledger.client).get(owner, Quota()))
    words = [f"{name} {limit}" for name, limit in limits.items() if limit is not None]
    return f"The quota of {owner}: {', '.join(words)}."
