"""Whole commands, from the start of the process to its end, beside Celery's own on the same six workers.

The commands take turns, so that a noisy machine hurts them all alike. The ledger holds 300 jobs, all of them ended, and
the workers are idle. `celery inspect` waits a second for answers unless told otherwise, hence its row with a tenth.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import ground
from mistudio_cli import redis_server
from tasks import wire
from tasks.job import Job, kind_named
from tasks.ledger import Ledger, new_job_id
from tasks.places import Places

ROUNDS, WARM_UP = 11, 1
JOBS = 300

PEER, FLOOR = "celery inspect active", "bare Typer app"


def measure() -> list[dict[str, Any]]:
    """Milliseconds of each command (median, fastest), and its share of the peer's and of the floor's."""
    with ground.home() as places:
        environment = ground.environment(places)
        subprocess.run(
            [ground.MISTUDIO, "workers", "start", "full"], env=environment, check=True, capture_output=True
        )
        url = redis_server.own_url(places)
        _write_jobs(url)
        return _rows(_take_turns(commands(url), environment, places))


def commands(url: str) -> dict[str, list[str]]:
    """The command lines by what they are called."""
    celery, bare = [ground.CELERY, "-b", url], str(Path(__file__).with_name("bare_typer.py"))
    ours = ("--help", "queue ls", "jobs ls", "jobs ls --json", "workers status", "top --once")
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        FLOOR: [sys.executable, bare],
        **{f"mistudio {words}": [ground.MISTUDIO, *words.split()] for words in ours},
        PEER: [*celery, "inspect", "active"],
        f"{PEER} --timeout 0.1": [*celery, "inspect", "active", "--timeout", "0.1"],
        "celery status": [*celery, "status"],
    }


def _take_turns(
    lines: Mapping[str, list[str]], environment: Mapping[str, str], places: Places
) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in lines}
    for turn in range(WARM_UP + ROUNDS):
        for name, line in lines.items():
            took = ground.seconds(line, environment, places.home)
            if turn >= WARM_UP:
                taken[name].append(took * 1000)
    return taken


def _rows(taken: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    medians = {name: ground.median(times) for name, times in taken.items()}
    return [
        {
            "name": name,
            "unit": "ms",
            "median": medians[name],
            "fastest": float(f"{min(times):.3g}"),
            f"of {PEER}": round(medians[name] / medians[PEER], 3),
            f"of {FLOOR}": round(medians[name] / medians[FLOOR], 2),
        }
        for name, times in taken.items()
    ]


def _write_jobs(url: str) -> None:
    """Jobs to list: cancelled as soon as they are written."""
    client = wire.connect(url)
    ledger, kind = Ledger(client), kind_named("describe")
    for number in range(JOBS):
        job = Job(id=new_job_id(), kind=kind.name, queue=kind.queue, params={"artifact": f"saes/none-{number}"})
        ledger.request_cancel(ledger.submit(job).id)
    client.close()


def main() -> None:
    """Print one line a command."""
    for row in measure():
        print(f"{row['name']}: {row['median']} ms, {row[f'of {PEER}']} of {PEER}, {row[f'of {FLOOR}']} of {FLOOR}")


if __name__ == "__main__":
    main()
