"""`make bench`: every measurement in one run, printed and written to benchmarks/results/.

Clocks of a shared machine are noisy: read the ratios, which compare what was measured side by side.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import (
    commands,
    fleet,
    idle,
    model_dtype,
    peers,
    planted,
    queues,
    real_model,
    restart,
    sae_step,
    whole_job,
)
from benchmarks.there import NoPeersError
from tasks.products import processor

RESULTS = Path(__file__).parent / "results"
MODULES = {
    "commands": commands,
    "queues": queues,
    "fleet": fleet,
    "idle": idle,
    "restart": restart,
    "sae_step": sae_step,
    "model_dtype": model_dtype,
    "peers": peers,
    "whole_job": whole_job,
}
#: Long, or of a model that is not at hand: measured when they are named, and only then.
LONG = {"planted": planted, "real_model": real_model}


def main(argv: Sequence[str]) -> int:
    """Measure what `argv` names, or everything that does not take an hour."""
    for name in argv or MODULES:
        try:
            text = _measure(name)
        except NoPeersError as missing:
            text = f"## {name}\n\n{missing}\n"
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    last = [RESULTS / f"{name}.md" for name in {**MODULES, **LONG}]
    told = [path.read_text(encoding="utf-8") for path in last if path.exists()]
    (RESULTS / "latest.md").write_text("\n".join(["# Measurements\n", *told]), encoding="utf-8")
    return 0


def _measure(name: str) -> str:
    """Measure, and write the rows and their table."""
    rows = {**MODULES, **LONG}[name].measure()
    (RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    text = "\n".join([f"## {name}", "", *_machine(), "", *_table(rows)]) + "\n"
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    return text


def _machine() -> list[str]:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("celery", "redis", "typer", "torch"))
    today = datetime.now(UTC).date().isoformat()
    cpu = f"{os.cpu_count()} cores, {processor('model name')}"
    return [f"{today}, {cpu}, Python {platform.python_version()}, {versions}."]


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(str(row.get(column, "")) for column in columns) + " |" for row in rows]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
