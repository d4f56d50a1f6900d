"""Finished trainings on planted features: says which need not run again.

Each is a line of a file: its side, what was to be trained, and what was found. A line counts for as long as the side
stays what it was: a peer's version and its setting up here, for ours all code of SAEs as well.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.contest import Task
from benchmarks.peer_environment import ROOT
from benchmarks.planting import Planting, train

KEPT = ROOT / "benchmarks/results/planted.jsonl"
#: What the sides' packages are called.
PACKAGES = {"saelens": "sae-lens", "dictionary_learning": "dictionary-learning", "sparsify": "eai-sparsify"}


@dataclass(frozen=True)
class Cell:
    """One training of one side."""

    side: str
    task: Task
    planting: Planting

    def line(self) -> dict[str, Any]:
        """The key that distinguishes it from all others, for JSON."""
        return {"side": self.side, "is": identity(self.side), **asdict(self.task), **asdict(self.planting)}


@cache
def identity(side: str) -> str:
    """Changes when what the side is trained with does."""
    code = [ROOT / "benchmarks/contest/__init__.py", ROOT / f"benchmarks/contest/{side}.py"]
    if side == "ours":
        code += sorted((ROOT / "tasks/sae").rglob("*.py"))
    mark = hashlib.sha256(b"".join(path.read_bytes() for path in code)).hexdigest()[:12]
    return f"{metadata.version(PACKAGES[side])} {mark}" if side in PACKAGES else mark


def found(cells: Sequence[Cell], workers: int, kept: Path = KEPT) -> list[dict[str, Any] | None]:
    """What each found, None where the side has no such architecture; what is not kept is trained, and then is."""
    known = _read(kept)
    wanted = {json.dumps(cell.line()): cell for cell in cells}
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        missing = ((key, cell) for key, cell in wanted.items() if key not in known)
        begun = {pool.submit(train, cell.side, cell.task, cell.planting): key for key, cell in missing}
        for done in as_completed(begun):
            known[begun[done]] = done.result()
            _write(kept, known)
    return [known[key] for key in wanted]


def _read(kept: Path) -> dict[str, dict[str, Any] | None]:
    """What was found before by sides that are still the same."""
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    rows = [json.loads(line) for line in lines]
    return {json.dumps(row["of"]): row["found"] for row in rows if row["of"]["is"] == identity(row["of"]["side"])}


def _write(kept: Path, known: dict[str, dict[str, Any] | None]) -> None:
    """The whole file at once, so that whoever stops this finds all lines or those of before."""
    lines = [json.dumps({"of": json.loads(key), "found": result}) for key, result in sorted(known.items())]
    beside = kept.with_suffix(".new")
    beside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(beside, kept)
