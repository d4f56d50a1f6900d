"""How fast `full` is up and what it weighs, next to six plain Celery workers in the same run."""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks.fleets import own_fleet, plain_fleet

ROUNDS = 3
IDLE_S = 10.0


def measure() -> list[dict[str, Any]]:
    """Seconds until all six workers have answered, PSS and processes of each fleet; the supervisor alone."""
    ours: list[tuple[float, float, int]] = []
    plain: list[tuple[float, float, int]] = []
    for _ in range(ROUNDS):
        with plain_fleet() as fleet:
            plain.append((fleet.ready_s, fleet.pss_mb(), len(fleet.processes)))
        with own_fleet() as fleet:
            ours.append((fleet.ready_s, fleet.pss_mb(), len(fleet.processes)))
            supervisor = _idle(fleet.processes[0])
    rows = []
    for place, (name, unit) in enumerate((("full is ready", "s"), ("full at rest, PSS", "MB"), ("processes", ""))):
        mine, theirs = (statistics.median(values[place] for values in side) for side in (ours, plain))
        ratio = round(mine / theirs, 2)
        rows.append(
            {"name": name, "unit": unit, "ours": round(mine, 2), "plain celery": round(theirs, 2), "ratio": ratio}
        )
    return [*rows, *supervisor]


def _idle(supervisor: Any) -> list[dict[str, Any]]:
    before = supervisor.cpu_times()
    time.sleep(IDLE_S)
    after = supervisor.cpu_times()
    share = (after.user + after.system - before.user - before.system) / IDLE_S * 100
    weight = supervisor.memory_full_info().pss / 1e6
    return [
        {"name": "supervisor alone, PSS", "unit": "MB", "ours": round(weight, 1)},
        {"name": "supervisor alone, idle", "unit": "% of a core", "ours": round(share, 2)},
    ]
