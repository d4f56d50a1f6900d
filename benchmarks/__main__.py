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
from importlib import import_module, metadata
from pathlib import Path

from benchmarks.tables import table

RESULTS = Path(__file__).parent / "results"
#: Imported when they are measured, so that `gpu` runs where neither Redis nor transformers is installed.
MODULES = (
    "commands",
    "queues",
    "fleet",
    "idle",
    "top",
    "rest",
    "restart",
    "sae_step",
    "precision",
    "model_dtype",
    "compiled",
    "peers",
    "whole_job",
)
#: Long, or of a model that is not at hand: measured when they are named, and only then.
LONG = ("planted", "real_model", "real_precision")
#: Half of these is computed in bfloat16, which takes a processor without units for it hundreds of times as long.
IN_BFLOAT16 = ("precision", "model_dtype")


def main(argv: Sequence[str]) -> int:
    """Measure what `argv` names, or everything that does not take an hour; `gpu` and its options stand alone."""
    if list(argv[:1]) == ["gpu"]:
        return import_module("benchmarks.gpu").main(argv[1:])
    for name in argv or MODULES:
        sys.stdout.write(f"{_measure_if_possible(name)}\n")
        sys.stdout.flush()
    last = [RESULTS / f"{name}.md" for name in (*MODULES, *LONG)]
    texts = [path.read_text(encoding="utf-8") for path in last if path.exists()]
    (RESULTS / "latest.md").write_text("\n".join(["# Measurements\n", *texts]), encoding="utf-8")
    return 0


def _measure_if_possible(name: str) -> str:
    """The table, or why there is none on this machine."""
    from benchmarks.peer_environment import NoPeersError
    from tasks.models import bfloat16

    if name in IN_BFLOAT16 and bfloat16.has_units() is False:
        return f"## {name}\n\nNot measured: this processor has no units for bfloat16.\n"
    try:
        return _measure(name)
    except NoPeersError as missing:
        return f"## {name}\n\n{missing}\n"


def _measure(name: str) -> str:
    """Measure, and write the rows and their table."""
    if name not in (*MODULES, *LONG):
        raise SystemExit(f"There is no measurement {name!r}: {', '.join((*MODULES, *LONG, 'gpu'))}")
    rows = import_module(f"benchmarks.{name}").measure()
    (RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    text = "\n".join([f"## {name}", "", *_machine(), "", *table(rows)]) + "\n"
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    return text


def _machine() -> list[str]:
    from tasks.models.cpu_backend import processor

    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("celery", "redis", "typer", "torch"))
    today = datetime.now(UTC).date().isoformat()
    cpu = f"{os.cpu_count()} cores, {processor('model name')}"
    return [f"{today}, {cpu}, Python {platform.python_version()}, {versions}."]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
