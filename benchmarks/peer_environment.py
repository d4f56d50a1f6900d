"""The environment of the peers: finds it and runs a measurement in it.

The peers need other versions than the product, so they have an environment of their own. Ours is measured in it too:
both sides share torch, its allocator and its threads. A module that is run there writes its rows to the file it is
given.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
#: Memory that is given back to the system must be got again at the next step: what `tasks.worker.runner_process` gives
#: to a runner.
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456"}


class NoPeersError(Exception):
    """There is nobody to be measured against."""


def python() -> Path:
    """The interpreter of the peers: `MISTUDIO_PEERS_PYTHON`, or that of `.peers`."""
    path = os.environ.get("MISTUDIO_PEERS_PYTHON")
    found = Path(path) if path else ROOT / ".peers/bin/python"
    if not found.exists():
        raise NoPeersError(f"{found} is not there: `make peers` installs the peers, beside the product.")
    return found


def run_there(
    module: str, allocator: Mapping[str, str] = ALLOCATOR, interpreter: Path | None = None
) -> list[dict[str, Any]]:
    """The rows of a module run among the peers, or by another interpreter, with these settings of the allocator."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        environment = {**os.environ, **allocator, "PYTHONPATH": str(ROOT)}
        command = [interpreter or python(), "-m", module, str(file)]
        subprocess.run(command, env=environment, cwd=folder, stdout=sys.stderr, check=True)  # peers talk
        return json.loads(file.read_text(encoding="utf-8"))


def answer(rows: Callable[[], list[dict[str, Any]]]) -> None:
    """Be such a module: measure, and write the rows to the file that was named."""
    Path(sys.argv[1]).write_text(json.dumps(rows()), encoding="utf-8")
