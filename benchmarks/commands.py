"""How long whole commands take, next to Celery's own on the same workers and to the least a Typer command can take.

Bytecode is compiled before the clock starts, as an installation has it, whatever the environment says about writing it.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.fleets import BIN, Fleet, own_fleet
from mistudio_cli.jobs.waiting import wait_for
from tasks.ledger.client import Ledger
from tasks.redis_client.redis_connection import connect
from tasks.storage.store import Store
from tasks.submission.plan import submit

#: Celery's commands take a second or more each, so they are measured in fewer of the rounds.
ROUNDS, ROUNDS_OF_CELERY = 21, 7

#: A whole page of `jobs ls`.
JOBS_SHOWN = 50

BARE_TYPER = """
import typer
app = typer.Typer()
@app.command()
def one(): print("one")
@app.command()
def two(): print("two")
app()
"""

OURS = (
    "--help",
    "queue ls",
    "queue ls --json",
    "jobs ls",
    "jobs ls --json",
    "workers status",
    "workers inspect",
    "top --once",
)


def measure() -> list[dict[str, Any]]:
    """Milliseconds of each command, medians of interleaved rounds after one that only warms up."""
    with own_fleet() as fleet, tempfile.TemporaryDirectory() as folder:
        _do_jobs(fleet, Path(folder))
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE_TYPER)
        commands = _commands(fleet, bare)
        environment = {**fleet.environment, "PYTHONPYCACHEPREFIX": str(Path(folder) / "bytecode")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        times: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(1 + ROUNDS):
            for name, command in commands.items():
                if turn <= ROUNDS_OF_CELERY or not name.startswith("celery"):
                    times[name].append(_milliseconds(command, environment))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    inspect, typer = medians["celery inspect active"], medians["a bare Typer command"]
    return [
        {
            "name": name,
            "unit": "ms",
            "ours" if name.startswith("mistudio") else "peer": round(took),
            "of celery inspect active": round(took / inspect, 2),
            "of a bare Typer command": round(took / typer, 2),
        }
        for name, took in medians.items()
    ]


def _do_jobs(fleet: Fleet, store: Path) -> None:
    """Have the fleet do as many jobs as `jobs ls` shows."""
    ledger = Ledger(connect(fleet.url))
    jobs = [submit(ledger, Store(store), "cleanup", {"count_only": True})[-1] for _ in range(JOBS_SHOWN)]
    wait_for(ledger, [job.id for job in jobs], timeout_s=120)


def _commands(fleet: Fleet, bare: Path) -> dict[str, list[str]]:
    celery = [str(BIN / "celery"), "-b", fleet.url]
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "a bare Typer command": [sys.executable, str(bare), "one"],
        **{f"mistudio {words}": [str(BIN / "mistudio"), *words.split()] for words in OURS},
        "celery status": [*celery, "status"],
        "celery inspect active": [*celery, "inspect", "active"],
        "celery inspect active --timeout 0.1": [*celery, "inspect", "active", "--timeout", "0.1"],
    }


def _milliseconds(command: list[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=environment, cwd="/", capture_output=True, check=True, timeout=60)
    return (time.perf_counter() - began) * 1000
