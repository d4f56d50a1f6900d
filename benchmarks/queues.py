"""What a million queued jobs cost: each question and each change next to the same with ten, and in memory.

Also how fast jobs are submitted, next to Celery's own messages into the same Redis.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.fleets import BIN
from mistudio_cli.redis import redis_server
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job
from tasks.ledger.client import Ledger
from tasks.ledger.maintenance import MaintenanceSettings
from tasks.messaging.app import make_app
from tasks.paths import Places
from tasks.redis_client.redis_connection import connect

FEW, MANY, AT_ONCE = 10, 1_000_000, 500

#: Messages that Celery sends in one breath; more would only take longer.
CELERY_SENDS = 2000

ROUNDS = 9

#: What a training is asked for with, at its full length.
PARAMS = {
    "model": "EleutherAI/pythia-70m", "dataset": "monology/pile-uncopyrighted", "layer": 3, "arch": "topk", "k": 32,
    "expansion": 8, "lr": 1e-4, "batch": 4096, "tokens": 100_000_000, "seed": 0,
}  # fmt: skip


def measure() -> list[dict[str, Any]]:
    """Milliseconds with ten jobs and with a million, medians of several rounds; bytes of a job; jobs a second."""
    with _ledger() as (ledger, url), tempfile.TemporaryDirectory() as home:
        _submit(ledger, FEW)
        few, empty_bytes = _times(ledger, url, home), _used_bytes(ledger)
        began = time.perf_counter()
        _submit(ledger, MANY - FEW)
        submitted_s = time.perf_counter() - began
        many, full_bytes = _times(ledger, url, home), _used_bytes(ledger)
        ours, theirs = MANY / submitted_s, _celery_sends_per_s(url)
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "unit": "ms",
            "with ten jobs": round(few[name], 2),
            "with a million": round(many[name], 2),
            "ratio": round(many[name] / few[name], 2),
        }
        for name in few
    ]
    rows.append({"name": "memory of a queued job", "unit": "bytes", "ours": (full_bytes - empty_bytes) // MANY})
    rows.append({"name": "submitted in bulk", "unit": "jobs/s", "ours": round(ours), "celery": round(theirs)})
    return rows


def _submit(ledger: Ledger, count: int) -> None:
    for start in range(0, count, AT_ONCE):
        ledger.submit_many([[_job(start + i)] for i in range(min(AT_ONCE, count - start))])


def _job(number: int) -> Job:
    return Job(new_job_id(), "train", f"pythia-70m-3-topk-{number % 1000}", "training", PARAMS, priority=number % 11)


def _times(ledger: Ledger, url: str, home: str) -> dict[str, float]:
    def command(*words: str) -> Callable[[], object]:
        argv = [str(BIN / "mistudio"), "--home", home, "--broker-url", url, *words]
        return lambda: subprocess.run(argv, check=True, capture_output=True)

    def claim_the_next() -> None:
        claim = ledger.claim(ledger.queues.order("training", 1)[0], "w@h", "h")
        assert claim is not None
        ledger.put_back(claim, "measured", loss=False)

    def pause_and_resume() -> None:
        ledger.queues.pause("training")
        ledger.queues.resume("training")

    requested: dict[str, Callable[[], object]] = {
        "mistudio queue ls": command("queue", "ls"),
        "mistudio jobs ls": command("jobs", "ls"),
        "mistudio queue peek training": command("queue", "peek", "training"),
        "submit one job": lambda: ledger.submit(_job(5)),
        "claim the next job and put it back": claim_the_next,
        "pause and resume the queue": pause_and_resume,
        "a round of upkeep": lambda: ledger.maintain(MaintenanceSettings(every_s=0)),
        "find a job by the start of its id": lambda: ledger.find("1"),
    }
    return {name: statistics.median(_milliseconds(ask) for _ in range(ROUNDS)) for name, ask in requested.items()}


def _milliseconds(ask: Callable[[], object]) -> float:
    began = time.perf_counter()
    ask()
    return (time.perf_counter() - began) * 1000


def _used_bytes(ledger: Ledger) -> int:
    lines: Sequence[str] = ledger.client.call("INFO", "memory").splitlines()
    return int(next(line for line in lines if line.startswith("used_memory:")).partition(":")[2])


def _celery_sends_per_s(url: str) -> float:
    """Plain messages by Celery, one after the other on one connection, into a queue that nobody reads."""
    app = make_app(url)
    with app.connection_for_write() as connection:
        app.send_task("mistudio.train", args=["x"], queue="training", connection=connection)
        began = time.perf_counter()
        for _ in range(CELERY_SENDS):
            app.send_task("mistudio.train", args=["x"], queue="training", connection=connection)
        took_s = time.perf_counter() - began
    app.close()
    return CELERY_SENDS / took_s


@contextmanager
def _ledger() -> Iterator[tuple[Ledger, str]]:
    """In a Redis of its own, with the settings that mistudio gives a home's."""
    with tempfile.TemporaryDirectory(prefix="ms-") as folder:
        places = Places(Path(folder), Path(folder) / "store")
        url = redis_server.own_url(places)
        server = redis_server.start(places)
        assert server is not None
        while not redis_server.answers(places):
            time.sleep(0.01)
        ledger = Ledger(connect(url, timeout_s=60))
        try:
            yield ledger, url
        finally:
            ledger.close()
            server.kill()
            server.wait()
