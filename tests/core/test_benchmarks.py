"""What makes the quick commands quick, as counts: a clock on a busy machine would prove nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.job import Job
from tasks.ledger import Ledger, new_job_id
from tests.conftest import RedisServer

#: What a command that only reads the ledger has no use for; each costs more than the answer itself.
SLOW_TO_IMPORT = {
    "celery",
    "kombu",
    "redis",
    "rich",
    "psutil",
    "pynvml",
    "asyncio",
    "ssl",
    "logging",
    "multiprocessing",
}

PROBE = """
import json, sys
from tasks import wire

trips, exchange = [], wire.Client._exchange

def counted(client, request, count):
    trips.append(count)
    return exchange(client, request, count)

wire.Client._exchange = counted
from mistudio_cli.main import main

code = main(sys.argv[1:])
sys.stderr.write(json.dumps({"code": code, "trips": len(trips), "modules": list(sys.modules)}))
"""


def probe(url: str, folder: Path, *words: str) -> dict[str, Any]:
    """One command in a fresh interpreter: its exit code, its round trips to Redis, what it imported."""
    told = {"CELERY_BROKER_URL": url, "MISTUDIO_HOME": str(folder), "MISTUDIO_CONFIG_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROBE, *words], env={**os.environ, **told}, capture_output=True, text=True
    )
    return json.loads(done.stderr.splitlines()[-1])


#: The clock, then what is read; ids and the records they name are two trips.
TRIPS = {"queue ls": 3, "jobs ls": 3, "workers status": 4}


@pytest.mark.parametrize("jobs", [1, 60])
@pytest.mark.parametrize("command", TRIPS)
def test_a_reading_command_makes_as_few_round_trips_for_many_jobs_as_for_one(
    command: str, jobs: int, ledger: Ledger, session_redis: RedisServer, tmp_path: Path
) -> None:
    submitted = [ledger.submit(Job(new_job_id(), "train", "a", "training", {})) for _ in range(jobs)]
    ledger.claim(submitted[0].id, "w@h", "h")
    seen = probe(session_redis.url, tmp_path, *command.split(), "--json")
    assert (seen["code"], seen["trips"]) == (0, TRIPS[command])


@pytest.mark.parametrize("words", [["queue", "ls", "--json"], ["jobs", "ls", "--json"]])
def test_a_reading_command_imports_nothing_slow(words: list[str], session_redis: RedisServer, tmp_path: Path) -> None:
    seen = probe(session_redis.url, tmp_path, *words)
    assert seen["code"] == 0
    assert {name.split(".")[0] for name in seen["modules"]} & SLOW_TO_IMPORT == set()
