"""Planted features: does each architecture find what is there, ours and the peers' at equal steps and equal sparsity?

Each side trains at its library's own rate and at 1e-3, from as many seeds; its row is of whichever rate leaves the
lower error. Our rows show how far we are from the best peer, and whether that is within the line: an error of at most
1.05 times the best one, and an MMCS at most 0.02 below the best one. `l0 / k` shows who ended with fewer than asked.
Who ends with more than 1.1 times as many does not compare: that rate is reported only if the other is no better in
this, no peer is the best by it, and ours would not be within the line.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cells import KEPT, Cell, found
from benchmarks.contest import SIDES
from benchmarks.peer_environment import answer, run_there
from benchmarks.planting import Planting
from tasks.sae.architectures import names

SEEDS = (0, 1, 2)
RATES = (None, 1e-3)
PLANTING = Planting()
#: How far ours may be from the best peer's.
FVU_RATIO, MMCS_BELOW = 1.05, 0.02
#: More active features than this, relative to k, are not the sparsity that was asked.
MOST = 1.1

Row = dict[str, Any]


def measure() -> list[Row]:
    """For each architecture and side the means over the seeds, and ours next to the best peer's."""
    return run_there(__name__)


def rows(
    planting: Planting = PLANTING,
    sides: Sequence[str] = SIDES,
    seeds: Sequence[int] = SEEDS,
    workers: int = 1,
    kept: Path = KEPT,
) -> list[Row]:
    """The same, in as many processes of one thread; trainings that are kept are not done again."""
    cells = [
        Cell(side, planting.task(name, rate, seed), planting)
        for seed in seeds
        for rate in RATES
        for name in names()
        for side in sides
    ]
    return table(cells, found(cells, workers, kept))


def table(cells: Sequence[Cell], rows: Sequence[Row | None]) -> list[Row]:
    """What was found by each side of each architecture, at the better rate."""
    by_side: dict[tuple[str, str], dict[float | None, list[Row]]] = {}
    for cell, values in zip(cells, rows, strict=True):
        if values is not None:
            by_side.setdefault((cell.task.architecture, cell.side), {}).setdefault(cell.task.lr, []).append(values)
    made = [_row(*whose, by_rate, cells[0].task.k) for whose, by_rate in sorted(by_side.items(), key=_place)]
    for row in made:
        others = [other for other in made if other["name"] == row["name"] and other["side"] != "ours"]
        peers = [other for other in others if other["l0 / k"] <= MOST]
        if row["side"] == "ours" and peers:
            row |= _next_to(row, peers)
    return [{key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()} for row in made]


def _place(item: tuple[tuple[str, str], Any]) -> tuple[str, int]:
    """By architecture, ours first."""
    return item[0][0], SIDES.index(item[0][1])


def _row(architecture: str, side: str, by_rate: dict[float | None, list[Row]], k: int) -> Row:
    every = {
        rate: {key: statistics.mean(values[key] for values in row) for key in row[0]} for rate, row in by_rate.items()
    }
    rate, means = min(every.items(), key=lambda pair: (max(pair[1]["l0"], MOST * k), pair[1]["fvu"]))
    who = {"name": architecture, "side": side, "rate": "own" if rate is None else rate, "seeds": len(by_rate[rate])}
    return {**who, **means, "l0 / k": means["l0"] / k}


def _next_to(ours: Row, peers: Sequence[Row]) -> Row:
    ratio = ours["fvu"] / min(peer["fvu"] for peer in peers)
    above = ours["mmcs"] - max(peer["mmcs"] for peer in peers)
    holds = ours["l0 / k"] <= MOST and ratio <= FVU_RATIO and above >= -MMCS_BELOW
    return {"fvu / best peer": ratio, "mmcs - best peer": above, "within the line": "yes" if holds else "no"}


if __name__ == "__main__":
    answer(lambda: rows(workers=os.cpu_count() or 1))
